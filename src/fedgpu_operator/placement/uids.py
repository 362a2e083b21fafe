"""Uids in order, put in order only when somebody looks; few gone and come cost no look at the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

SHARE: Final = 4
"""Where more than one in so many has gone or come, a list of its own is cheaper than the difference."""


class Uids(Sequence[str]):
    """Distinct uids, ascending. Never changes; what it knows of itself it keeps."""

    def __init__(
        self, uids: list[str], *, ordered: bool = False, gone: Iterable[str] = (), come: Iterable[str] = ()
    ) -> None:
        """`uids` is taken over, not copied: nobody else may hold on to it."""
        self._base = uids
        self._ordered = ordered
        self._gone, self._come = frozenset(gone), frozenset(come)
        self._least: str | None = None

    def __len__(self) -> int:
        return len(self._base) - len(self._gone) + len(self._come)

    def __iter__(self) -> Iterator[str]:
        return iter(self.settled())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.settled()[index]

    @property
    def first(self) -> str:
        """The least of them. Raises ValueError where there is none."""
        if self._least is None:
            kept = (uid for uid in self._base if uid not in self._gone) if self._gone else iter(self._base)
            base = next(kept, None) if self._ordered else min(kept, default=None)
            self._least = min(self._come if base is None else (base, *self._come))
        return self._least

    def order(self) -> None:
        """Put what it was made of in order now; what has gone and come since stays apart."""
        if not self._ordered:
            self.settled()

    def settled(self) -> list[str]:
        """All of them in one list, in order; not to be changed."""
        if self._gone or self._come:
            self._base = [uid for uid in self._base if uid not in self._gone] + sorted(self._come)
            self._gone = self._come = frozenset()
            self._ordered = False
        if not self._ordered:
            self._base = sorted(self._base)
            self._ordered = True
        return self._base

    def changed(self, gone: Iterable[str], come: Iterable[str]) -> Uids:
        """These without some and with others. Raises ValueError for one that has gone and was not there."""
        self.order()
        out, new = set(self._gone), set(self._come)
        for uid in gone:
            if uid in new:
                new.remove(uid)
            elif uid in out or not self._has(uid):
                raise ValueError(f"job {uid!r} is not among those of the last pass, so it cannot have gone")
            else:
                out.add(uid)
        back = out.intersection(come)
        after = Uids(self._base, ordered=True, gone=out - back, come=new.union(come) - back)
        if SHARE * (len(out) + len(new)) > len(self._base):
            after.settled()
        return after

    def _has(self, uid: str) -> bool:
        at = bisect_left(self._base, uid)
        return at < len(self._base) and self._base[at] == uid
