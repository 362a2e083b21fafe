"""Whether objects are still the very same ones: what follows from them is worked out again only where they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_


def same_objects(one: Sequence[object], two: Sequence[object]) -> bool:
    """Whether both hold the very same objects in the same order; what is merely equal is not looked at."""
    return len(one) == len(two) and all(map(is_, one, two))


class ChangeDetector:
    """Remembers some objects, about 10 ns each to compare."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] | None = None

    def changed(self, objects: Iterable[object]) -> bool:
        """Whether these are others than the last time, or this is the first time."""
        now = tuple(objects)
        if self._seen is not None and same_objects(self._seen, now):
            return False
        self._seen = now
        return True

    def forget(self) -> None:
        """The next objects count as others."""
        self._seen = None
