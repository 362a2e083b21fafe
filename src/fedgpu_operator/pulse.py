"""How a loop shows that it goes on, and the time limit of one pass; what a probe makes of it is decided elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, TypeVar

from fedgpu_operator.errors import PassExpiredError

log = logging.getLogger(__name__)

T = TypeVar("T")

CANCEL_SECONDS: Final = 30.0
"""How long a cancelled pass may take to end; a hung one that swallows its cancellation never does."""
DEEPEST: Final = 64
"""Awaits that are followed to find out what a pass waits for."""
PACKAGE: Final = __name__.partition(".")[0]


class Pulse:
    """When a loop last beat, and by when it has to beat again; one that does not hangs, and no cancelling cures it."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._due = float("inf")
        """By the monotonic clock; nothing is due before the first beat."""

    def beat(self, within: float) -> None:
        """It goes on, and beats again within so many seconds."""
        self._due = self._clock() + within

    def overdue(self) -> float:
        """Seconds by which the next beat is late; 0 while the loop is in time."""
        return max(0.0, self._clock() - self._due)


async def limited(work: Coroutine[Any, Any, T], seconds: float, pulse: Pulse) -> T:
    """The result of one pass that may take so many seconds, and what it raised.

    Raises PassExpiredError, after the pass was cancelled and has ended, if it took longer. A pass that does not end
    when it is cancelled is waited for without end, and its loop's pulse becomes overdue.
    """
    task = asyncio.create_task(work, name=f"pass-{pulse.name}")
    pulse.beat(seconds + CANCEL_SECONDS)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        waited_for = "" if done else awaited_by(task)
        if not done:
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
    found, waiter = "an unknown place", task
    for _ in range(DEEPEST):
        found = _innermost(waiter.get_coro()) or found
        # No public way leads from a task to what it waits for. Without these two fields less is reported.
        future = getattr(waiter, "_fut_waiter", None)
        children = getattr(future, "_children", ())
        following = next(
            (each for each in (future, *children) if isinstance(each, asyncio.Task) and not each.done()), None
        )
        if following is None:
            return found
        waiter = following
    return found


def _innermost(coroutine: object) -> str:
    found = ""
    for _ in range(DEEPEST):
        if coroutine is None:
            break
        frame = _frame(coroutine)
        if frame is not None and str(frame.f_globals.get("__name__", "")).startswith(f"{PACKAGE}."):
            module = str(frame.f_globals["__name__"]).removeprefix(f"{PACKAGE}.")
            found = f"{frame.f_code.co_qualname} ({module}:{frame.f_lineno})"
        coroutine = next(
            (held for name in ("cr_await", "ag_await", "gi_yieldfrom") if (held := getattr(coroutine, name, None))),
            None,
        )
    return found


def _frame(coroutine: object) -> FrameType | None:
    frames = (getattr(coroutine, name, None) for name in ("cr_frame", "ag_frame", "gi_frame"))
    return next((frame for frame in frames if frame is not None), None)
