"""What one member may cost us: bytes received and seconds spent on them, by the minute; pure accounting, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedgpu_operator.errors import BudgetExceededError

MINUTE: Final = 60.0
REOPENS_AT: Final = 0.5
"""Share of a minute's allowance that must be there again before calls are let through: no flicker at the edge."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of one member, per minute: bytes received, and seconds of our processor for parsing them.

    30,000 pods and 5,000 nodes are about 290 MB and 6 to 10 seconds for one whole count, and the agent counts so large
    a member once in a minute or two: the default lets it through with half to spare. Bytes are read and let go, so
    that it is seconds that bound what a member costs.
    """

    received: int = 1024 * 2**20
    seconds: float = 20.0


@dataclass(slots=True)
class _Bucket:
    """Full at first, refilled evenly within a minute, and in debt after a spending that nobody could foresee."""

    full: float
    level: float
    at: float

    def refill(self, now: float) -> None:
        self.level = min(self.full, self.level + self.full * max(0.0, now - self.at) / MINUTE)
        self.at = max(self.at, now)


class Budget:
    """One member's two token buckets. Every `now` is seconds of one monotonic clock."""

    def __init__(self, allowance: Allowance, now: float) -> None:
        self.allowance = allowance
        self._received = _Bucket(allowance.received, allowance.received, now)
        self._seconds = _Bucket(allowance.seconds, allowance.seconds, now)
        self._closed = False

    def spend(self, now: float, *, received: int = 0, seconds: float = 0.0) -> None:
        """Take that off; raises BudgetExceededError where it was more than there was, as does `check` from then on."""
        for bucket, amount in ((self._received, received), (self._seconds, seconds)):
            bucket.refill(now)
            bucket.level -= amount
        self.check(now)

    def check(self, now: float) -> None:
        """Raises BudgetExceededError from when an allowance was used up until half of it has refilled."""
        buckets = (self._received, self._seconds)
        for bucket in buckets:
            bucket.refill(now)
        if any(bucket.level < 0 for bucket in buckets):
            self._closed = True
        elif all(bucket.level >= REOPENS_AT * bucket.full for bucket in buckets):
            self._closed = False
        if self._closed:
            raise BudgetExceededError(self._why())

    def _why(self) -> str:
        """Without a figure that changes by the second: it stands in a condition."""
        limit = self.allowance
        return (
            f"the member sent more than {limit.received // 2**20} MiB, or what took more than {limit.seconds:g} s to "
            "parse, within a minute: it is not asked again before half of that has refilled; its jobs are left alone"
        )
