"""What the job loop remembers spares looks and requests, and never hides a change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from tests.ledgers import attempts_of
from tests.unit.hub.world import LEASES, World

from fedgpu_operator.adapters.kube.holding import HoldingKube
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import KubeError
from fedgpu_operator.hub.services.hubstate import load
from fedgpu_operator.hub.views.jobs import job_status
from fedgpu_operator.ports import ResourceType

ACCOUNTS = ResourceType.of(ComputeAccount.info)


class Follower:
    """One job loop that lives on, over a client whose watches a test moves on by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kube = HoldingKube(world.kube.server, KINDS, lambda *_: None)
        self.ledger = CountingLedger(world.ledger)
        self.loop = world.factory(kube=self.kube, ledger=self.ledger).job_loop()

    async def see(self) -> None:
        """All that happened on the hub is known."""
        await self.kube._namespaces.relist()
        for each in self.kube._kinds.values():
            await each.relist()

    async def pass_once(self) -> None:
        self.ledger.calls.clear()
        self.world.kube.writes.clear()
        await self.loop.pass_once()


class CountingLedger:
    """The ledger, with the names of what was asked of it."""

    def __init__(self, ledger: object) -> None:
        self._ledger, self.calls = ledger, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._ledger, name)


@contextmanager
def counting_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the jobs whose status is made."""
    looked: list[str] = []

    def look(facts: Any, *args: Any, **kwargs: Any) -> Any:
        looked.append(facts.job.metadata.name)
        return job_status(facts, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("fedgpu_operator.hub.services.writes.job_status", look)
        yield looked


@pytest.fixture
async def follower(world: World) -> Follower:
    await world.provider("berlin", free={8: 1})
    made = Follower(world)
    await made.see()
    return made


async def test_a_placed_job_costs_three_writes_and_one_event_and_then_nothing(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.world.job("train")
    await follower.see()
    await follower.pass_once()
    assert [(verb, kind) for verb, kind, _ in follower.world.kube.writes] == [
        ("patch", "computejobs"),
        ("status", "computejobs"),
        ("create", "computeleases"),
        ("create", "events"),
    ]
    with counting_looks(monkeypatch) as looked:
        await follower.pass_once()
        await follower.see()
        await follower.pass_once()
    assert (looked, follower.ledger.calls, follower.world.kube.writes) == ([], [], [])


async def test_many_jobs_share_one_commit_and_one_query(follower: Follower) -> None:
    for index in range(6):
        await follower.world.job(f"train-{index}")
    await follower.see()
    await follower.pass_once()
    assert len(follower.world.leases) == 6
    assert follower.ledger.calls.count("histories") == 1
    assert follower.ledger.calls.count("open_many") <= 2
    assert not {"open_attempt", "last_usage", "history"} & set(follower.ledger.calls)


async def test_what_we_made_counts_before_any_watch_tells_of_it(follower: Follower) -> None:
    await follower.world.job("first", gpu={"count": 8})
    await follower.see()
    await follower.pass_once()
    taken = [lease.spec.job.name for lease in follower.world.leases]
    # The second job is seen, the lease of the first one is not: only our own answer tells of it.
    second = await follower.world.job("second", gpu={"count": 8})
    follower.kube._kinds["computejobs"].put(follower.world.kube.objects["computejobs", "team-a", "second"])
    await follower.pass_once()
    assert second.metadata.name == "second"
    assert taken == ["first"]
    assert [lease.spec.job.name for lease in follower.world.leases] == ["first"]
    assert follower.world.says("Placed", "second") == ("False", "InsufficientGPUs")


async def test_a_change_of_the_lease_or_of_the_job_is_seen(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    await follower.world.job("one")
    await follower.world.job("two")
    await follower.see()
    await follower.pass_once()
    await follower.world.runs(follower.world.leases[0], 5)
    await follower.see()
    with counting_looks(monkeypatch) as looked:
        await follower.pass_once()
    assert looked == ["one"]
    assert follower.world.says("Running", "one") == ("True", "Running")
    await follower.world.change("two", suspend=True)
    await follower.see()
    await follower.pass_once()
    assert [lease.spec.desired for lease in follower.world.leases] == ["Run", "Stop"]


async def test_a_deadline_is_kept_though_nothing_changes(follower: Follower) -> None:
    due = (follower.world.clock.now() + timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await follower.world.job("train", deadline=due)
    await follower.see()
    await follower.pass_once()
    follower.world.clock.forward(600)
    await follower.pass_once()
    assert follower.world.lease.spec.desired == "Run"
    follower.world.clock.forward(3 * 3600)
    await follower.pass_once()
    assert (follower.world.lease.spec.desired, follower.world.lease.spec.stop_reason) == ("Stop", "DeadlineExceeded")


async def test_a_new_offer_wakes_all_that_wait(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        await follower.world.job(name, gpu={"count": 16})
    await follower.see()
    await follower.pass_once()
    with counting_looks(monkeypatch) as looked:
        await follower.pass_once()
    assert not looked, "they wait, and nothing moved"
    await follower.world.provider("paris", country="FR", free={16: 2})
    await follower.see()
    await follower.pass_once()
    assert [lease.spec.provider for lease in follower.world.leases] == ["paris", "paris"]


async def test_a_lease_that_is_gone_is_made_again(follower: Follower) -> None:
    await follower.world.job("train")
    await follower.see()
    await follower.pass_once()
    lease = follower.world.lease
    await follower.world.kube.delete(LEASES, lease.metadata.name, lease.metadata.namespace)
    await follower.see()
    await follower.pass_once()
    again = follower.world.lease
    assert (again.metadata.name, again.metadata.uid != lease.metadata.uid) == (lease.metadata.name, True)


async def test_an_attempt_is_not_ended_by_a_job_that_was_read_too_early(follower: Follower) -> None:
    """After a restart the job's status may be older in memory than the lease that it led to."""
    await follower.world.job("train")
    await follower.see()
    young = Follower(follower.world)
    await young.see()
    await follower.pass_once()
    first = follower.world.lease
    await young.pass_once()
    await young.pass_once()
    assert follower.world.lease.metadata.uid == first.metadata.uid
    (attempt,) = await attempts_of(follower.world.ledger, follower.world.see().metadata.uid)
    assert attempt.is_open


async def test_a_job_that_vanished_is_wound_up(follower: Follower) -> None:
    await follower.world.job("train")
    await follower.see()
    await follower.pass_once()
    uid = follower.world.see().metadata.uid
    del follower.world.kube.objects["computejobs", "team-a", "train"]
    await follower.see()
    await follower.pass_once()
    assert follower.world.lease.spec.stop_reason == "JobGone"
    await follower.world.ends(follower.world.lease, "Stopped")
    await follower.see()
    await follower.pass_once()
    (attempt,) = await attempts_of(follower.world.ledger, uid)
    assert attempt.outcome == "JobGone"


async def test_an_attempt_without_a_job_is_wound_up_though_a_pass_fails_on_the_way(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.world.job("train")
    await follower.world.job("zz-stays")
    await follower.see()
    await follower.pass_once()
    await follower.pass_once()
    del follower.world.kube.objects["computejobs", "team-a", "train"]
    await follower.see()

    async def fails() -> object:
        raise KubeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(follower.loop, "_books", fails)
        with pytest.raises(KubeError):
            await follower.pass_once()
    await follower.pass_once()
    assert [lease.spec.stop_reason for lease in follower.world.leases] == ["JobGone", ""]


async def test_a_finished_job_wakes_nobody_after_a_restart(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    await follower.world.job("done")
    await follower.see()
    await follower.pass_once()
    await follower.world.ends(follower.world.lease, gpu_seconds=8)
    await follower.see()
    await follower.pass_once()
    await follower.world.job("waits", gpu={"count": 16})
    young = Follower(follower.world)
    await young.see()
    await young.pass_once()
    await young.see()
    await young.pass_once()
    with counting_looks(monkeypatch) as looked:
        await young.pass_once()
    assert not looked


async def test_a_cap_that_is_raised_wakes_those_that_wait(follower: Follower) -> None:
    await follower.world.account("0x" + "11" * 20, maxPerJob="0.01")
    await follower.world.job("train")
    await follower.see()
    await follower.pass_once()
    assert follower.world.says("Placed")[0] == "False"
    await follower.world.kube.patch(ACCOUNTS, "default", "team-a", {"spec": {"maxPerJob": "100"}})
    await follower.see()
    await follower.pass_once()
    assert follower.world.says("Placed") == ("True", "Placed")


async def test_what_waits_is_compared_by_identity_alone(follower: Follower) -> None:
    await follower.world.job("train", gpu={"count": 16})
    await follower.see()
    await follower.pass_once()
    compared: list[object] = []

    class World:
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return isinstance(other, World)

        def __hash__(self) -> int:
            return 0

    memory, state = follower.loop._memory, await load(follower.kube)
    first = memory.same("x", World())
    assert memory.same("x", World()) is first
    asked = len(compared)
    memory.look(state, follower.world.clock.now(), settled=first)
    assert len(compared) == asked


async def test_what_has_ended_in_the_books_is_not_run_again(
    follower: Follower,
) -> None:
    await follower.world.job("train")
    await follower.see()
    await follower.pass_once()
    lease = follower.world.lease
    usage = follower.loop._memory.usage(follower.world.see().metadata.uid)
    await follower.world.ledger.end_attempt(lease.metadata.name, "Succeeded", follower.world.clock.now())
    assert usage is not None
    assert usage[-1].attempt.is_open, "what is remembered is stale"
    await follower.world.kube.delete(LEASES, lease.metadata.name, lease.metadata.namespace)
    await follower.see()
    await follower.pass_once()
    assert follower.world.leases == []
