"""Plain OR-Tools: one minimum-cost flow with every lawful pair as an arc, of jobs by themselves or of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from benchmarks.placement.peers import Pairs
from benchmarks.placement.rules import Policies, allowed, effective_price
from numpy.typing import NDArray
from ortools.graph.python import min_cost_flow

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer

Ints = NDArray[np.int64]
CEILING = 2**60
"""OR-Tools multiplies costs by the number of nodes and wants some bits for itself; beyond 64 it refuses."""


@dataclass(frozen=True, slots=True)
class Row:
    """Jobs that may be at `offers`, at `costs` each (µUSD · s per hour); the uppermost `priority` goes first."""

    count: int
    priority: int
    offers: Ints
    costs: Ints


def place_classes(jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies) -> Pairs:
    """The same with one node for all jobs that are equal, handed out in the jobs' order."""
    members: dict[object, list[int]] = {}
    for i, job in enumerate(jobs):
        rules = (job.gpu, job.rules, job.latency, job.max_price, job.rates, policies[job.namespace])
        members.setdefault((rules, job.run_limit, job.priority), []).append(i)
    groups = list(members.values())
    alone = rows_of([jobs[group[0]] for group in groups], offers, policies)
    rows = [replace(row, count=len(group)) for row, group in zip(alone, groups, strict=True)]
    left = [iter(group) for group in groups]
    return [(next(left[row]), offer) for row, offer, count in solve(rows, offers) for _ in range(count)]


def rows_of(jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies) -> list[Row]:
    """One row per job. Equal jobs share their arrays, but every job keeps arcs of its own."""
    known: dict[object, tuple[Ints, Ints]] = {}
    rows = []
    for job in jobs:
        key = (job.gpu, job.rules, job.latency, job.max_price, job.rates, policies[job.namespace])
        if key not in known:
            fit = [o for o, offer in enumerate(offers) if allowed(job, offer, policies)]
            prices = [effective_price(job, offers[o]) for o in fit]
            known[key] = np.array(fit, dtype=np.int64), np.array(prices, dtype=np.int64)
        fits, price = known[key]
        rows.append(Row(1, job.priority, fits, price * job.run_limit))
    return rows


def solve(rows: Sequence[Row], offers: Sequence[Offer]) -> list[tuple[int, int, int]]:
    """(row, offer, jobs) of the optimum; single-GPU jobs only. Raises RuntimeError where OR-Tools finds none."""
    graph = min_cost_flow.SimpleMinCostFlow()
    names = sorted({offer.provider for offer in offers})
    provider = {name: len(rows) + len(offers) + i for i, name in enumerate(names)}
    sink = len(rows) + len(offers) + len(names)
    counts = np.array([row.count for row in rows], dtype=np.int64)
    lengths = [len(row.offers) for row in rows]
    arc_rows = np.repeat(np.arange(len(rows)), lengths)
    arc_offers = np.concatenate([row.offers for row in rows])
    costs = np.concatenate([row.costs for row in rows])
    unit = gcd(*map(int, np.unique(costs))) or 1
    graph.add_arcs_with_capacity_and_unit_cost(arc_rows, arc_offers + len(rows), counts[arc_rows], costs // unit)
    _stay(graph, rows, counts, sink, int(costs.max()) // unit)
    free = np.array([sum(size * nodes for size, nodes in offer.free.items()) for offer in offers], dtype=np.int64)
    owners = np.array([provider[offer.provider] for offer in offers], dtype=np.int64)
    zeros = np.zeros(len(offers), dtype=np.int64)
    graph.add_arcs_with_capacity_and_unit_cost(np.arange(len(offers)) + len(rows), owners, free, zeros)
    slots = {offer.provider: offer.lease_slots for offer in offers}
    for name in names:
        left = slots[name]
        graph.add_arc_with_capacity_and_unit_cost(provider[name], sink, int(counts.sum()) if left is None else left, 0)
    graph.set_nodes_supplies(np.arange(len(rows)), counts)
    graph.set_node_supply(sink, -int(counts.sum()))
    status = graph.solve()
    if status != graph.OPTIMAL:
        raise RuntimeError(f"OR-Tools ended with status {status}")
    flows = graph.flows(np.arange(len(arc_rows)))
    used = np.flatnonzero(flows)
    return list(zip(arc_rows[used].tolist(), arc_offers[used].tolist(), flows[used].tolist(), strict=True))


def _stay(graph: min_cost_flow.SimpleMinCostFlow, rows: Sequence[Row], counts: Ints, sink: int, dearest: int) -> None:
    """Arcs for jobs that stay out: as much dearer than a rearrangement saves as fits, and more for higher priorities.

    Which jobs can be placed together is a matroid, so as many of the highest level as possible and as many as possible
    in all do not contradict each other: a step between levels is enough.
    """
    levels = sorted({row.priority for row in rows})
    step = min(dearest * (sink + 1), CEILING // (sink + 2) // len(levels))
    penalties = np.array([step * (1 + levels.index(row.priority)) for row in rows], dtype=np.int64)
    ends = np.full(len(rows), sink, dtype=np.int64)
    graph.add_arcs_with_capacity_and_unit_cost(np.arange(len(rows)), ends, counts, penalties)


def place(jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies) -> Pairs:
    """(index of job, index of offer), every job a node of its own."""
    return [(row, offer) for row, offer, _ in solve(rows_of(jobs, offers, policies), offers)]
