"""Readiness: pings the ledger and the hub's API server every few seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.ports import NAMESPACES, Kube

PING_SECONDS: Final = 5.0
"""Between two looks."""
ANSWER_SECONDS: Final = 5.0
"""Within which ledger and hub have to answer."""
OLDEST_SECONDS: Final = 3 * (PING_SECONDS + ANSWER_SECONDS)
"""A look that is older says nothing any more."""


class Pingable(Protocol):
    """What answers a ping."""

    async def ping(self, seconds: float) -> None:
        """Raises LedgerError if no answer comes within that time."""
        ...


@dataclass(frozen=True, slots=True)
class PingResult:
    """When something was pinged, by the monotonic clock, and why it is not ready; empty if it answered."""

    at: float
    why: str


class HealthCheck:
    """Asks, and remembers the last answers; `pass_once` is a loop's pass and fails for nothing outside."""

    def __init__(self, kube: Kube, ledger: Pingable, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube, self._ledger, self._clock = kube, ledger, clock
        self._looks: dict[str, PingResult] = {}

    async def pass_once(self) -> float | None:
        """Ask both at the same time."""
        await asyncio.gather(
            self._ask("hub", self._kube.get(NAMESPACES, "kube-system")),
            self._ask("ledger", self._ledger.ping(ANSWER_SECONDS)),
        )
        return PING_SECONDS

    def troubles(self) -> dict[str, str]:
        """Why each of "hub" and "ledger" cannot be worked with now, in words; those that answer are left out."""
        return {part: why for part in ("hub", "ledger") if (why := self._trouble(part))}

    def _trouble(self, part: str) -> str:
        look = self._looks.get(part)
        if look is None:
            return "not asked yet"
        age = self._clock() - look.at
        return look.why or (f"last answer {age:.0f} s ago" if age > OLDEST_SECONDS else "")

    async def _ask(self, part: str, question: Coroutine[Any, Any, object]) -> None:
        why = ""
        try:
            # The ledger has its own limit, which a thread that hangs cannot exceed.
            async with asyncio.timeout(2 * ANSWER_SECONDS if part == "ledger" else ANSWER_SECONDS):
                await question
        except TimeoutError:
            why = f"no answer within {ANSWER_SECONDS:g} s"
        except FedGPUError as error:
            why = f"{error.reason}: {error}"
        self._looks[part] = PingResult(self._clock(), why)
