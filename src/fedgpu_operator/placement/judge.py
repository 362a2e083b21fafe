"""Rows over the offers that outlive a pass: only what changed is computed again; no plugin is known here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.classes import JobGroup
from fedgpu_operator.placement.context import BoolVector, Context, IntVector
from fedgpu_operator.placement.registry import Broken, Filter, Guard, Pricer
from fedgpu_operator.placement.table import Fact, OfferChanges, OfferTable, Uids, others, price_of

V = TypeVar("V", np.bool_, np.int64)

Reads = frozenset[Fact]
"""The facts of an offer that a row rests on."""


class Carry:
    """Computes rows over `table`, as far as they cannot be taken over from the table of the pass before."""

    def __init__(self, table: OfferTable, before: OfferTable | None) -> None:
        self.table = table
        self._change = None if before is None else OfferChanges(before, table)
        self._prices: dict[int, list[IntVector]] = {}
        self._masks: dict[bytes, BoolVector] = {}
        self._all = np.packbits(np.ones(len(table), dtype=np.bool_))

    def computed(
        self, compute: Callable[[OfferTable], NDArray[V]], old: NDArray[V] | None, reads: Reads | None
    ) -> tuple[NDArray[V], Reads]:
        """The row, read-only, and what it rests on; `old` and its `reads` are those of the pass before, if any."""
        change = self._change
        if change is not None and old is not None and reads is not None:
            rows = change.rows(reads)
            if change.aligned and not len(rows):
                return old, reads
            if 2 * len(rows) < len(self.table):
                part = change.part(rows)
                more = part.watched()
                row = change.carried(old)
                row[rows] = compute(part)
                if others not in more:
                    return fixed(row), reads | more
        more = self.table.watched()
        return fixed(compute(self.table)), frozenset(more)

    def total(self, parts: Sequence[IntVector], old: IntVector | None, reads: Reads) -> IntVector:
        """The price in money plus all parts; `reads` are the facts of all of them, `old` is that of the pass before."""
        change = self._change
        if change is None or old is None:
            row = self.table.price.copy()
            for part in parts:
                row += part
            return self._same(row, hash(row.tobytes()))
        rows = change.rows(reads)
        if change.aligned and not len(rows):
            return old
        row, anew = change.carried(old), self.table.price[rows]
        for part in parts:
            anew += part[rows]
        row[rows] = anew
        return self._same(row, hash((id(old), anew.tobytes())))

    def _same(self, row: IntVector, content: int) -> IntVector:
        """The one array with this content: solvers sort each array once. What comes by another way may stay apart."""
        alike = self._prices.setdefault(content, [])
        for known in alike:
            if np.array_equal(known, row):
                return known
        alike.append(fixed(row))
        return row

    def every(self, packed: Sequence[NDArray[np.uint8]]) -> BoolVector:
        """Where all of these masks hold, each with eight offers to the byte."""
        row = self._all.copy()
        for mask in packed:
            row &= mask
        name = row.tobytes()
        known = self._masks.get(name)
        if known is None:
            unpacked = np.unpackbits(row, count=len(self.table)).view(np.bool_)
            known = self._masks[name] = fixed(unpacked)
        return known


def fixed(row: NDArray[V]) -> NDArray[V]:
    """The row, from now on read-only."""
    row.flags.writeable = False
    return row


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """One filter as it stands for a group: what it lets through (bool, shape (offers,); `packed` is the same in bits).

    `broken` says why a third party's plugin could not be asked; then it lets nothing through.
    """

    plugin: Filter | Pricer
    mask: BoolVector
    packed: NDArray[np.uint8]
    broken: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedClass:
    """A group of equal jobs and what may serve it.

    `eligible` (bool) and `price` (int64, effective, µUSD per GPU-hour; it means nothing if not eligible) have shape
    (offers,), are read-only, and the same object where they are equal. `gates` are the filters that have something to
    say, in order; `parts` what is added to the price, by component. `payer` is the namespace whose funds bind the jobs
    (None: unlimited). `key` is the group's.
    """

    key: Hashable
    ctx: Context
    members: Uids
    payer: str | None
    eligible: BoolVector
    price: IntVector
    gates: tuple[Gate, ...]
    parts: tuple[tuple[str, IntVector], ...]

    def is_judged_as(self, other: JudgedClass) -> bool:
        """Whether all plugins say the same of both wherever their masks and rows are equal."""
        latency = self.ctx.job.latency
        # Whether a measurement counts goes by its age, and is shown where no rule asks for it.
        timeless = self.ctx.now == other.ctx.now or latency is None or not latency.vantages
        return timeless and self.key == other.key

    @property
    def seconds(self) -> int:
        """The run limit in GPU-seconds over all replicas."""
        return self.ctx.job.gpus * self.ctx.job.run_limit

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies that were applied, each as ``name@generation``."""
        return tuple(f"{each.name}@{each.generation}" for each in self.ctx.policies)


def _gate(plugin: Filter | Pricer, mask: BoolVector, broken: str = "") -> Gate:
    return Gate(plugin, mask, np.packbits(mask), broken)


class _Mask(NamedTuple):
    gate: Gate
    reads: Reads | None


class _Row(NamedTuple):
    row: IntVector
    counts: bool
    reads: Reads | None
    broken: str


class _Price(NamedTuple):
    price: IntVector
    parts: tuple[tuple[str, IntVector], ...]
    reads: Reads
    shut: tuple[Gate, ...]


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """What a judge computed, by number of the plugin and key, and by the keys of all pricers."""

    masks: dict[tuple[int, Hashable], _Mask] = field(default_factory=dict)
    rows: dict[tuple[int, Hashable], _Row] = field(default_factory=dict)
    prices: dict[Hashable, _Price] = field(default_factory=dict)


class Judge:
    """Judges groups over one table of offers; what it computed for a key serves all groups with that key.

    `before` is the judge of the pass before: what it knows of offers that did not change is not asked again.
    """

    def __init__(self, table: OfferTable, guard: Guard, before: Judge | None = None) -> None:
        self.table = table
        self._guard = guard
        self._old: JudgedRows | None = None if before is None else before.kept
        self._carry = Carry(table, None if before is None else before.table)
        self._nothing = fixed(np.zeros(len(table), dtype=np.bool_))
        self._passed: dict[Hashable, tuple[BoolVector, tuple[Gate, ...]]] = {}
        self._totals: dict[tuple[int, ...], IntVector] = {}
        self.kept: JudgedRows = JudgedRows()

    def forget(self) -> None:
        """Let go of the pass before, once this one is done."""
        self._old = None

    def judged(self, group: JobGroup) -> JudgedClass:
        """What may serve these jobs, and at which effective price."""
        price = self.kept.prices.get(group.pricers)
        if price is None:
            price = self.kept.prices[group.pricers] = self._price(group)
        name = group.filters if not price.shut else (group.filters, group.pricers)
        passed = self._passed.get(name)
        if passed is None:
            passed = self._passed[name] = self._pass(group, price.shut)
        return JudgedClass(
            group.key, group.ctx, group.members, group.payer, passed[0], price.price, passed[1], price.parts
        )

    def _pass(self, group: JobGroup, shut: tuple[Gate, ...]) -> tuple[BoolVector, tuple[Gate, ...]]:
        """Where all filters let the group through, and the filters that have something to say."""
        filters = self._guard.plugins.filters
        gates = [
            self._gate(number, filters[number], group) for number, key in enumerate(group.filters) if key is not None
        ]
        if shut:
            # A price that could not be asked is the fault of a third party, whose filters stand before the states.
            states = sum(1 for gate in gates if gate.plugin in self._guard.plugins.states)
            gates[len(gates) - states : len(gates) - states] = shut
        return self._carry.every([gate.packed for gate in gates]), tuple(gates)

    def _gate(self, number: int, each: Filter, group: JobGroup) -> Gate:
        key = group.filters[number]
        known = self.kept.masks.get((number, key))
        if known is None:
            known = self.kept.masks[number, key] = self._mask(number, each, group)
        return known.gate

    def _mask(self, number: int, each: Filter, group: JobGroup) -> _Mask:
        key = group.filters[number]
        if isinstance(key, Broken):
            return _Mask(_gate(each, self._nothing, key.message), None)
        old = None if self._old is None else self._old.masks.get((number, key))
        failed = self._guard.failed
        mask, reads = self._carry.computed(
            lambda table: self._guard.mask(each, group.ctx, table),
            None if old is None else old.gate.mask,
            None if old is None else old.reads,
        )
        # A third party's plugin that failed is asked again in the next pass.
        return _Mask(_gate(each, mask), reads if self._guard.failed == failed else None)

    def _price(self, group: JobGroup) -> _Price:
        """The effective price, its parts, and a shut gate for each part that a third party failed to price."""
        parts: list[tuple[str, IntVector]] = []
        shut: list[Gate] = []
        facts: Reads = frozenset({price_of})
        for number, (each, key) in enumerate(zip(self._guard.plugins.pricers, group.pricers, strict=True)):
            if key is None:
                continue
            known = self.kept.rows.get((number, key))
            if known is None:
                known = self.kept.rows[number, key] = self._row(number, each, group)
            if known.broken:
                shut.append(_gate(each, self._nothing, known.broken))
            elif known.counts:
                parts.append((each.name, known.row))
            facts |= known.reads or frozenset()
        return _Price(self._total(parts, facts, group, shut), tuple(parts), facts, tuple(shut))

    def _total(
        self, parts: Sequence[tuple[str, IntVector]], facts: Reads, group: JobGroup, shut: Sequence[Gate]
    ) -> IntVector:
        """The price in money and all parts; groups whose parts are the same rows share it."""
        name = tuple(id(row) for _, row in parts)
        known = self._totals.get(name)
        if known is None:
            old = None if self._old is None else self._old.prices.get(group.pricers)
            usable = old is not None and not old.shut and not shut and old.reads == facts
            known = self._totals[name] = self._carry.total(
                [row for _, row in parts], old.price if usable and old else None, facts
            )
        return known

    def _row(self, number: int, each: Pricer, group: JobGroup) -> _Row:
        key = group.pricers[number]
        if isinstance(key, Broken):
            return _Row(self.table.price, False, None, key.message)
        old = None if self._old is None else self._old.rows.get((number, key))
        failed = self._guard.failed
        row, reads = self._carry.computed(
            lambda table: self._guard.price(each, group.ctx, table),
            None if old is None else old.row,
            None if old is None else old.reads,
        )
        if self._guard.failed != failed:
            return _Row(row, False, None, self._guard.last)
        return _Row(row, old.counts if old is not None and old.row is row else bool(row.any()), reads, "")
