"""How a loop shows that it goes on, and the time limit of one pass; what a probe makes of it is decided elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Final, TypeVar

from fedgpu_operator.errors import PassExpiredError

log = logging.getLogger(__name__)

T = TypeVar("T")
Pass = Callable[[], Coroutine[Any, Any, float | None]]
"""One pass of a loop; it may ask for the next one sooner by returning seconds."""

CANCEL_SECONDS: Final = 30.0
"""How long a cancelled pass may take to end; a hung one that swallows its cancellation never does."""
MOST_EXPIRED: Final = 3
"""Passes of a loop that may expire one after another inside of this process; a thread that hangs is lost with each."""
DEEPEST: Final = 64
"""Awaits that are followed to find out what a pass waits for."""
PACKAGE: Final = __name__.partition(".")[0]
OUTSIDE: Final = f"{PACKAGE}.adapters."
"""The modules that wait for something outside of this process."""
LOCKS: Final = "asyncio.locks"
TURNS: Final = frozenset({"Lock.acquire", "Semaphore.acquire", "Condition.wait"})
"""What waits for another task: whether that one hangs is judged by itself."""


class Pulse:
    """When a loop last beat, and by when it has to beat again; one that does not hangs, and no cancelling cures it."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._due = float("inf")
        """By the monotonic clock; nothing is due before the first beat."""
        self._expired = 0
        self._place = ""

    def beat(self, within: float) -> None:
        """It goes on, and beats again within so many seconds."""
        self._due = self._clock() + within

    def overdue(self) -> float:
        """Seconds by which the next beat is late; 0 while the loop is in time."""
        return max(0.0, self._clock() - self._due)

    def passed(self) -> None:
        """A pass has ended by itself, with whatever result, or waited for something outside."""
        self._expired = 0

    def expired(self, place: str) -> None:
        """A pass had to be cancelled although it waited for nothing outside of this process."""
        self._expired, self._place = self._expired + 1, place

    def trouble(self) -> str:
        """Why nothing but a restart can help; empty while the loop goes on."""
        if self._expired >= MOST_EXPIRED:
            return f"{self._expired} passes in a row expired, waiting for {self._place}"
        late = self.overdue()
        return f"no sign of life, late by {late:.0f} s" if late else ""


async def limited(work: Coroutine[Any, Any, T], seconds: float, pulse: Pulse) -> T:
    """The result of one pass that may take so many seconds, and what it raised.

    Raises PassExpiredError, after the pass was cancelled and has ended, if it took longer. A pass that does not end
    when it is cancelled is waited for without end, and its loop's pulse becomes overdue. The pulse counts those that
    expire without waiting for anything outside.
    """
    task = asyncio.create_task(work, name=f"pass-{pulse.name}")
    pulse.beat(seconds + CANCEL_SECONDS)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        waited_for = "" if done else awaited_by(task)
        if done:
            pulse.passed()
        else:
            pulse.expired(waited_for) if _waits_inside(task) else pulse.passed()
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=CANCEL_SECONDS)
            if not done:
                log.error("%s: a pass was cancelled and does not end: it waits for %s", pulse.name, awaited_by(task))
                await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    if task.cancelled():
        # Also by itself: a future that the pass waited for was cancelled, and that must not end its loop.
        raise PassExpiredError(
            f"cancelled after {seconds:g} s, waiting for {waited_for}" if waited_for else "cancelled"
        )
    return task.result()


def awaited_by(task: asyncio.Task[Any]) -> str:
    """The innermost function of this package that a task waits in, as ``function (module:line)``."""
    place = "an unknown place"
    for frame in _frames(task):
        if _module(frame).startswith(f"{PACKAGE}."):
            module = _module(frame).removeprefix(f"{PACKAGE}.")
            place = f"{frame.f_code.co_qualname} ({module}:{frame.f_lineno})"
    return place


def _waits_inside(task: asyncio.Task[Any]) -> bool:
    """Whether what a task waits for is neither outside of this process nor another task's turn.

    No adapter may be on the way: one that waits for a thread of its own waits for what that thread asks.
    """
    frames = list(_frames(task))
    turn = bool(frames) and _module(frames[-1]) == LOCKS and frames[-1].f_code.co_qualname in TURNS
    return not turn and not any(_module(frame).startswith(OUTSIDE) for frame in frames)


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """From the task's own frame to the innermost of what it waits for, through the tasks on the way."""
    waiter = task
    for _ in range(DEEPEST):
        yield from _stack(waiter.get_coro())
        # No public way leads from a task to what it waits for. Without these two fields less is reported.
        future = getattr(waiter, "_fut_waiter", None)
        children = getattr(future, "_children", ())
        following = next(
            (each for each in (future, *children) if isinstance(each, asyncio.Task) and not each.done()), None
        )
        if following is None:
            return
        waiter = following


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _stack(coroutine: object) -> Iterator[FrameType]:
    for _ in range(DEEPEST):
        if coroutine is None:
            return
        frame = _frame(coroutine)
        if frame is not None:
            yield frame
        coroutine = next(
            (held for name in ("cr_await", "ag_await", "gi_yieldfrom") if (held := getattr(coroutine, name, None))),
            None,
        )


def _frame(coroutine: object) -> FrameType | None:
    frames = (getattr(coroutine, name, None) for name in ("cr_frame", "ag_frame", "gi_frame"))
    return next((frame for frame in frames if frame is not None), None)
