"""The system clock, as the loops take it."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> datetime:
        """The present in UTC."""
        return datetime.now(UTC)
