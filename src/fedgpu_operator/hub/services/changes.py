"""Whether objects are still the very same ones: what follows from them is worked out again only where they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import is_
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


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


class ObjectCounts(Generic[T, K]):
    """Counts objects by what each says of itself; one that is still the very same is not asked again."""

    def __init__(self, says: Callable[[T], K]) -> None:
        self._says = says
        self._known: dict[int, tuple[T, K]] = {}
        """By identity: an object that is held here shares it with no other."""
        self._counts: Counter[K] = Counter()

    def look(self, objects: Iterable[T]) -> Counter[K]:
        """How many of these, all distinct, say what; not to be changed."""
        now = {id(each): each for each in objects}
        for gone in self._known.keys() - now.keys():
            _, said = self._known.pop(gone)
            self._counts[said] -= 1
            if not self._counts[said]:
                del self._counts[said]
        for name, each in now.items():
            if name not in self._known:
                said = self._says(each)
                self._known[name] = each, said
                self._counts[said] += 1
        return self._counts
