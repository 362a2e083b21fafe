"""How far away an endpoint is, by measuring it."""

from __future__ import annotations

from typing import Protocol


class RoundTrips(Protocol):
    """Measures round trips to endpoints."""

    async def measure(self, url: str) -> float:
        """Seconds of one round trip on an open connection; raises UnreachableError."""
        ...
