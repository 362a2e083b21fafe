"""The offers of a pass as columns, what differs from the table of the pass before, and uids in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import is_
from typing import Final, Generic, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, IntVector


def moved(before: Sequence[object], now: Sequence[object]) -> list[int]:
    """The indices, as far as both reach, at which another object stands than before; faster than to compare values."""
    return np.flatnonzero(~np.frombuffer(bytes(map(is_, before, now)), dtype=np.bool_)).tolist()


class Uids(Sequence[str]):
    """Distinct uids, ascending; sorted when somebody reads them, since most passes only ask for the first and how many.

    `uids` is taken over, not copied: nobody else may hold on to it.
    """

    def __init__(self, uids: list[str]) -> None:
        self._uids = uids
        self._is_sorted = False

    def __len__(self) -> int:
        return len(self._uids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._sorted()[index]

    @cached_property
    def first(self) -> str:
        """The least of them. Raises ValueError if there is none."""
        return self._uids[0] if self._is_sorted else min(self._uids)

    def _sorted(self) -> list[str]:
        if not self._is_sorted:
            self._uids.sort()
            self._is_sorted = True
        return self._uids


T = TypeVar("T", bound=Hashable)
V = TypeVar("V", np.bool_, np.int64)

MAX_PRICE: Final = 2**62
"""What is dearer (µUSD per GPU-hour, 4.6 trillion USD) counts as this: so a price and its parts fit 64 bits."""

Fact = Callable[[Offer], object]
"""Reads one fact from an offer; the name of a column."""


@dataclass(frozen=True, slots=True, eq=False)
class FactColumn(Generic[T]):
    """One fact of every offer: its distinct `values`, and per offer the index of its value (int64, shape (offers,))."""

    values: tuple[T, ...]
    codes: IntVector

    def where(self, holds: Callable[[T], bool]) -> BoolVector:
        """Which offers have a value that `holds`; asked once per distinct value. Shape (offers,)."""
        return np.fromiter((holds(value) for value in self.values), dtype=np.bool_, count=len(self.values))[self.codes]

    def map(self, number: Callable[[T], int]) -> IntVector:
        """`number` of each offer's value, asked once per distinct value. Shape (offers,)."""
        return np.fromiter((number(value) for value in self.values), dtype=np.int64, count=len(self.values))[self.codes]


class OfferTable:
    """The offers of one pass, or some of them: what plugins answer for all at once.

    Offers stand in name order, so those of one provider are neighbours. Columns are named by the function that reads
    them from an offer and are kept as long as the table: hand in functions of a module, never fresh ones.
    """

    def __init__(self, offers: Sequence[Offer], before: OfferTable | None = None) -> None:
        """`before` is the table of the pass before: what holds here too is taken over from it."""
        self._given = tuple(offers)
        self._numbers: dict[Fact, IntVector] = {}
        self._kinds: dict[Fact, FactColumn[Hashable]] = {}
        self._room: dict[int, IntVector] = {}
        self._reads: set[Fact] = set()
        if before is None or not self._follow(before):
            names = list(map(_name, self._given))
            self._order = sorted(range(len(names)), key=names.__getitem__)
            self.names = tuple([names[i] for i in self._order])
            self._offers = tuple([self._given[i] for i in self._order])

    def _follow(self, before: OfferTable) -> bool:
        """Take over what does not change where the same offers were handed in, in the same order; else say no."""
        old, new = before._given, self._given
        others = moved(old, new)
        if len(old) != len(new) or any(_name(old[i]) != _name(new[i]) for i in others):
            return False
        self._order, self.names = before._order, before.names
        self._offers = tuple([new[i] for i in self._order])
        self._providers, self._provider = before._providers, before._provider
        if all(old[i].lease_slots == new[i].lease_slots for i in others):
            self._slots = before._slots
        price = before._numbers.get(price_of)
        if price is not None:
            at = moved(before._offers, self._offers)
            price = self._numbers[price_of] = price.copy()
            price[at] = [price_of(self._offers[i]) for i in at]
            price.flags.writeable = False
        return True

    def __len__(self) -> int:
        return len(self._offers)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The offers themselves, by name. A plugin that looks here is asked again whenever anything of one changes."""
        self._reads.add(_whole)
        return self._offers

    def watched(self) -> set[Fact]:
        """The set in which the facts that are read from now on are collected."""
        self._reads = set()
        return self._reads

    def numbers(self, of: Callable[[Offer], int]) -> IntVector:
        """A whole number of every offer; int64, shape (offers,)."""
        self._reads.add(of)
        column = self._numbers.get(of)
        if column is None:
            column = self._numbers[of] = np.fromiter(map(of, self._offers), dtype=np.int64, count=len(self))
            column.flags.writeable = False
        return column

    def kinds(self, of: Callable[[Offer], T]) -> FactColumn[T]:
        """A hashable fact of every offer, by its distinct values."""
        self._reads.add(of)
        known = self._kinds.get(of)
        if known is None:
            index: dict[T, int] = {}
            codes = [index.setdefault(of(offer), len(index)) for offer in self._offers]
            column = np.array(codes, dtype=np.int64)
            column.flags.writeable = False
            known = self._kinds[of] = cast(FactColumn[Hashable], FactColumn(tuple(index), column))
        return cast(FactColumn[T], known)

    @property
    def price(self) -> IntVector:
        """µUSD per GPU-hour in money, at most MAX_PRICE; shape (offers,)."""
        return self.numbers(price_of)

    def within(self, limit: int) -> BoolVector:
        """Which offers cost no more than `limit` µUSD per GPU-hour; none that counts as MAX_PRICE does."""
        return self.price <= min(limit, MAX_PRICE - 1)

    def room(self, gpus: int) -> IntVector:
        """How many times `gpus` GPUs are free on one node, shape (offers,)."""
        self._reads.add(_free)
        known = self._room.get(gpus)
        if known is None:
            at, free, nodes = self._nodes
            known = self._room[gpus] = np.zeros(len(self), dtype=np.int64)
            np.add.at(known, at, free // gpus * nodes)
            known.flags.writeable = False
        return known

    def of(self, provider: str) -> range:
        """The indices of one provider's offers; empty if it has none."""
        self._reads.add(_provider)
        first = bisect_left(self._offers, provider, key=_provider)
        return range(first, bisect_right(self._offers, provider, lo=first, key=_provider))

    @property
    def providers(self) -> tuple[str, ...]:
        """Each provider's name once, sorted."""
        self._reads.add(others)
        return self._providers

    @property
    def provider(self) -> IntVector:
        """Index into `providers`, ascending; shape (offers,)."""
        self._reads.add(others)
        return self._provider

    @property
    def slots(self) -> tuple[int | None, ...]:
        """Lease slots of each provider: the least that one of its offers states; None if none does."""
        self._reads.add(others)
        return self._slots

    @property
    def free(self) -> tuple[Mapping[int, int], ...]:
        """The free-GPU histogram of each offer."""
        self._reads.add(_free)
        return self._free

    @cached_property
    def _providers(self) -> tuple[str, ...]:
        return tuple(sorted({offer.provider for offer in self._offers}))

    @cached_property
    def _provider(self) -> IntVector:
        index = {name: i for i, name in enumerate(self._providers)}
        row = np.fromiter((index[offer.provider] for offer in self._offers), dtype=np.int64, count=len(self))
        row.flags.writeable = False
        return row

    @cached_property
    def _slots(self) -> tuple[int | None, ...]:
        stated = slots_of(self._offers)
        return tuple(None if (slots := stated[name]) is None else max(0, slots) for name in self._providers)

    @cached_property
    def _free(self) -> tuple[Mapping[int, int], ...]:
        return tuple(offer.free for offer in self._offers)

    @cached_property
    def _nodes(self) -> tuple[IntVector, IntVector, IntVector]:
        """(offer, free GPUs on a node, number of such nodes), one entry per bucket of the histograms."""
        flat = [(i, gpus, nodes) for i, offer in enumerate(self._offers) for gpus, nodes in offer.free.items()]
        columns = np.array(flat, dtype=np.int64).reshape(len(flat), 3)
        return columns[:, 0], columns[:, 1], columns[:, 2]


class OfferChanges:
    """What differs between the offers of two passes, so that only that is judged again."""

    def __init__(self, old: OfferTable, new: OfferTable) -> None:
        self._old, self._new = old.offers, new.offers
        self.aligned = old.names == new.names
        self.source: IntVector = positions(old.names, new.names)
        at = moved(self._old, self._new) if self.aligned else range(len(new))
        self._touched = [i for i in at if self.source[i] < 0 or self._differs(i, int(self.source[i]))]
        self._rows: dict[frozenset[Fact], IntVector] = {}
        self._parts: dict[bytes, OfferTable] = {}

    def rows(self, reads: frozenset[Fact]) -> IntVector:
        """The offers, by their new index, that are new or of which one of these facts changed."""
        known = self._rows.get(reads)
        if known is None:
            rows = [i for i in self._touched if self.source[i] < 0 or self._moved(i, reads)]
            if others in reads and (self._touched or not self.aligned):
                rows = list(range(len(self._new)))
            known = self._rows[reads] = np.array(rows, dtype=np.int64)
        return known

    def part(self, rows: IntVector) -> OfferTable:
        """A table of these new offers only."""
        name = rows.tobytes()
        known = self._parts.get(name)
        if known is None:
            known = self._parts[name] = OfferTable([self._new[i] for i in rows])
        return known

    def carried(self, row: NDArray[V]) -> NDArray[V]:
        """A copy of a row over the old offers for the new ones; what is new among them has no meaning yet."""
        if self.aligned:
            return row.copy()
        return row[np.maximum(self.source, 0)] if len(row) else np.zeros(len(self._new), dtype=row.dtype)

    def _differs(self, i: int, source: int) -> bool:
        return self._old[source] is not self._new[i] and self._old[source] != self._new[i]

    def _moved(self, i: int, reads: frozenset[Fact]) -> bool:
        old, new = self._old[self.source[i]], self._new[i]
        return any(fact(old) != fact(new) for fact in reads)


def positions(old: Sequence[Hashable], new: Sequence[Hashable]) -> IntVector:
    """Where each of the distinct `new` is among the distinct `old`, -1 if it is not; shape (new,)."""
    if old == new:
        return np.arange(len(new))
    index = {name: i for i, name in enumerate(old)}
    return np.fromiter((index.get(name, -1) for name in new), dtype=np.int64, count=len(new))


def others(offer: Offer) -> object:
    """Stands for a fact that rests on the other offers too: what read it is computed again for all of them."""
    return offer


def slots_of(offers: Iterable[Offer]) -> dict[str, int | None]:
    """Lease slots by provider: the least that one of its offers states; None if none does."""
    slots: dict[str, int | None] = {}
    for offer in offers:
        known, mine = slots.get(offer.provider), offer.lease_slots
        slots[offer.provider] = mine if known is None else known if mine is None else min(known, mine)
    return slots


def _whole(offer: Offer) -> object:
    return offer


def _free(offer: Offer) -> object:
    return offer.free


def _name(offer: Offer) -> tuple[str, str]:
    return offer.provider, offer.gpu.product


def _provider(offer: Offer) -> str:
    return offer.provider


def price_of(offer: Offer) -> int:
    """The fact behind `OfferTable.price`."""
    return min(offer.price, MAX_PRICE)
