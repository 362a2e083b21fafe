"""Masks and effective prices of a group of equal jobs over all offers, each computed once per plugin and key."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.carry import Carry, Reads, fixed
from fedgpu_operator.placement.classes import Group
from fedgpu_operator.placement.context import BoolVector, Context, IntVector
from fedgpu_operator.placement.guard import Broken, Guard
from fedgpu_operator.placement.registry import Filter, Pricer
from fedgpu_operator.placement.table import OfferTable, price_of
from fedgpu_operator.placement.uids import Uids


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

    `eligible` (bool) and `price` (int64, effective, µUSD per GPU-hour; it means nothing where not eligible) have shape
    (offers,), are read-only, and the same object where they are equal. `gates` are the filters that have something to
    say, in order; `parts` what is added to the price, by component. `payer` is the namespace whose funds bind the jobs
    (None: unlimited), `key` is equal for the same group in another pass, `limit` the highest price in money that they
    still pay for (µUSD per GPU-hour; None: any).
    """

    ctx: Context
    members: Uids
    payer: str | None
    eligible: BoolVector
    price: IntVector
    gates: tuple[Gate, ...]
    parts: tuple[tuple[str, IntVector], ...]
    key: Hashable
    limit: int | None = None

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
class Kept:
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
        self._old: Kept | None = None if before is None else before.kept
        self._carry = Carry(table, None if before is None else before.table)
        self._nothing = fixed(np.zeros(len(table), dtype=np.bool_))
        self._passed: dict[Hashable, tuple[BoolVector, tuple[Gate, ...]]] = {}
        self._totals: dict[tuple[int, ...], IntVector] = {}
        self.kept: Kept = Kept()

    @property
    def moved(self) -> Mapping[int, tuple[IntVector, IntVector]]:
        """By id of a price: that of the pass before which it is a copy of, and the offers at which it is another."""
        return self._carry.moved

    def forget(self) -> None:
        """Let go of the pass before, once this one is done."""
        self._old = None
        self._carry.forget()

    def judged(self, group: Group) -> JudgedClass:
        """What may serve these jobs, and at which effective price."""
        price = self.kept.prices.get(group.pricers)
        if price is None:
            price = self.kept.prices[group.pricers] = self._price(group)
        name = group.filters if not price.shut else (group.filters, group.pricers)
        passed = self._passed.get(name)
        if passed is None:
            passed = self._passed[name] = self._pass(group, price.shut)
        return JudgedClass(
            group.ctx, group.members, group.payer, passed[0], price.price, passed[1], price.parts, group.key
        )

    def _pass(self, group: Group, shut: tuple[Gate, ...]) -> tuple[BoolVector, tuple[Gate, ...]]:
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

    def _gate(self, number: int, each: Filter, group: Group) -> Gate:
        key = group.filters[number]
        known = self.kept.masks.get((number, key))
        if known is None:
            known = self.kept.masks[number, key] = self._mask(number, each, group)
        return known.gate

    def _mask(self, number: int, each: Filter, group: Group) -> _Mask:
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

    def _price(self, group: Group) -> _Price:
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
        self, parts: Sequence[tuple[str, IntVector]], facts: Reads, group: Group, shut: Sequence[Gate]
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

    def _row(self, number: int, each: Pricer, group: Group) -> _Row:
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
