"""How long to wait before something that failed is tried again: the one rule of every loop and every request."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

SPREAD: Final = 0.25
"""Share of a pause by which it is made longer by chance, so that many who lost one server do not return together."""


class Backoff:
    """Pauses between tries: `first` seconds, doubled after each failure up to `longest`, and up to SPREAD longer.

    `chance` returns a number from 0 to 1 each time.
    """

    def __init__(self, first: float, longest: float, *, chance: Callable[[], float] = random.random) -> None:
        self._first = min(first, longest)
        self._longest = longest
        self._chance = chance
        self._next = self._first

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        pause = self._next
        self._next = min(2 * pause, self._longest)
        return pause * (1 + SPREAD * self._chance())

    def reset(self) -> None:
        """Something succeeded: the next failure is the first one."""
        self._next = self._first
