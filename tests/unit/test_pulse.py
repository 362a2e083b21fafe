"""A loop's pulse, and the limit of one pass: what hangs is cancelled and named, what cannot be cancelled is overdue."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fedgpu_operator import pulse as module
from fedgpu_operator.adapters.ledger.calls import Threads
from fedgpu_operator.errors import LedgerError, PassExpiredError
from fedgpu_operator.hub.services.writes import for_each
from fedgpu_operator.pulse import MOST_EXPIRED, Pulse, limited


class Watch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pulse_is_overdue_from_its_stated_time_on() -> None:
    watch = Watch()
    pulse = Pulse("jobs", watch)
    watch.now += 10**6
    assert pulse.overdue() == 0, "nothing is due before the first beat"
    pulse.beat(30)
    watch.now += 30
    assert pulse.overdue() == 0
    watch.now += 5
    assert pulse.overdue() == 5
    pulse.beat(1)
    assert pulse.overdue() == 0


async def test_what_ends_in_time_gives_its_result_or_its_error() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise LedgerError("torn")

    assert await limited(answer(), 60, Pulse("jobs")) == 7
    with pytest.raises(LedgerError, match="torn"):
        await limited(fail(), 60, Pulse("jobs"))


async def test_what_hangs_is_cancelled_and_the_place_is_named() -> None:
    ended = []

    async def hang(item: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    async def work() -> None:
        await for_each(hang, [1, 2])

    with pytest.raises(PassExpiredError, match=r"waiting for for_each\.<locals>\.one \(hub\.services\.writes:\d+\)"):
        await limited(work(), 0.01, Pulse("jobs"))
    assert sorted(ended) == [1, 2]


async def test_a_loop_whose_passes_all_expire_inside_of_the_process_is_in_trouble() -> None:
    pulse, stuck = Pulse("jobs"), threading.Event()

    async def work(*, hangs: bool = True) -> None:
        if hangs:
            await asyncio.to_thread(stuck.wait)

    try:
        for number in range(5):
            if number == 2:
                await limited(work(hangs=False), 60, pulse)
            assert pulse.trouble() == ""
            if number != 2:
                with pytest.raises(PassExpiredError):
                    await limited(work(), 0.01, pulse)
        assert pulse.trouble() == ""
        with pytest.raises(PassExpiredError):
            await limited(work(), 0.01, pulse)
        assert "3 passes in a row expired, waiting for" in pulse.trouble()
    finally:
        stuck.set()


async def test_a_server_that_hangs_or_another_loop_is_no_trouble_of_this_one() -> None:
    """However often its passes expire: a restart would wait for the same server."""
    pulse, lock, stuck = Pulse("jobs"), asyncio.Lock(), threading.Event()
    await lock.acquire()
    ledger = Threads(None, lambda: None)

    async def turn() -> None:
        async with lock:
            raise AssertionError

    async def outside() -> None:
        await for_each(lambda _: ledger.read(stuck.wait), [1, 2])

    try:
        for work in (turn, outside):
            for _ in range(MOST_EXPIRED + 1):
                with pytest.raises(PassExpiredError):
                    await limited(work(), 0.01, pulse)
            assert pulse.trouble() == ""
    finally:
        stuck.set()
        ledger.close()


async def test_a_pass_whose_future_was_cancelled_is_an_error_and_no_end_of_its_loop() -> None:
    async def work() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(PassExpiredError, match="cancelled"):
        await limited(work(), 60, Pulse("jobs"))


async def test_cancelling_the_loop_ends_its_pass_first() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(limited(work(), 60, Pulse("jobs")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_pass_that_swallows_its_cancellation_is_overdue_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.05)
    watch, swallowed, release = Watch(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await release.wait()

    pulse = Pulse("jobs", watch)
    task = asyncio.create_task(limited(work(), 0.01, pulse))
    await swallowed.wait()
    assert pulse.overdue() == 0
    watch.now += 1
    assert pulse.overdue() == pytest.approx(0.94)
    for _ in range(500):
        if caplog.text:
            break
        await asyncio.sleep(0.01)
    assert "jobs: a pass was cancelled and does not end" in caplog.text
    release.set()
    await task
