"""Units of classes to offers, exactly: most by priority, then cheapest, proven over all pairs; no job, rule or gang."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedgpu_operator.placement.flow.costs import cut
from fedgpu_operator.placement.flow.exact import ALL_PAIRS, Solver, groups_of, tied
from fedgpu_operator.placement.flow.kinds import alike
from fedgpu_operator.placement.flow.shards import Shard, split
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.problem import Clearing

__all__ = ["Flow", "Transport", "solved", "transport"]


def transport(t: Transport, *, clearing: bool = False, first_only: bool = False) -> Flow:
    """The most units of the highest priority, then of the next, and so on; of those the least cost.

    Among equals the least sum of offer indices, where 64 bits allow. Deterministic. `clearing` adds the intervals of
    the prices; `first_only` stops at the first flow and states how good it is.
    """
    return solved(t, ALL_PAIRS, clearing=clearing, first_only=first_only)


def solved(t: Transport, shard: int, *, clearing: bool, first_only: bool) -> Flow:
    """`transport` in shards of at least so many pairs each, where the market falls into parts."""
    kinds = alike(t)
    if len(kinds.first) < len(t.demand):
        return kinds.shared_out(t, solved(kinds.joined(t), shard, clearing=clearing, first_only=first_only))
    group, _ = groups_of(t)
    shards = split(t.eligible, tied(t, group), shard)
    if len(shards) == 1:
        return Solver(t).solve(intervals=clearing, first_only=first_only)
    flows = [Solver(_part(t, each)).solve(intervals=clearing, first_only=first_only) for each in shards]
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
