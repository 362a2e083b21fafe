"""Leader election over one Lease that two contenders see: each with a clock of its own, and an API server that may be
away, slow, or of another opinion."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from fedgpu_operator.bootstrap.election import BLIND_SECONDS, LEASE, Elector
from fedgpu_operator.domain.election import Action, Contender, ElectionTimes, LeaseState
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLeaderError,
    UnreachableError,
)
from fedgpu_operator.ports import Kube

Json = dict[str, Any]
TIMES = ElectionTimes()


class Server:
    """The one Lease, as an API server keeps it; `fails` is raised, and `acts` is done, before the next request."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.away = False
        self.fails: list[Exception] = []
        self.loses_answers = 0
        self.writes: list[Json] = []
        self._version = 0

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""

    async def get(self, _kind: object, name: str, _namespace: str) -> Json:
        self._answer()
        if self.lease is None:
            raise NotFoundError(f"404 {name}", status=404)
        return copy.deepcopy(self.lease)

    async def create(self, _kind: object, obj: Json) -> Json:
        self._answer()
        if self.lease is not None:
            raise AlreadyExistsError("409", status=409)
        return self._store(obj)

    async def patch(self, _kind: object, name: str, _namespace: str, patch: Json) -> Json:
        self._answer()
        if self.lease is None:
            raise NotFoundError(f"404 {name}", status=404)
        if patch["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("409", status=409)
        return self._store({**self.lease, "spec": {**self.lease["spec"], **patch["spec"]}})

    def touch(self) -> None:
        """Somebody annotates the Lease: it is another version, held as before."""
        assert self.lease is not None
        self._store(self.lease)

    def _store(self, obj: Json) -> Json:
        self._version += 1
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.writes.append(self.lease["spec"])
        if self.loses_answers:
            self.loses_answers -= 1
            raise UnreachableError("no answer")
        return copy.deepcopy(self.lease)

    def _answer(self) -> None:
        if self.away:
            raise UnreachableError("connection refused", sent=False)
        if self.fails:
            raise self.fails.pop(0)


class World:
    """A server and a time that passes as contenders sleep; `skew` sets the wall clock of one apart."""

    def __init__(self) -> None:
        self.server = Server()
        self.now = 1000.0
        self.during: Callable[[float], None] = lambda _: None
        """Called in each sleep, before its time has passed."""

    def elector(self, name: str, *, skew: float = 0.0) -> Elector:
        class Wall:
            def now(_) -> datetime:  # noqa: N805
                return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now + skew)

        async def sleep(seconds: float) -> None:
            self.during(seconds)
            self.now += seconds
            await asyncio.sleep(0)

        return Elector(
            cast("Kube", self.server), "fedgpu-system", name, seconds=lambda: self.now, clock=Wall(), sleep=sleep
        )


@pytest.fixture
def world() -> World:
    return World()


def after(world: World, seconds: float, act: Callable[[], None]) -> None:
    """Do it once in the first sleep that begins so much later."""
    due = world.now + seconds

    def during(_: float) -> None:
        if world.now >= due:
            world.during = lambda _: None
            act()

    world.during = during


# ---------------------------------------------------------------- the pure core


def held(by: str, renewed: str = "1", duration: float = 12.0) -> LeaseState:
    return LeaseState(by, duration, "0", renewed, 0)


def test_a_lease_expires_by_what_the_contender_saw_and_not_by_what_is_written() -> None:
    me = Contender("b", TIMES)
    # The first look says nothing about when it was renewed, however old its timestamps are.
    assert me.observe(held("a", "1970-01-01T00:00:00.000000Z"), 100.0) == (Action.WAIT, 12.0)
    assert me.observe(held("a", "1970-01-01T00:00:00.000000Z"), 111.0) == (Action.WAIT, 1.0)
    assert me.observe(held("a", "2199-01-01T00:00:00.000000Z"), 111.5) == (Action.WAIT, 12.0)
    assert me.observe(held("a", "2199-01-01T00:00:00.000000Z"), 123.5) == (Action.TAKE, 0.0)


def test_a_free_lease_is_taken_and_ones_own_is_renewed() -> None:
    me = Contender("b", TIMES)
    assert me.observe(None, 0.0)[0] is Action.CREATE
    assert me.observe(held(""), 1.0)[0] is Action.TAKE
    assert me.observe(held("b"), 2.0)[0] is Action.RENEW


def test_what_the_holder_promised_counts_and_not_what_oneself_would() -> None:
    me = Contender("b", TIMES)
    assert me.observe(held("a", duration=60), 0.0) == (Action.WAIT, 60.0)
    assert me.observe(held("a", duration=60), 59.0)[0] is Action.WAIT
    assert Contender("b", TIMES).observe(held("a", duration=0), 0.0) == (Action.WAIT, TIMES.lease)


def test_a_lease_deleted_by_hand_still_binds_who_saw_it() -> None:
    me = Contender("b", TIMES)
    me.observe(held("a"), 0.0)
    assert me.observe(None, 5.0) == (Action.WAIT, 7.0)
    assert me.observe(None, 12.0)[0] is Action.CREATE


# ---------------------------------------------------------------- taking it


async def test_one_of_two_leads_and_the_other_takes_over_when_it_is_gone(world: World) -> None:
    one, two = world.elector("one"), world.elector("two")
    await one.acquire()
    one.check()
    begun = world.now
    await two.acquire()
    assert not one.leads, "the first stopped acting before the second began"
    assert world.server.holder == "two"
    assert TIMES.lease <= world.now - begun <= TIMES.lease + TIMES.retry
    assert world.server.lease is not None
    assert world.server.lease["spec"]["leaseTransitions"] == 1
    with pytest.raises(NotLeaderError, match=LEASE):
        one.check()


@pytest.mark.parametrize("skew", [-86400.0, -5.0, 5.0, 86400.0])
async def test_clocks_that_differ_change_nothing(world: World, skew: float) -> None:
    one, two = world.elector("one", skew=skew), world.elector("two")
    await one.acquire()
    begun = world.now
    await two.acquire()
    assert TIMES.lease <= world.now - begun <= TIMES.lease + TIMES.retry


async def test_a_lease_that_is_given_back_is_taken_at_the_next_look(world: World) -> None:
    one, two = world.elector("one"), world.elector("two")
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    await asyncio.sleep(0)
    begun = world.now
    await one.release()
    assert not one.leads
    await waiting
    assert world.now - begun <= TIMES.retry


async def test_of_two_that_reach_for_a_free_lease_one_gets_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = world.elector("one"), world.elector("two")
    read = world.server.get

    async def both_read_before_one_writes(*given: Any) -> Json:
        try:
            return await read(*given)
        finally:
            await asyncio.sleep(0)

    monkeypatch.setattr(world.server, "get", both_read_before_one_writes)
    tasks = [asyncio.create_task(each.acquire()) for each in (one, two)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [one.leads, two.leads].count(True) == 1
    assert len(world.server.writes) == 1
    for task in tasks:
        task.cancel()


async def test_an_answer_that_is_lost_costs_another_look_and_no_doubt(world: World) -> None:
    world.server.loses_answers = 1
    one = world.elector("one")
    await one.acquire()
    assert one.leads
    assert len(world.server.writes) == 2


async def test_a_standby_waits_for_an_api_server_and_is_not_ready_meanwhile(world: World) -> None:
    one = world.elector("one")
    assert "could not be read" in one.trouble()
    world.server.away = True
    after(world, 2 * BLIND_SECONDS, lambda: setattr(world.server, "away", False))
    await one.acquire()
    assert one.trouble() == ""
    world.now += BLIND_SECONDS + 1
    assert one.trouble()


async def test_a_right_that_is_missing_is_named(world: World) -> None:
    world.server.fails = [ForbiddenError("403: leases.coordination.k8s.io", status=403)]
    with pytest.raises(ConfigurationError, match=r"leader election: 403.*rbac\.md"):
        await world.elector("one").acquire()


# ---------------------------------------------------------------- keeping it


async def test_it_is_renewed_every_two_seconds_without_being_read(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    after(world, 20, lambda: setattr(world.server, "away", True))
    begun = world.now
    why = await one.keep()
    assert "last renewed" in why
    assert len(world.server.writes) == 11
    assert 20 + TIMES.renew - TIMES.retry <= world.now - begun <= 20 + TIMES.renew + TIMES.retry


async def test_an_api_server_that_is_away_for_less_than_the_deadline_costs_nothing(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    moments = {4.0: True, 9.0: False, 60.0: True}
    begun = world.now

    def during(_: float) -> None:
        for moment in [each for each in moments if world.now - begun >= each]:
            world.server.away = moments.pop(moment)

    world.during = during
    await one.keep()
    assert world.now - begun >= 60


async def test_between_the_deadline_and_the_end_nothing_may_leave(world: World) -> None:
    """As after SIGSTOP: time has passed and no task of this process ran."""
    one = world.elector("one")
    await one.acquire()
    world.now += TIMES.renew
    with pytest.raises(NotLeaderError):
        one.check()
    requests = len(world.server.writes)
    assert "last renewed" in await one.keep()
    assert len(world.server.writes) == requests, "it asks nobody: whatever the answer, it may not go on"


async def test_a_renewal_counts_from_when_it_was_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer may lie in a socket for as long as the process is stopped."""
    one = world.elector("one")
    await one.acquire()
    patch = world.server.patch

    async def slow(*given: Any) -> Json:
        answer = await patch(*given)
        world.now += 60
        return answer

    monkeypatch.setattr(world.server, "patch", slow)
    assert "last renewed" in await one.keep()
    assert not one.leads


async def test_a_lease_that_another_holds_is_lost_at_once(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    assert world.server.lease is not None
    world.server.lease["spec"]["holderIdentity"] = "two"
    world.server.touch()
    begun = world.now
    assert await one.keep() == "it is held by two"
    assert not one.leads
    assert world.now - begun <= TIMES.retry + 1
    assert world.server.holder == "two"


async def test_a_stranger_s_note_on_the_lease_is_a_conflict_and_no_loss(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    moments = [3.0, 50.0]
    begun = world.now

    def during(_: float) -> None:
        if moments and world.now - begun >= moments[0]:
            if moments.pop(0) == 3.0:
                world.server.touch()
            else:
                world.server.away = True

    world.during = during
    await one.keep()
    assert world.now - begun >= 50


async def test_a_lease_that_was_deleted_is_made_again(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    world.server.lease = None
    after(world, 30, lambda: setattr(world.server, "away", True))
    begun = world.now
    await one.keep()
    assert world.now - begun >= 30


# ---------------------------------------------------------------- giving it back


async def test_what_was_lost_is_not_given_back(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    world.now += TIMES.lease
    requests = len(world.server.writes)
    await one.release()
    assert len(world.server.writes) == requests


async def test_a_release_that_fails_is_no_error(world: World) -> None:
    one = world.elector("one")
    await one.acquire()
    world.server.away = True
    await one.release()
    assert not one.leads


async def test_cancelling_ends_it_and_leaves_no_task(world: World) -> None:
    one, two = world.elector("one"), world.elector("two")
    await one.acquire()
    tasks = [asyncio.create_task(one.keep()), asyncio.create_task(two.acquire())]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await one.release()
    assert world.server.holder == ""
