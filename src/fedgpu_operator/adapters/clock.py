"""The system clock, as the loops take it, and the one that a leader's time is measured by."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Only Linux has the first; elsewhere the second counts the same."""


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> datetime:
        """The present in UTC."""
        return datetime.now(UTC)


def boot_seconds() -> float:
    """Seconds by a clock that nobody sets, and that counts while this process is stopped or the machine sleeps."""
    return time.clock_gettime(_BOOT)
