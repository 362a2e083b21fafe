"""Classes that differ in nothing a flow can see are one: joined before a solve, and shared out after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedgpu_operator.placement.flow.network import summed
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.problem import IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """`kind` (C,) of each class, numbered as they first appear, and `first` (K,), the first class of each kind."""

    kind: IntVector
    first: IntVector

    def joined(self, t: Transport) -> Transport:
        """The same market with one class per kind."""
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
        """A flow of the joined market for the classes: those that come first get the units of the first offers."""
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


def alike(t: Transport) -> Kinds:
    """Which classes have the same priority, run limit, prices and offers; those two as the same objects."""
    numbers: dict[tuple[int, int, int, int], int] = {}
    first: list[int] = []
    kind = np.empty(len(t.demand), dtype=np.int64)
    for row, key in enumerate(zip(t.priority, t.seconds.tolist(), map(id, t.price), map(id, t.eligible), strict=True)):
        if key not in numbers:
            numbers[key] = len(first)
            first.append(row)
        kind[row] = numbers[key]
    return Kinds(kind, np.array(first, dtype=np.int64))
