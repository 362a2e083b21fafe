"""The loop that runs passes: woken, debounced, backing off, and ended by nothing but cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.unit.hub.fakes import FakeMetrics

from fedgpu_operator.backoff import SPREAD
from fedgpu_operator.errors import ConflictError, LedgerError, StatePrunedError, UnreachableError
from fedgpu_operator.hub.loops import loop as module
from fedgpu_operator.hub.loops.loop import Loop


class Passes:
    """A pass that counts itself and fails as it is told; `script` holds an error or the seconds to ask for."""

    def __init__(self, *script: BaseException | float | None) -> None:
        self.count, self.script = 0, list(script)
        self._changed = asyncio.Event()

    async def __call__(self) -> float | None:
        self.count += 1
        self._changed.set()
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def running(passes: Callable[[], object], metrics: FakeMetrics, resync: float = 3600) -> AsyncIterator[Loop]:
    assert isinstance(passes, Passes)
    loop = Loop("jobs", passes, resync=resync, metrics=metrics)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
        assert not task.done(), "nothing ends a loop"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEBOUNCE_SECONDS", 0.001)
    monkeypatch.setattr(module, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(module, "LAST_BACKOFF_SECONDS", 0.004)


async def test_a_first_pass_at_once_and_another_when_woken() -> None:
    passes = Passes()
    async with running(passes, FakeMetrics()) as loop:
        await passes.reach(1)
        loop.wake()
        await passes.reach(2)
        assert passes.count == 2


async def test_a_burst_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEBOUNCE_SECONDS", 0.02)
    passes = Passes()
    async with running(passes, FakeMetrics()) as loop:
        await passes.reach(1)
        for _ in range(50):
            loop.wake()
            await asyncio.sleep(0)
        await passes.reach(2)
        await asyncio.sleep(0.03)
        assert passes.count == 2


async def test_a_wake_during_a_pass_is_not_lost() -> None:
    gate = asyncio.Event()

    class Slow(Passes):
        async def __call__(self) -> float | None:
            answer = await super().__call__()
            if self.count == 1:
                await gate.wait()
            return answer

    passes = Slow()
    async with running(passes, FakeMetrics()) as loop:
        await passes.reach(1)
        loop.wake()
        gate.set()
        await passes.reach(2)


async def test_it_resyncs_and_a_pass_may_ask_for_sooner() -> None:
    passes = Passes(0.001, 0.001, 3600)
    async with running(passes, FakeMetrics()):
        await passes.reach(3)
    slow = Passes()
    async with running(slow, FakeMetrics(), resync=0.001):
        await slow.reach(3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreachableError("no answer"), "Unreachable"),
        (LedgerError("torn"), "LedgerError"),
        (ValueError("a bug"), "InternalError"),
    ],
)
async def test_errors_are_counted_and_never_end_it(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    passes, metrics = Passes(*[error] * 4), FakeMetrics()
    async with running(passes, metrics):
        await passes.reach(5)
    assert metrics.failed == {("jobs", reason): 4}
    assert str(error) in caplog.text


async def test_a_conflict_is_no_failure_and_is_tried_again_soon() -> None:
    passes, metrics = Passes(ConflictError("changed")), FakeMetrics()
    async with running(passes, metrics):
        await passes.reach(2)
    assert not metrics.failed


async def test_a_pass_that_ends_in_a_conflict_is_no_success_and_keeps_the_backoff() -> None:
    passes, metrics = Passes(*[ConflictError("changed")] * 3), FakeMetrics()
    loop = Loop("jobs", passes, resync=3600, metrics=metrics)
    assert [await loop._guarded_pass() for _ in range(3)] == [module.CONFLICT_SECONDS] * 3
    assert metrics.passes == {("jobs", False): 3}, "its last success would stay fresh for ever"
    await loop._guarded_pass()
    assert metrics.passes == {("jobs", False): 3, ("jobs", True): 1}
    passes.script = [LedgerError("torn"), ConflictError("changed"), LedgerError("torn")]
    assert [await loop._guarded_pass() for _ in range(3)][2] >= 0.002
    assert metrics.passes["jobs", False] == 6


async def test_the_backoff_doubles_to_its_bound_and_a_good_pass_ends_it() -> None:
    passes = Passes(*[LedgerError("torn")] * 5)
    loop = Loop("jobs", passes, resync=3600, metrics=FakeMetrics())
    *pauses, resync = [await loop._guarded_pass() for _ in range(6)]
    for pause, least in zip(pauses, [0.001, 0.002, 0.004, 0.004, 0.004], strict=True):
        assert least <= pause <= least * (1 + SPREAD)
    assert resync == 3600
    passes.script = [LedgerError("torn")]
    assert 0.001 <= await loop._guarded_pass() < 0.002


async def test_what_lasts_until_somebody_mends_it_is_logged_once_and_counted_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lasting: list[BaseException | float | None] = [StatePrunedError(f"no state at block {n}") for n in range(3)]
    passing = [UnreachableError("no answer"), UnreachableError("no answer")]
    passes, metrics = Passes(*lasting, 0.001, StatePrunedError("no state at block 9"), *passing), FakeMetrics()
    async with running(passes, metrics):
        await passes.reach(8)
    said = [record.message for record in caplog.records if record.name == module.__name__]
    lost, silent = "jobs: StatePruned: no state at block", "jobs: Unreachable: no answer"
    assert said == [f"{lost} 0", f"{lost} 9", silent, silent]
    assert metrics.failed["jobs", "StatePruned"] == 4


async def test_a_pass_that_hangs_is_cancelled_counted_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Passes):
        async def __call__(self) -> float | None:
            answer = await super().__call__()
            if self.count <= 2:
                await asyncio.Event().wait()
            return answer

    passes, metrics = Hanging(), FakeMetrics()
    loop = Loop("jobs", passes, resync=3600, metrics=metrics, limit=0.01)
    task = asyncio.create_task(loop.run())
    await passes.reach(3)
    await asyncio.sleep(0)
    assert metrics.failed == {("jobs", "PassExpired"): 2}
    assert (metrics.passes["jobs", False], loop.pulse.overdue()) == (2, 0)
    assert "jobs: PassExpired: cancelled after 0.01 s, waiting for" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
