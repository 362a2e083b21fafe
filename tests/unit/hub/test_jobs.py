"""The job loop against a hub in memory: what it writes, in which order, and what a crash or a second pass changes."""

from __future__ import annotations

import pytest
from tests.unit.hub.world import JOBS, LEASES, World

from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.domain.books import AttemptRequest
from fedgpu_operator.domain.job import Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import InvalidResourceError, LedgerError


async def _placed(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()


async def test_a_job_goes_to_the_cheapest_provider_and_its_finalizer_comes_before_the_lease(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.provider("dallas", "1.10", country="US")
    await world.job()
    await world.pass_once()
    job, lease = world.see(), world.lease
    assert lease.spec.provider == "dallas"
    assert lease.metadata.name == f"{job.metadata.uid}-1"
    assert lease.metadata.namespace == "fedgpu-provider-dallas"
    assert (lease.spec.price_per_gpu_hour, lease.spec.fencing_epoch, lease.spec.desired) == ("1.10", 1, "Run")
    assert job.status.state == "Placed"
    assert world.says("Placed") == ("True", "Placed")
    assert [c.provider for c in job.status.candidates] == ["dallas", "berlin"]
    writes = [(verb, plural) for verb, plural, _ in world.kube.writes if plural in ("computejobs", "computeleases")]
    first = writes.index(("create", "computeleases"))
    assert ("patch", "computejobs") in writes[:first], "the guarded write on the job begins the chain"
    assert ("Normal", "Placed") in world.events()


async def test_a_second_pass_changes_nothing(world: World) -> None:
    await _placed(world)
    before = dict(world.kube.objects)
    writes = len(world.kube.writes)
    await world.pass_once()
    await world.pass_once()
    assert world.kube.objects == before
    assert len(world.kube.writes) == writes
    assert len(await world.ledger.attempts(world.see().metadata.uid)) == 1


async def test_a_job_that_vanished_during_the_pass_starts_nothing(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()

    def vanish(verb: str, plural: str, name: str) -> None:
        if plural == "computejobs":
            world.kube.objects.pop((JOBS.plural, "team-a", "train"), None)

    world.kube.before = vanish
    await world.pass_once()
    assert world.leases == []
    assert await world.ledger.attempts(job.metadata.uid) == ()


async def test_a_job_made_anew_under_the_same_name_does_not_inherit_the_decision(world: World) -> None:
    await world.provider("berlin")
    old = await world.job()

    def replace(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("patch", "computejobs"):
            world.kube.objects[JOBS.plural, "team-a", "train"]["metadata"]["uid"] = "0" * 36
            world.kube.before = lambda *_: None

    world.kube.before = replace
    await world.pass_once()
    assert world.leases == []
    assert await world.ledger.attempts(old.metadata.uid) == ()


@pytest.mark.parametrize(
    ("verb", "plural"), [("patch", "computejobs"), ("create", "computeleases"), ("status", "computejobs")]
)
async def test_a_crash_between_two_writes_gives_one_single_lease(world: World, verb: str, plural: str) -> None:
    await world.provider("berlin")
    await world.provider("dallas", "1.10", country="US")
    job = await world.job()
    await world.crash(verb, plural)
    world.clock.forward(3)
    # Prices move while the operator is away: what the job's status promised is kept all the same, nothing else is.
    await world.provider("cheaper", "0.10")
    await world.pass_once()
    attempts = await world.ledger.attempts(job.metadata.uid)
    assert [each.outcome for each in attempts] == ([""] if verb != "status" else ["Superseded", ""])
    assert world.lease.metadata.name == attempts[-1].lease_name
    assert world.lease.spec.provider == attempts[-1].terms.provider
    expected = "dallas" if plural == "computeleases" else "cheaper"
    assert world.lease.spec.provider == expected
    placement = world.see().status.placement
    assert placement is not None
    assert placement.provider == expected


async def test_a_lease_object_that_was_lost_is_made_again_and_not_a_new_attempt(world: World) -> None:
    await _placed(world)
    lease = world.lease
    await world.runs(lease, 10)
    await world.pass_once()
    del world.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]
    await world.pass_once()
    again = world.lease
    assert again.metadata.name == lease.metadata.name
    assert again.spec == lease.spec.model_copy(update={"sequence_base": again.spec.sequence_base})
    assert len(await world.ledger.attempts(world.see().metadata.uid)) == 1


async def test_from_running_to_succeeded_with_the_exact_bill(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.job(gpu={"count": 4})
    await world.pass_once()
    world.clock.forward(5)
    await world.runs(world.lease, 20)
    await world.pass_once()
    assert world.see().status.state == "Running"
    assert world.says("Running") == ("True", "Running")
    world.clock.forward(6)
    await world.ends(world.lease, gpu_seconds=44)
    await world.pass_once()
    status = world.see().status
    assert status.state == "Succeeded"
    assert world.says("Complete") == ("True", "Succeeded")
    assert status.usage is not None
    # floor(1_250_000 µUSD/h x 44 GPU-s / 3600 s/h)
    assert (status.usage.gpu_seconds, status.usage.cost) == (44, "0.015277")
    assert status.completion_time is not None
    assert world.metrics.gpu_seconds["berlin"] == 44
    await world.pass_once()
    assert world.metrics.gpu_seconds["berlin"] == 44, "billed once"


async def test_a_member_cannot_bill_more_than_the_hubs_own_clock_saw(world: World) -> None:
    await _placed(world)
    world.clock.forward(10)
    await world.ends(world.lease, gpu_seconds=86_400)
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 10


async def test_a_failed_workload_ends_the_job_with_its_reason(world: World) -> None:
    await _placed(world)
    world.clock.forward(2)
    await world.ends(world.lease, "Failed", "ExitCode", gpu_seconds=2)
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "ExitCode")
    assert world.message("Failed") == "the words"
    assert len(world.leases) == 1


async def test_suspension_stops_the_attempt_and_resuming_gives_the_next_one(world: World) -> None:
    await _placed(world)
    first = world.lease
    world.clock.forward(4)
    await world.runs(first, 4)
    await world.change("train", suspend=True)
    await world.pass_once()
    stopped = world.lease
    assert (stopped.spec.desired, stopped.spec.stop_reason) == ("Stop", "Suspended")
    assert stopped.spec.stop_requested_at == world.clock.now()
    assert world.see().status.state == "Running", "it is not suspended before it has stopped"
    world.clock.forward(2)
    await world.ends(stopped, "Stopped", gpu_seconds=6)
    await world.pass_once()
    assert world.see().status.state == "Suspended"
    assert world.says("Running") == ("False", "Suspended")
    assert world.says("Failed") == ("", "")
    world.clock.forward(100)
    await world.pass_once()
    assert world.see().status.usage is not None
    await world.change("train", suspend=False)
    await world.pass_once()
    newest = world.leases[-1]
    assert (newest.spec.attempt, newest.spec.fencing_epoch, newest.spec.desired) == (2, 2, "Run")
    world.clock.forward(1)
    await world.ends(newest, gpu_seconds=1)
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 7, "six of the first attempt, one of the second"


async def test_a_deleted_job_stops_is_billed_and_only_then_goes(world: World) -> None:
    await _placed(world)
    uid = world.see().metadata.uid
    world.clock.forward(5)
    await world.runs(world.lease, 5)
    await world.delete("train")
    await world.pass_once()
    assert world.exists()
    assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "Deleted")
    world.clock.forward(3)
    await world.ends(world.lease, "Stopped", gpu_seconds=8)
    await world.pass_once()
    assert not world.exists()
    assert world.leases == []
    (attempt,) = await world.ledger.attempts(uid)
    assert attempt.outcome == "Deleted"
    last = await world.ledger.last_usage(attempt.lease_name)
    assert last is not None
    assert last.gpu_seconds == 8


async def test_a_deleted_job_stays_while_its_workload_takes_its_time_to_stop(world: World) -> None:
    await _placed(world)
    await world.runs(world.lease, 1)
    await world.delete("train")
    await world.pass_once()
    await world.runs(world.lease, 2)
    await world.cleared(world.lease)
    await world.pass_once()
    assert world.exists(), "the agent knows of the stop, the workload still runs"
    assert len(world.leases) == 1
    assert len(await world.ledger.open_attempts()) == 1


async def test_the_books_stay_open_until_the_last_reading(world: World) -> None:
    await _placed(world)
    world.clock.forward(5)
    await world.ends(world.lease, gpu_seconds=3, final=False)
    await world.pass_once()
    assert world.see().status.state == "Placed"
    assert len(await world.ledger.open_attempts()) == 1
    await world.ends(world.lease, gpu_seconds=5)
    await world.pass_once()
    status = world.see().status
    assert (status.state, status.usage.gpu_seconds if status.usage else 0) == ("Succeeded", 5)


async def test_a_reading_that_falls_takes_nothing_back_and_stops_nothing(world: World) -> None:
    """An agent that lost its memory reads less than was billed before."""
    await _placed(world)
    for gpu_seconds in (8, 3, 4):
        world.clock.forward(10)
        await world.runs(world.lease, gpu_seconds)
        await world.pass_once()
        usage = world.see().status.usage
        assert usage is not None
        assert usage.gpu_seconds == 8
    await world.ends(world.lease, gpu_seconds=5)
    await world.pass_once()
    assert world.see().status.state == "Succeeded", "the books are closed all the same"
    assert world.metrics.gpu_seconds["berlin"] == 8


async def test_a_finished_jobs_lease_is_stopped_first_so_that_the_agent_clears_the_member(world: World) -> None:
    await _placed(world)
    world.clock.forward(3)
    await world.ends(world.lease, gpu_seconds=3)
    await world.pass_once()
    await world.delete("train")
    await world.pass_once()
    assert world.exists(), "the agent has not answered yet"
    assert world.lease.spec.desired == "Stop"
    await world.cleared(world.lease)
    await world.pass_once()
    assert not world.exists()
    assert world.leases == []


async def test_deleting_a_finished_job_does_not_wait_for_a_member_that_is_away(world: World) -> None:
    await _placed(world)
    await world.ends(world.lease, gpu_seconds=1)
    await world.pass_once()
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    await world.delete("train")
    await world.pass_once()
    assert not world.exists()


async def test_a_pending_job_is_deleted_without_more_ado(world: World) -> None:
    await world.job()
    await world.pass_once()
    await world.delete("train")
    await world.pass_once()
    assert not world.exists()


async def test_dry_run_answers_and_reserves_nothing(world: World) -> None:
    await world.provider("berlin", "1.25")
    job = await world.job(dryRun=True)
    await world.pass_once()
    status = world.see().status
    assert status.state == "DryRun"
    assert world.says("Placed") == ("False", "DryRun")
    assert "would go to berlin" in world.message("Placed")
    assert "at most 1.260416 USD" in world.message("Placed")
    assert world.leases == []
    assert world.see().metadata.finalizers == []
    assert await world.ledger.attempts(job.metadata.uid) == ()
    assert status.placement is None


async def test_dry_run_of_what_nobody_offers_gives_the_histogram(world: World) -> None:
    await world.provider("berlin")
    await world.job(dryRun=True, maxPricePerGPUHour="0.10")
    await world.pass_once()
    assert world.see().status.state == "DryRun"
    assert world.says("Placed") == ("False", "PriceAboveLimit")
    assert "0/1" in world.message("Placed")


async def test_the_deadline_is_asked_for_and_stops_a_running_job(world: World) -> None:
    await world.provider("berlin")
    await world.job(deadline="2026-01-01T12:00:30Z")
    await world.pass_once()
    assert await world.pass_once() == 30
    world.clock.forward(30)
    await world.runs(world.lease, 30)
    await world.pass_once()
    assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "DeadlineExceeded")
    await world.ends(world.lease, "Stopped", gpu_seconds=30)
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "DeadlineExceeded")
    assert len(world.leases) == 1


async def test_a_rejection_by_the_member_is_placed_elsewhere_and_asked_again_after_the_cooldown(world: World) -> None:
    await world.provider("near", "1.00")
    await world.provider("far", "2.00")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", "MemberRejected")
    await world.pass_once()
    second = world.leases[-1]
    assert (second.spec.provider, second.spec.attempt) == ("far", 2)
    refused = {c.provider: c.reason for c in world.see().status.candidates}
    assert refused["near"] == "CoolingDown"
    await world.ends(second, "Failed", "MemberRejected")
    await world.pass_once()
    assert world.says("Placed") == ("False", "CoolingDown")
    assert world.see().status.state == "Pending"
    world.clock.forward(301)
    await world.pass_once()
    assert {lease.spec.attempt for lease in world.leases} == {1, 2, 3}
    third = next(lease for lease in world.leases if lease.spec.attempt == 3)
    assert third.spec.provider == "near"


async def test_even_after_a_hundred_rejections_there_is_a_new_attempt(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()
    for number in range(101):
        request = AttemptRequest(job.metadata.uid, f"after-{number}", "team-a", "train", "away", "x", MicroUSD(1), 1, 9)
        attempt = await world.ledger.open_attempt(request, world.clock.now())
        await world.ledger.record_usage(attempt.lease_name, 1, 3600, world.clock.now())
        await world.ledger.end_attempt(attempt.lease_name, "MemberRejected", world.clock.now())
        world.clock.forward(1)
    await world.pass_once()
    assert world.lease.spec.attempt == 102
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.cost == "0.000101", "all attempts count"


async def test_a_silent_provider_leaves_its_running_job_alone(world: World) -> None:
    await _placed(world)
    await world.runs(world.lease, 1)
    await world.pass_once()
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    await world.provider("other", "0.50")
    world.clock.forward(7200)
    await world.pass_once()
    assert world.see().status.state == "Running"
    assert world.lease.spec.provider == "berlin"
    assert world.lease.spec.desired == "Run"


async def test_nothing_is_placed_while_a_new_provider_has_yet_to_report_but_not_for_long(world: World) -> None:
    await world.provider("dear", "6.04")
    await world.provider("new", "0.80")
    await world.ready("new", "Unknown", "AwaitingReport", state="Pending")
    await world.job()
    loop_began = world.clock.now()
    assert await world.pass_once() == 1.0
    assert world.leases == []
    assert world.says("Placed") == ("False", "Queued")
    world.clock.forward(11)
    assert world.clock.now() > loop_began


async def test_a_policy_that_cannot_be_honoured_blocks_its_namespaces_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The schema lets no such policy through; one written under an older schema could still lie in etcd.
    def unreadable(policy: PlacementPolicy) -> Policy:
        raise InvalidResourceError("UnknownPlace", "spec.placement: no such place")

    monkeypatch.setattr(PlacementPolicy, "to_domain", unreadable)
    await world.provider("berlin")
    await world.namespace("team-b", {"law": "strict"})
    await world.policy("broken", {"law": "strict"}, {"countries": ["DE"]})
    await world.job("free")
    await world.job("bound", namespace="team-b")
    await world.pass_once()
    assert world.says("Placed", "free") == ("True", "Placed")
    assert world.says("Placed", "bound", "team-b") == ("False", "InvalidPolicy")
    assert [lease.spec.job.name for lease in world.leases] == ["free"]


async def test_a_policy_binds_by_namespace_label(world: World) -> None:
    await world.provider("dallas", "1.00", country="US")
    await world.provider("berlin", "2.00", country="DE")
    await world.namespace("team-b", {"law": "gdpr"})
    await world.policy("gdpr", {"law": "gdpr"}, {"groups": ["EU"]})
    await world.job("free")
    await world.job("bound", namespace="team-b")
    await world.pass_once()
    where = {lease.spec.job.name: lease.spec.provider for lease in world.leases}
    assert where == {"free": "dallas", "bound": "berlin"}
    placement = world.see("bound", "team-b").status.placement
    assert placement is not None
    assert placement.policies == ["gdpr@1"]


async def test_without_an_account_nothing_is_funded_where_settlement_is_on(world: World) -> None:
    world.settlement = True
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    assert world.leases == []
    assert world.says("Admitted") == ("False", "Unfunded")
    assert world.says("Placed") == ("False", "Unfunded")
    assert ("Warning", "Unfunded") in world.events()


async def test_the_accounts_cap_per_job_is_a_budget(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.account("0x" + "11" * 20, maxPerJob="1.24")
    await world.job("hour")
    await world.job("short", runLimit="59m")
    await world.pass_once()
    assert world.says("Placed", "hour") == ("False", "OverBudget")
    assert world.says("Placed", "short") == ("True", "Placed")


async def test_a_template_that_cannot_be_rendered_is_refused_and_opens_no_attempt(world: World) -> None:
    await world.provider("berlin")
    env = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
    container = {"name": "main", "image": "example.com/work:1", "env": env}
    job = await world.job(template={"containers": [container]})
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "TemplateRefused")
    assert await world.ledger.attempts(job.metadata.uid) == (), "an open attempt would hold its money for ever"
    await world.delete("train")
    await world.pass_once()
    assert not world.exists()


async def test_a_job_that_names_no_place_on_earth_fails_with_the_field(world: World) -> None:
    await world.provider("berlin")
    await world.job("lost", latency={"from": {"region": "atlantis-1"}, "maxMs": 30})
    await world.job()
    await world.pass_once()
    assert world.says("Failed", "lost") == ("True", "UnknownPlace")
    assert "spec.latency.from" in world.message("Failed", "lost")
    assert world.says("Placed") == ("True", "Placed")


async def test_a_price_beyond_all_measure_stops_nobody_else(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.provider("mad", "999999999999")
    await world.job(gpu={"count": 8}, runLimit="720h")
    await world.pass_once()
    assert world.says("Placed") == ("True", "Placed")


async def test_the_trouble_of_one_job_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.provider("berlin")
    bad = await world.job("bad")
    await world.job("good")
    history = world.ledger.history

    async def broken(*, job_uid: str | None = None, limit: int = 100) -> object:
        if job_uid == bad.metadata.uid:
            raise LedgerError("the books of this one are torn")
        return await history(job_uid=job_uid, limit=limit)

    monkeypatch.setattr(world.ledger, "history", broken)
    await world.pass_once()
    assert world.says("Placed", "good") == ("True", "Placed")
    assert [lease.spec.job.name for lease in world.leases] == ["good"]
