"""Runs a pass again and again: when woken, at the latest after the resync interval, with back-off after an error.

A loop beats (`Loop.pulse`) at the begin and at the end of each pass. A pass that exceeds its time limit is cancelled
and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Final

from fedgpu_operator.backoff import Backoff
from fedgpu_operator.errors import ConflictError, FedGPUError
from fedgpu_operator.hub.services.writes import counting_failures
from fedgpu_operator.logs import bound
from fedgpu_operator.ports import Metrics
from fedgpu_operator.pulse import Pass, Pulse, limited

log = logging.getLogger(__name__)


DEBOUNCE_SECONDS: Final = 0.02
"""Events that arrive in a burst share one pass: what comes during a pass waits for the next one anyway."""
CONFLICT_SECONDS: Final = 0.1
"""After a conflict: what was written meanwhile is on its way to us."""
FIRST_BACKOFF_SECONDS: Final = 0.5
LAST_BACKOFF_SECONDS: Final = 30.0
PASS_SECONDS: Final = 300.0
"""Time limit of a pass. One list of the hub takes 120 s at most, and a long queue is solved in seconds."""
SLACK_SECONDS: Final = 30.0
"""By how much a loop may be late after a pause: another loop's pass can keep the interpreter for some seconds."""
_FIGURES: Final = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
"""What differs between two reports of one trouble: blocks, hashes, counts."""


class Loop:
    """One level-triggered loop; a pass may ask for the next one sooner by returning seconds.

    However often it is woken, `least` seconds lie between two passes. `limit` seconds are the most that one may take.
    """

    def __init__(
        self,
        name: str,
        pass_once: Pass,
        *,
        resync: float,
        metrics: Metrics,
        least: float = 0.0,
        limit: float | None = None,
    ) -> None:
        self.name = name
        self.pulse = Pulse(name)
        self._limit = PASS_SECONDS if limit is None else limit
        self._pass_once = pass_once
        self._resync = resync
        self._pause = max(DEBOUNCE_SECONDS, least)
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._backoff = Backoff(FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS)
        self._setback = 0.0
        """Seconds to wait after the last pass, if it failed."""
        self._number = 0
        """Of the newest pass since the start: each line that it logs carries it."""
        self._complained = ""
        """The error of the last pass that no retry mends, its figures left out: it is logged once."""

    def wake(self) -> None:
        """Ask for a pass; safe from any handler of the same event loop."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled; an error of a pass is logged and counted, then the pass is tried again."""
        while True:
            self._woken.clear()
            delay = await self._guarded_pass()
            self.pulse.beat(delay + max(self._pause, self._setback) + SLACK_SECONDS)
            try:
                async with asyncio.timeout(delay):
                    await self._woken.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(self._pause, self._setback))

    async def _guarded_pass(self) -> float:
        began = time.monotonic()
        self._number += 1
        with counting_failures() as failures, bound(loop=self.name, **{"pass": self._number}):
            delay, succeeded = await self._one_pass()
        self._metrics.loop_passed(self.name, time.monotonic() - began, succeeded=succeeded)
        for reason, objects in failures.items():
            for _ in range(objects):
                self._metrics.loop_failed(self.name, reason)
        return delay

    async def _one_pass(self) -> tuple[float, bool]:
        """Seconds until the next pass, and whether this one succeeded; a conflict is no success, and no failure."""
        try:
            sooner = await limited(self._pass_once(), self._limit, self.pulse)
        except ConflictError as error:
            log.debug("%s: %s; loading again", self.name, error)
            return CONFLICT_SECONDS, False
        except FedGPUError as error:
            self._complain(error)
            return self._failed(error.reason), False
        except Exception:
            log.exception("%s: pass failed", self.name)
            return self._failed("InternalError"), False
        self._setback = 0.0
        self._backoff.reset()
        self._complained = ""
        return (self._resync if sooner is None else min(sooner, self._resync)), True

    def _complain(self, error: FedGPUError) -> None:
        """Log the error of a pass; one that lasts until somebody mends its cause is not repeated by each pass."""
        words = _FIGURES.sub("#", f"{error.reason}: {error}") if error.permanent else ""
        if not words or words != self._complained:
            log.warning("%s: %s: %s", self.name, error.reason, error)
        self._complained = words

    def _failed(self, reason: str) -> float:
        self._metrics.loop_failed(self.name, reason)
        self._setback = self._backoff.failed()
        return self._setback
