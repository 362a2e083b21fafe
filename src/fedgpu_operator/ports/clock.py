"""Where the time comes from: the loops ask nothing else for it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Where the loops take the time from."""

    def now(self) -> datetime:
        """The present, timezone-aware UTC."""
        ...
