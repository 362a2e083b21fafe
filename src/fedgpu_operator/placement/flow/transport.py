"""The transport problem as callers see it: alike classes are solved as one, parts that share nothing one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fedgpu_operator.placement.flow.costs import cut
from fedgpu_operator.placement.flow.exact import (
    ALL_PAIRS,
    Flow,
    FlowSolver,
    Transport,
    distinct,
    groups_of,
    labels,
    parts,
    tied,
)
from fedgpu_operator.placement.flow.network import summed
from fedgpu_operator.placement.problem import BoolVector, Clearing, IntVector


def transport(t: Transport, *, clearing: bool = False, first_only: bool = False) -> Flow:
    """The most units of the highest priority, then of the next, and so on; of those the least cost.

    Among equals the least sum of offer indices, where 64 bits allow. Deterministic. `clearing` adds the intervals of
    the prices; `first_only` stops at the first flow and states how good it is.
    """
    return solved(t, ALL_PAIRS, clearing=clearing, first_only=first_only)


def solved(t: Transport, shard: int, *, clearing: bool, first_only: bool) -> Flow:
    """`transport` in shards of at least so many pairs each, where the problem falls into parts."""
    kinds = alike(t)
    if len(kinds.first) < len(t.demand):
        return kinds.shared_out(t, solved(kinds.joined(t), shard, clearing=clearing, first_only=first_only))
    group, _ = groups_of(t)
    shards = split(t.eligible, tied(t, group), shard)
    if len(shards) == 1:
        return FlowSolver(t).solve(intervals=clearing, first_only=first_only)
    flows = [FlowSolver(_part(t, each)).solve(intervals=clearing, first_only=first_only) for each in shards]
    return _merged(t, shards, flows)


def _part(t: Transport, shard: Shard) -> Transport:
    """The shard alone, with vectors that were shared still shared."""
    rows, offers = shard
    return Transport(
        demand=t.demand[rows],
        priority=tuple(t.priority[row] for row in rows.tolist()),
        seconds=t.seconds[rows],
        price=cut(t.price, rows, offers),
        eligible=cut(t.eligible, rows, offers),
        supply=t.supply[offers],
        provider=t.provider[offers],
        slots=t.slots,
        hint=None if t.hint is None else t.hint[offers],
    )


def _merged(t: Transport, shards: Sequence[Shard], flows: Sequence[Flow]) -> Flow:
    rows = np.concatenate([shard.rows[flow.rows] for shard, flow in zip(shards, flows, strict=True)])
    offers = np.concatenate([shard.offers[flow.offers] for shard, flow in zip(shards, flows, strict=True)])
    units = np.concatenate([flow.units for flow in flows])
    order = np.lexsort((offers, rows))
    prices, low, high = (np.zeros(len(t.supply), dtype=np.int64) for _ in range(3))
    intervals = False
    for shard, flow in zip(shards, flows, strict=True):
        prices[shard.offers] = flow.prices
        if flow.clearing is not None:
            intervals = True
            low[shard.offers], high[shard.offers] = flow.clearing.low, flow.clearing.high
    return Flow(
        rows=rows[order],
        offers=offers[order],
        units=units[order],
        placed=sum(flow.placed for flow in flows),
        most=sum(flow.most for flow in flows),
        cost=sum(flow.cost for flow in flows),
        floor=sum(flow.floor for flow in flows),
        certified=all(flow.certified for flow in flows),
        rounds=sum(flow.rounds for flow in flows),
        prices=prices,
        clearing=Clearing(low, high) if intervals else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class AlikeClasses:
    """`kind` (C,) of each class, numbered as they first appear, and `first` (K,), the first class of each kind."""

    kind: IntVector
    first: IntVector

    def joined(self, t: Transport) -> Transport:
        """The same problem with one class per kind."""
        first = self.first.tolist()
        return replace(
            t,
            demand=summed(self.kind, t.demand, len(first)),
            priority=tuple(t.priority[row] for row in first),
            seconds=t.seconds[self.first],
            price=[t.price[row] for row in first],
            eligible=[t.eligible[row] for row in first],
        )

    def shared_out(self, t: Transport, flow: Flow) -> Flow:
        """A flow of the joined problem for the classes: those that come first get the units of the first offers."""
        if not len(flow.units):
            return flow
        members = np.argsort(self.kind, kind="stable")
        wanted = np.concatenate([[0], np.cumsum(t.demand[members])])
        kind_starts = wanted[np.searchsorted(self.kind[members], np.arange(len(self.first)))]
        ends = np.cumsum(flow.units)
        before = np.concatenate([[0], ends])[np.searchsorted(flow.rows, flow.rows)]
        until = kind_starts[flow.rows] + ends - before
        cuts = np.unique(np.concatenate([until, until - flow.units, wanted]))
        middle = cuts[:-1]
        part = np.searchsorted(until, middle, side="right")
        owner = np.searchsorted(wanted, middle, side="right") - 1
        real = (part < len(until)) & (middle >= (until - flow.units)[np.minimum(part, len(until) - 1)])
        rows, offers, units = members[owner[real]], flow.offers[part[real]], np.diff(cuts)[real]
        order = np.lexsort((offers, rows))
        return replace(flow, rows=rows[order], offers=offers[order], units=units[order])


def alike(t: Transport) -> AlikeClasses:
    """Which classes have the same priority, run limit, prices and offers; those two as the same objects."""
    numbers: dict[tuple[int, int, int, int], int] = {}
    first: list[int] = []
    kind = np.empty(len(t.demand), dtype=np.int64)
    for row, key in enumerate(zip(t.priority, t.seconds.tolist(), map(id, t.price), map(id, t.eligible), strict=True)):
        if key not in numbers:
            numbers[key] = len(first)
            first.append(row)
        kind[row] = numbers[key]
    return AlikeClasses(kind, np.array(first, dtype=np.int64))


class Shard(NamedTuple):
    """Indices of classes and offers, ascending."""

    rows: IntVector
    offers: IntVector


def split(eligible: Sequence[BoolVector], tied: IntVector, least: int) -> list[Shard]:
    """Connected components of classes and offers, small ones together until a shard has `least` pairs.

    `tied` (O,) names what offers share besides classes: those of one provider whose slots bind have equal numbers.
    Offers that no class may use are in no shard, classes without an offer neither.
    """
    label, of_row = labels(eligible, tied), parts(eligible, tied)
    counts = {key: int(np.count_nonzero(each)) for key, each in distinct(eligible).items()}
    pairs: dict[int, int] = {}
    for part, each in zip(of_row.tolist(), eligible, strict=True):
        if part >= 0:
            pairs[part] = pairs.get(part, 0) + counts[id(each)]
    return [
        Shard(np.flatnonzero(np.isin(of_row, inside)), np.flatnonzero(np.isin(label, inside)))
        for inside in _bundles(pairs, least)
    ]


def _bundles(pairs: dict[int, int], least: int) -> list[list[int]]:
    bundles: list[list[int]] = [[]]
    held = 0
    for part, count in sorted(pairs.items()):
        if held >= least:
            bundles.append([])
            held = 0
        bundles[-1].append(part)
        held += count
    return bundles
