"""A series of figures as one line of eight heights; draws, knows nothing of what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

HEIGHTS: Final = "▁▂▃▄▅▆▇█"
NOTHING: Final = "·"


def sparkline(values: Sequence[float | None]) -> str:
    """One character per value, from the least to the greatest; None is a dot, a level series stays at the bottom."""
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING * len(values)
    least, span = min(known), max(known) - min(known)
    steps = len(HEIGHTS) - 1
    return "".join(
        NOTHING if value is None else HEIGHTS[round((value - least) / span * steps) if span else 0] for value in values
    )
