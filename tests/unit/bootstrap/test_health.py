"""Readiness: which of the hub and the ledger answers, and what a system says of its loops and watches."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fedgpu_operator.bootstrap import health
from fedgpu_operator.bootstrap.health import OLDEST_SECONDS, HealthCheck
from fedgpu_operator.bootstrap.system import System
from fedgpu_operator.errors import LedgerUnreachableError, UnreachableError
from fedgpu_operator.pulse import Pulse


class Outside:
    """The hub and the ledger in one: each answers, fails or hangs as it is told."""

    def __init__(self) -> None:
        self.hub: Exception | None = None
        self.ledger: Exception | None = None
        self.hangs = False

    async def get(self, *_: object) -> dict[str, object]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.hub is not None:
            raise self.hub
        return {}

    async def ping(self, seconds: float) -> None:
        if self.ledger is not None:
            raise self.ledger


class Watch:
    """A monotonic clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def check(outside: Any, watch: Watch) -> HealthCheck:
    return HealthCheck(outside, outside, watch)


async def test_each_part_is_named_until_it_answers_and_again_when_it_does_not() -> None:
    outside, watch = Outside(), Watch()
    made = check(outside, watch)
    assert made.troubles() == {"hub": "not asked yet", "ledger": "not asked yet"}
    await made.pass_once()
    assert made.troubles() == {}
    outside.ledger = LedgerUnreachableError("the ledger did not answer within 5 s")
    await made.pass_once()
    assert made.troubles() == {"ledger": "LedgerUnreachable: the ledger did not answer within 5 s"}
    outside.ledger, outside.hub = None, UnreachableError("no answer")
    await made.pass_once()
    assert made.troubles() == {"hub": "Unreachable: no answer"}
    outside.hub = None
    await made.pass_once()
    assert made.troubles() == {}


async def test_a_hub_that_hangs_is_no_answer_and_ends_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.01)
    outside = Outside()
    outside.hangs = True
    made = check(outside, Watch())
    await made.pass_once()
    assert made.troubles() == {"hub": "no answer within 0.01 s"}


async def test_an_old_answer_says_nothing() -> None:
    watch = Watch()
    made = check(Outside(), watch)
    await made.pass_once()
    watch.now += OLDEST_SECONDS + 1
    assert set(made.troubles()) == {"hub", "ledger"}


async def test_a_system_names_what_has_ended_what_hangs_and_what_is_not_followed() -> None:
    async def nothing() -> None:
        return None

    def late(name: str, watch: Watch) -> Pulse:
        made = Pulse(name, watch)
        made.beat(10)
        return made

    watch = Watch()
    loop, watched, agent = late("jobs", watch), late("watch-computejobs", watch), late("agent-berlin", watch)
    kube: Any = SimpleNamespace(pulses=lambda: [watched], lags=lambda: {"computejobs": "no list yet"})
    supervisor: Any = SimpleNamespace(pulses=lambda: [agent])
    loops: Any = {"jobs": SimpleNamespace(pulse=loop)}
    absent: Any = None
    behind = [""]
    books: Any = SimpleNamespace(trouble=lambda: behind[0])
    made = System(kube, absent, None, supervisor, absent, loops, check(Outside(), watch), books)
    task = asyncio.create_task(nothing(), name="watches")
    made.tasks = [task]
    await made.health.pass_once()
    assert made.unready() == {"watches": "computejobs: no list yet"}
    behind[0] = "LedgerBehind: 2 gaps"
    assert made.unready()["books"] == behind[0]
    await task
    assert made.hung() == {"watches": "ended"}
    watch.now += 12
    made.tasks = []
    assert set(made.hung()) == {"jobs", "watch-computejobs", "agent-berlin"}
    loop.beat(10)
    assert set(made.hung()) == {"watch-computejobs", "agent-berlin"}
