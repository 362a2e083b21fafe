"""The writes of one lease: guarded, in order, and only when there is something to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.lease import LeaseReconciler, Sight
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.workload import HUB_LABEL, Identity, Workloads
from fedgpu_operator.api.base import JSONObject, find
from fedgpu_operator.api.computelease import TENANT_LABEL, ComputeLease
from fedgpu_operator.errors import ConflictError, ForbiddenError, NotFoundError, RejectedError, UnreachableError
from fedgpu_operator.ports import Listed, ResourceType, WatchEvent

RUNNING = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("True", "Running")}


def merged(old: JSONObject, patch: JSONObject) -> JSONObject:
    """RFC 7396."""
    new = {key: value for key, value in old.items() if key not in patch}
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            new[key] = merged(old[key], value)
        elif value is not None:
            new[key] = value
    return new


class FakeKube:
    """Records the calls of both clusters in one order; raises what a test planned for a call."""

    def __init__(self, lease: ComputeLease) -> None:
        self.lease = lease.model_dump(mode="json", by_alias=True)
        self.calls: list[str] = []
        self.patches: list[JSONObject] = []
        self.annotated: list[JSONObject] = []
        self.plan: dict[str, Exception] = {}
        self.events: list[JSONObject] = []
        self.namespace: JSONObject | None = None
        self.asked = ""

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.plan:
            raise self.plan.pop(call)

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        self._note(f"get {kind.kind}")
        if kind.kind == "ComputeLease":
            return self.lease
        if kind.kind == "Namespace" and self.namespace is not None:
            return self.namespace
        raise NotFoundError(name)

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        self._note(f"list {kind.kind}")
        if kind.kind == "Event":
            self.asked = fields
        return (self.events if kind.kind == "Event" else []), "1"

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        raise NotImplementedError

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        self._note(f"create {kind.kind}")
        return {**obj, "metadata": {**obj["metadata"], "uid": "job-uid"}}

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        raise NotImplementedError

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        self.annotated.append(patch["metadata"])
        self._note(f"patch {kind.kind}")
        return {}

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        self._note("status")
        self.patches.append(patch)
        version = str(int(self.lease["metadata"]["resourceVersion"]) + 1)
        self.lease = {**self.lease, "status": merged(self.lease["status"], patch["status"])}
        self.lease["metadata"] = {**self.lease["metadata"], "resourceVersion": version}
        return self.lease

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        self._note(f"delete {kind.kind} {uid}")

    async def server_version(self) -> str:
        return "v1"

    async def close(self) -> None:
        return


class Now:
    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


class Bench:
    def __init__(self, make: Any, lease: ComputeLease) -> None:
        self.kube, self.clock, self.lease = FakeKube(lease), Now(make.now), lease
        workloads = Workloads(self.kube, Identity("hub", "prov"))
        settings = AgentSettings("fedgpu-provider-prov", "hub", usage_interval=15)
        self.reconciler = LeaseReconciler(self.kube, workloads, settings, self.clock)

    async def step(
        self, *, job: JSONObject | None = None, pods: tuple[JSONObject, ...] = (), silence: float = 0.0
    ) -> list[str]:
        """One pass; returns the calls it made."""
        begun = len(self.kube.calls)
        name = self.lease.metadata.name
        sight = Sight(jobs={name: job} if job else {}, pods={name: pods})
        await self.reconciler.reconcile(self.lease, sight, newest_fencing_epoch=0, silence=silence)
        self.lease = ComputeLease.parse(self.kube.lease)
        return self.kube.calls[begun:]

    def reason(self, kind: str) -> str:
        condition = find(self.lease.status.conditions, kind)
        return condition.reason if condition else ""


async def test_a_dispatch_asks_the_hub_once_more_and_says_so_before_and_after(make: Any) -> None:
    bench = Bench(make, make.lease())
    calls = ["get ComputeLease", "status", "get Namespace", "create Namespace", "create Job", "status"]
    assert await bench.step() == calls
    first, second = bench.kube.patches
    assert first["metadata"] == {"uid": "lease-uid", "resourceVersion": "5"}
    assert second["metadata"] == {"uid": "lease-uid", "resourceVersion": "6"}
    assert bench.lease.status.workload_uid == "job-uid"
    assert bench.reason("Accepted") == "Accepted"


async def test_a_lease_that_is_gone_starts_nothing(make: Any) -> None:
    bench = Bench(make, make.lease())
    bench.kube.plan["get ComputeLease"] = NotFoundError("gone")
    with pytest.raises(NotFoundError):
        await bench.step()
    assert bench.kube.calls == ["get ComputeLease"]


@pytest.mark.parametrize(
    "now",
    [
        {"spec": {"desired": "Stop"}},
        {"status": {"state": "Stopped"}},
        {"status": {"workloadUid": "job-uid"}},
        {"metadata": {"uid": "another"}},
    ],
)
async def test_a_lease_that_changed_since_it_was_read_starts_nothing(make: Any, now: JSONObject) -> None:
    """An agent that slept, or that reads late, finds out before it starts what was stopped, ended or started."""
    bench = Bench(make, make.lease())
    bench.kube.lease = merged(bench.kube.lease, now)
    with pytest.raises(ConflictError):
        await bench.step()
    assert bench.kube.calls == ["get ComputeLease"]


async def test_a_second_workload_in_a_namespace_does_not_look_at_it_again(make: Any) -> None:
    bench = Bench(make, make.lease())
    await bench.step()
    bench.lease = make.lease()
    bench.kube.lease = bench.lease.model_dump(mode="json", by_alias=True)
    assert await bench.step() == ["get ComputeLease", "status", "create Job", "status"]


async def test_a_namespace_that_went_since_is_made_again(make: Any) -> None:
    bench = Bench(make, make.lease())
    await bench.step()
    bench.lease = make.lease()
    bench.kube.lease = bench.lease.model_dump(mode="json", by_alias=True)
    bench.kube.plan["create Job"] = NotFoundError("no such namespace", status=404)
    calls = ["get ComputeLease", "status", "create Job", "get Namespace", "create Namespace", "create Job", "status"]
    assert await bench.step() == calls
    assert bench.lease.status.workload_uid == "job-uid"


async def test_a_lease_ends_only_after_the_member_itself_was_asked(make: Any) -> None:
    """What is followed may be late: a Job that is not seen is not yet one that vanished."""
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    asked: list[str] = []

    async def look(name: str) -> Sight:
        asked.append(name)
        return Sight(jobs={name: make.member_job()}, pods={name: (make.pod(),)})

    await bench.reconciler.reconcile(bench.lease, Sight(), newest_fencing_epoch=0, look=look)
    assert asked == [bench.lease.metadata.name]
    assert ComputeLease.parse(bench.kube.lease).status.state == "Running"

    async def nothing(name: str) -> Sight:
        asked.append(name)
        return Sight()

    bench.lease = ComputeLease.parse(bench.kube.lease)
    await bench.reconciler.reconcile(bench.lease, Sight(), newest_fencing_epoch=0, look=nothing)
    assert ComputeLease.parse(bench.kube.lease).status.state == "Failed"


async def test_a_removal_begins_with_a_guarded_write(make: Any) -> None:
    bench = Bench(make, make.lease(desired="Stop", verdicts=RUNNING, workload_uid="job-uid"))
    assert await bench.step(job=make.member_job(), pods=(make.pod(),)) == ["status", "delete Job job-uid"]
    going = make.member_job()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert await bench.step(job=going, pods=(make.pod(deleting=True),)) == []


@pytest.mark.parametrize(
    "error", [UnreachableError("no connection", sent=False), UnreachableError("too many requests", status=429)]
)
async def test_a_member_that_was_certainly_not_reached_is_tried_again(make: Any, error: UnreachableError) -> None:
    bench = Bench(make, make.lease())
    bench.kube.plan["create Job"] = error
    with pytest.raises(UnreachableError):
        await bench.step()
    bench.lease = ComputeLease.parse(bench.kube.lease)
    assert bench.lease.status.state == "Pending"
    assert "create Job" in await bench.step()


@pytest.mark.parametrize("there", [True, False])
async def test_a_start_whose_answer_was_lost_is_never_tried_again(make: Any, there: bool) -> None:
    """It may have been done, and undone by the member's owner before anybody saw it."""
    bench = Bench(make, make.lease())
    bench.kube.plan["create Job"] = UnreachableError("timeout")
    with pytest.raises(UnreachableError):
        await bench.step()
    bench.lease = ComputeLease.parse(bench.kube.lease)
    assert await bench.step() == [], "a server may still be at it"
    if there:
        await bench.step(job=make.member_job(), pods=(make.pod(),))
        assert bench.lease.status.workload_uid == "job-uid"
        return
    bench.clock.at += timedelta(seconds=20)
    assert await bench.step() == ["status"]
    assert bench.reason("Failed") == "WorkloadLost"


@pytest.mark.parametrize("desired", ["Run", "Stop"])
async def test_a_lease_whose_events_cannot_be_read_is_metered_and_stopped_all_the_same(make: Any, desired: str) -> None:
    lease = make.lease(replicas=2, desired=desired, verdicts=RUNNING, since=3600, workload_uid="job-uid")
    bench = Bench(make, lease)
    bench.kube.plan["list Event"] = ForbiddenError("no", status=403)
    calls = await bench.step(job=make.member_job(), pods=(make.pod(ago=10),))
    assert calls == (
        ["list Event", "status", "delete Job job-uid"] if desired == "Run" else ["status", "delete Job job-uid"]
    )
    assert bench.lease.status.usage.gpu_seconds == 10


async def test_nothing_starts_in_a_namespace_that_the_member_deletes(make: Any) -> None:
    bench = Bench(make, make.lease())
    labels = {HUB_LABEL: "hub", TENANT_LABEL: bench.lease.spec.job.namespace}
    bench.kube.namespace = {"metadata": {"labels": labels, "deletionTimestamp": "2026-01-01T12:00:00Z"}}
    assert "create Job" not in await bench.step()
    assert (bench.lease.status.state, bench.reason("Accepted")) == ("Failed", "NamespaceTerminating")


async def test_only_the_members_own_refusal_is_a_rejection(make: Any) -> None:
    for error in (RejectedError("policy", status=422), ForbiddenError("policy", status=403)):
        bench = Bench(make, make.lease())
        bench.kube.plan["create Job"] = error
        await bench.step()
        assert (bench.lease.status.state, bench.reason("Accepted")) == ("Failed", "CreateRefused")
        assert bench.reason("Failed") == "MemberRejected"
    bench = Bench(make, make.lease())
    bench.kube.plan["create Job"] = ForbiddenError("expired", status=401)
    with pytest.raises(ForbiddenError):
        await bench.step()


async def test_an_older_kubelet_is_asked_why_the_image_does_not_come(make: Any) -> None:
    """Between two tries its status says only that it waits; the newest Event that gives a cause does."""
    accepted = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("False", "Waiting")}
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "work:1"'}
    pods = (make.pod(phase="Pending", waiting=waiting),)
    early = Bench(make, make.lease(verdicts=accepted, since=119, workload_uid="job-uid"))
    assert "list Event" not in await early.step(job=make.member_job(), pods=pods)
    bench = Bench(make, make.lease(verdicts=accepted, since=120, workload_uid="job-uid"))
    bench.kube.events = [
        {"message": "Failed to pull image: not found", "lastTimestamp": "2026-01-01T11:58:00Z"},
        {"message": "Failed to pull image: 429 Too Many Requests", "lastTimestamp": "2026-01-01T11:59:00Z"},
        {"message": "Error: ImagePullBackOff", "lastTimestamp": "2026-01-01T11:59:30Z"},
    ]
    assert "list Event" in await bench.step(job=make.member_job(), pods=pods)
    assert bench.kube.asked == "involvedObject.uid=pod-uid,type=Warning"
    assert bench.reason("Failed") == "ImageUnavailable"
    with_cause = {**waiting, "message": 'Back-off pulling image "work:1": ErrImagePull: not found'}
    named = Bench(make, make.lease(verdicts=accepted, since=120, workload_uid="job-uid"))
    calls = await named.step(job=make.member_job(), pods=(make.pod(phase="Pending", waiting=with_cause),))
    assert "list Event" not in calls
    assert named.reason("Failed") == "ImagePullFailed"


async def test_a_member_that_makes_no_pods_is_asked_why(make: Any) -> None:
    accepted = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("False", "Waiting")}
    bench = Bench(make, make.lease(verdicts=accepted, since=30, workload_uid="job-uid"))
    bench.kube.events = [{"message": "exceeded quota: gpus", "lastTimestamp": "2026-01-01T11:59:00Z"}]
    assert "list Event" in await bench.step(job=make.member_job())
    assert bench.kube.asked == "involvedObject.uid=job-uid,type=Warning"
    (failed,) = [each for each in bench.lease.status.conditions if each.type == "Failed"]
    assert (failed.reason, failed.message) == ("MemberRejected", "exceeded quota: gpus")


async def test_a_quiet_lease_is_not_written(make: Any) -> None:
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    pods = (make.pod(ago=10),)
    assert await bench.step(job=make.member_job(), pods=pods) == ["status"]
    bench.clock.at += timedelta(seconds=14)
    assert await bench.step(job=make.member_job(), pods=pods) == []
    assert bench.lease.status.usage.gpu_seconds == 10
    bench.clock.at += timedelta(seconds=1)
    assert await bench.step(job=make.member_job(), pods=pods) == ["status"]
    assert bench.lease.status.usage.gpu_seconds == 25


async def test_an_old_lease_writes_its_usage_seldom_and_all_of_it_when_it_ends(make: Any) -> None:
    lease = make.lease(verdicts=RUNNING, workload_uid="job-uid")
    meta = lease.metadata.model_copy(update={"creation_timestamp": make.now - timedelta(days=1)})
    spec = lease.spec.model_copy(update={"run_limit_seconds": 30 * 86400})
    bench = Bench(make, lease.model_copy(update={"metadata": meta, "spec": spec}))
    pods, job = (make.pod(ago=10),), make.member_job()
    assert await bench.step(job=job, pods=pods) == ["status"]
    for _ in range(19):
        bench.clock.at += timedelta(seconds=15)
        assert await bench.step(job=job, pods=pods) == []
    bench.clock.at += timedelta(seconds=15)
    assert await bench.step(job=job, pods=pods) == ["status"]
    assert bench.lease.status.usage.gpu_seconds == 10 + 300
    bench.clock.at += timedelta(seconds=15)
    ended = make.pod(ago=10, exit_code=0, phase="Succeeded")
    state = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    state["finishedAt"] = (bench.clock.at - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await bench.step(job=job, pods=(ended,)) == ["status"], "an end is news, whenever the last reading was"
    assert bench.lease.status.usage.gpu_seconds == 10 + 310


async def test_a_member_that_falls_silent_has_its_last_reading_written(make: Any) -> None:
    """It may never answer again: what the agent alone remembers is not its owner's loss."""
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    pods, job = (make.pod(ago=10),), make.member_job()
    await bench.step(job=job, pods=pods)
    bench.clock.at += timedelta(seconds=9)
    assert await bench.step(job=job, pods=pods) == []
    assert bench.lease.status.usage.gpu_seconds == 10
    await bench.reconciler.write_remembered(bench.lease)
    bench.lease = ComputeLease.parse(bench.kube.lease)
    assert bench.lease.status.usage.gpu_seconds == 19
    assert bench.kube.patches[-1]["metadata"] == {"uid": "lease-uid", "resourceVersion": "6"}, "guarded as any other"
    before = len(bench.kube.calls)
    await bench.reconciler.write_remembered(bench.lease)
    assert len(bench.kube.calls) == before, "once"


async def test_a_silent_member_is_metered_a_moment_past_its_last_word(make: Any) -> None:
    """Usage never falls again, so a pod that ended unseen must not be billed for until the watch is given up."""
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    job, pods = make.member_job(), (make.pod(ago=5),)
    await bench.step(job=job, pods=pods)
    bench.clock.at += timedelta(seconds=40)
    await bench.step(job=job, pods=pods, silence=40)
    assert bench.lease.status.usage.gpu_seconds == 5 + 15
    bench.clock.at += timedelta(seconds=5)
    assert await bench.step(job=job, pods=pods, silence=45) == []
    assert bench.lease.status.usage.gpu_seconds == 5 + 15
    await bench.step(job=job, pods=pods)
    assert bench.lease.status.usage.gpu_seconds == 5 + 45, "nothing is lost once it is known to have run on"
    assert await bench.step(job=job, pods=pods, silence=45) == [], "nor taken back, nor counted twice"
    assert bench.lease.status.usage.gpu_seconds == 5 + 45


async def test_usage_that_was_not_written_is_not_lost(make: Any) -> None:
    """A pod that vanishes between two writes keeps the newest reading, which only the agent's memory had."""
    bench = Bench(make, make.lease(desired="Run", verdicts=RUNNING, workload_uid="job-uid"))
    pods = (make.pod(ago=10),)
    await bench.step(job=make.member_job(), pods=pods)
    bench.clock.at += timedelta(seconds=9)
    await bench.step(job=make.member_job(), pods=pods)
    bench.clock.at += timedelta(seconds=1)
    await bench.step()
    assert bench.lease.status.state == "Failed"
    assert bench.lease.status.usage.gpu_seconds == 19
    assert bench.lease.status.usage.final


async def test_an_ended_lease_is_never_written_again(make: Any) -> None:
    bench = Bench(make, make.lease(desired="Stop", verdicts={"Complete": ConditionState("True", "Succeeded")}))
    job = make.member_job(("Complete", ""))
    assert await bench.step(job=job, pods=(make.pod(phase="Succeeded", exit_code=0),)) == ["delete Job job-uid"]


async def test_an_ended_lease_is_cleared_after_its_retention_and_the_hub_hears_of_it_last(make: Any) -> None:
    bench = Bench(make, make.lease(desired="Stop", verdicts={"Complete": ConditionState("True", "Succeeded")}))
    pods = (make.pod(phase="Succeeded", exit_code=0),)
    assert await bench.step(job=make.member_job(("Complete", "")), pods=pods) == ["delete Job job-uid"]
    assert await bench.step(pods=pods) == [], "its pods are still there"
    assert await bench.step() == ["status"]
    assert bench.lease.status.observed_generation == bench.lease.metadata.generation


async def test_an_end_of_its_own_while_the_stop_is_on_its_way_is_cleared_only_without_its_job(make: Any) -> None:
    bench = Bench(make, make.lease(desired="Stop", verdicts=RUNNING, workload_uid="job-uid"))
    job, pods = make.member_job(("Complete", "")), (make.pod(phase="Succeeded", exit_code=0),)
    assert await bench.step(job=job, pods=pods) == ["status"]
    status, generation = bench.lease.status, bench.lease.metadata.generation
    assert (status.state, status.usage.final) == ("Succeeded", True)
    assert status.observed_generation < generation, "the hub must not delete the lease while its Job is there"
    assert await bench.step(job=job, pods=pods) == ["delete Job job-uid"]
    assert await bench.step() == ["status"]
    assert bench.lease.status.observed_generation == generation


async def test_a_job_that_took_the_name_later_is_not_ours(make: Any) -> None:
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid"))
    assert await bench.step(job=make.member_job(uid="another")) == ["status"]
    assert bench.reason("Failed") == "WorkloadVanished"


async def test_an_adopted_job_is_recorded(make: Any) -> None:
    bench = Bench(make, make.lease(verdicts={"Accepted": ConditionState("Unknown", "Dispatching")}))
    assert await bench.step(job=make.member_job(), pods=(make.pod(),)) == ["status"]
    assert bench.lease.status.workload_uid == "job-uid"


def asked(make: Any, *pods: JSONObject, **lease: Any) -> tuple[Bench, JSONObject, tuple[JSONObject, ...]]:
    """A running lease whose workload is to save its work."""
    bench = Bench(make, make.lease(verdicts=RUNNING, workload_uid="job-uid", **lease))
    spec = bench.lease.spec.model_copy(update={"checkpoint_requested_at": make.now})
    bench.lease = bench.lease.model_copy(update={"spec": spec})
    bench.kube.lease = bench.lease.model_dump(mode="json", by_alias=True)
    return bench, make.member_job(), pods


def annotated(obj: JSONObject) -> JSONObject:
    stamp = {"fedgpu.dev/checkpoint-requested": "2026-01-01T12:00:00Z"}
    return {**obj, "metadata": {**obj["metadata"], "annotations": stamp}}


async def test_a_checkpoint_is_asked_of_the_job_and_its_live_pods_once(make: Any) -> None:
    bench, job, pods = asked(make, make.pod(uid="a"), make.pod(uid="b", phase="Succeeded", exit_code=0))
    assert await bench.step(job=job, pods=pods) == ["status", "patch Job", "patch Pod"]
    stamp = {"fedgpu.dev/checkpoint-requested": "2026-01-01T12:00:00Z"}
    assert bench.kube.annotated == [{"uid": uid, "annotations": stamp} for uid in ("job-uid", "a")]
    assert await bench.step(job=annotated(job), pods=tuple(map(annotated, pods))) == []
    older = annotated(job)
    older["metadata"]["annotations"] = {"fedgpu.dev/checkpoint-requested": "2025-12-31T12:00:00Z"}
    assert await bench.step(job=older, pods=tuple(map(annotated, pods))) == ["patch Job"]


@pytest.mark.parametrize(
    "error", [ForbiddenError("no", status=403), RejectedError("no", status=422), ConflictError("no"), NotFoundError("")]
)
async def test_a_member_that_lets_nobody_annotate_keeps_its_lease(
    make: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bench, job, pods = asked(make, make.pod())
    bench.kube.plan = {"patch Job": error, "patch Pod": error}
    assert await bench.step(job=job, pods=pods) == ["status", "patch Job", "patch Pod"]
    assert bench.lease.status.state == "Running"
    bench.kube.plan = {"patch Job": error, "patch Pod": error}
    await bench.step(job=job, pods=pods)
    said = [record for record in caplog.records if "checkpoint" in record.getMessage()]
    assert len(said) == (2 if isinstance(error, (ForbiddenError, RejectedError)) else 0), "once for each object"


async def test_a_member_that_does_not_answer_is_asked_again(make: Any) -> None:
    bench, job, pods = asked(make, make.pod())
    bench.kube.plan["patch Pod"] = UnreachableError("timeout")
    with pytest.raises(UnreachableError):
        await bench.step(job=job, pods=pods)
    bench.lease = ComputeLease.parse(bench.kube.lease)
    assert await bench.step(job=annotated(job), pods=pods) == ["patch Pod"]


async def test_what_is_stopping_is_asked_nothing(make: Any) -> None:
    bench, job, pods = asked(make, make.pod(), desired="Stop")
    assert await bench.step(job=job, pods=pods) == ["status", "delete Job job-uid"]
