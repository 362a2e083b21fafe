"""Uids in order, put in order only when somebody looks; few gone and come cost no look at the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

SHARE: Final = 4
"""Where more than one in so many has gone or come, a list of its own is cheaper than the difference."""

NONE: Final[frozenset[str]] = frozenset()


class _Base:
    """Distinct uids that many `Uids` share: in order, or as a set, once one of them needs it so."""

    def __init__(self, uids: list[str], *, ordered: bool) -> None:
        self.uids = uids
        self.is_ordered = ordered
        self._known: frozenset[str] | None = None

    def ordered(self) -> list[str]:
        """In order; not to be changed."""
        if not self.is_ordered:
            self.uids = sorted(self.uids)
            self.is_ordered = True
        return self.uids

    @property
    def known(self) -> frozenset[str]:
        """As a set: takes more memory than looking each up in order, but a fifth of the time."""
        if self._known is None:
            self._known = frozenset(self.uids)
        return self._known


class Uids(Sequence[str]):
    """Distinct uids, ascending. Never changes; what it knows of itself it keeps."""

    def __init__(
        self,
        uids: list[str] | _Base,
        *,
        ordered: bool = False,
        gone: frozenset[str] = NONE,
        come: frozenset[str] = NONE,
        least: str | None = None,
    ) -> None:
        """`uids` is taken over, not copied: nobody else may hold on to it. `least` is the first of all, if known."""
        self._base = uids if isinstance(uids, _Base) else _Base(uids, ordered=ordered)
        self._gone, self._come = gone, come
        self._least = least
        self._settled: list[str] | None = None

    def __len__(self) -> int:
        return len(self._base.uids) - len(self._gone) + len(self._come)

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
            base = self._base
            kept = (uid for uid in base.uids if uid not in self._gone) if self._gone else iter(base.uids)
            least = next(kept, None) if base.is_ordered else min(kept, default=None)
            self._least = min(self._come if least is None else (least, *self._come))
        return self._least

    def prepare(self) -> None:
        """Do now what the first `changed` would have to do once for all later ones."""
        _ = self._base.known

    def settled(self) -> list[str]:
        """All of them in one list, in order; not to be changed."""
        if self._settled is None:
            base = self._base.ordered()
            if self._gone or self._come:
                base = sorted([uid for uid in base if uid not in self._gone] + sorted(self._come))
            self._settled = base
        return self._settled

    def changed(self, gone: Sequence[str], come: Iterable[str]) -> Uids:
        """These without some and with others. Raises ValueError for one that has gone and was not there."""
        less, more = frozenset(gone), frozenset(come)
        old = less - self._come
        if len(less) != len(gone) or not old <= self._base.known or not old.isdisjoint(self._gone):
            raise ValueError(f"job {self._strange(gone)!r} is not among those of the last pass, so it cannot have gone")
        out, new = self._gone | old, (self._come - less) | more
        back = out & more
        kept = self._least if self._least not in less else None
        least = min((kept, *more)) if kept is not None else None
        after = Uids(self._base, gone=out - back, come=new - back, least=least)
        if SHARE * (len(out) + len(new)) > len(self._base.uids):
            return Uids(after.settled(), ordered=True)
        return after

    def _strange(self, gone: Sequence[str]) -> str:
        """The first of those gone that is not there any more, or never was."""
        left = self._come | (self._base.known - self._gone)
        return next(uid for at, uid in enumerate(gone) if uid not in left or uid in gone[:at])
