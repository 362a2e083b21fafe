"""Jobs of one gang size as a transport problem: they are interchangeable to an offer, so one flow places them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow import Transport, transport
from fedgpu_operator.placement.flow.costs import COST_RANGE
from fedgpu_operator.placement.gangs.plan import Plan
from fedgpu_operator.placement.gangs.relax import FloatVector
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

COST_STEPS: Final = 2**30
"""Resolution of priced costs in the flow."""


def place_kind(plan: Plan, members: Sequence[int], most: Sequence[int], table: FloatVector) -> None:
    """Places up to `most` jobs of each of the groups `members`, all of one shape and number of replicas.

    About as many as can be at about the least priced cost: the flow's first answer, as no price here is exact.
    """
    first = plan.groups[members[0]]
    supply = plan.stock.room[first.shape] // first.replicas
    columns = np.flatnonzero((supply > 0) & plan.stock.open)
    if not len(columns):
        return
    column_of = np.full(len(supply), -1, dtype=np.int64)
    column_of[columns] = np.arange(len(columns))
    priced = [plan.groups[i].priced(table) for i in members]
    scale = COST_STEPS / max(max(float(each.max()) for each in priced), 1.0)
    price: list[IntVector] = []
    eligible: list[BoolVector] = []
    known: dict[int, tuple[IntVector, IntVector, BoolVector]] = {}
    for i, costs in zip(members, priced, strict=True):
        offers = plan.groups[i].offers
        if id(offers) not in known:
            there = column_of[offers]
            mask = np.zeros(len(columns), dtype=bool)
            mask[there[there >= 0]] = True
            known[id(offers)] = np.flatnonzero(there >= 0), there[there >= 0], mask
        kept, there, mask = known[id(offers)]
        row = np.zeros(len(columns), dtype=np.int64)
        row[there] = np.rint(costs[kept] * scale)
        price.append(row)
        eligible.append(mask)
    flow = transport(
        Transport(
            demand=np.array(most, dtype=np.int64),
            priority=(0,) * len(members),
            seconds=np.ones(len(members), dtype=np.int64),
            price=price,
            eligible=eligible,
            supply=supply[columns],
            provider=plan.stock.provider[columns],
            slots=tuple(plan.stock.slots),
        ),
        first_only=True,
    )
    for row, column, jobs in zip(flow.rows.tolist(), flow.offers.tolist(), flow.units.tolist(), strict=True):
        plan.add(members[row], int(columns[column]), jobs)


def place_singles(problem: Problem, plan: Plan, table: FloatVector) -> None:
    """Places all jobs of one GPU anew in what the others leave, by the first answer of one flow.

    It begins at the prices of `table` (µUSD · s per hour and replica, shape (kinds, offers)).
    """
    members = [i for i, each in enumerate(plan.groups) if each.gpus == 1]
    if not members:
        return
    for i in members:
        for offer, jobs in tuple(plan.flows[i].items()):
            # Where the rest cannot be laid anew they stay; the flow then places the others.
            plan.drop(i, offer, jobs)
    classes = [problem.classes[plan.groups[i].index] for i in members]
    flow = transport(
        Transport(
            demand=np.array([plan.left[i] for i in members], dtype=np.int64),
            priority=tuple(each.priority for each in classes),
            seconds=np.array([each.seconds for each in classes], dtype=np.int64),
            price=[each.price for each in classes],
            eligible=[each.eligible for each in classes],
            supply=plan.stock.room[plan.groups[members[0]].shape],
            provider=plan.stock.provider,
            slots=tuple(plan.stock.slots),
            hint=np.rint(np.minimum(table[plan.groups[members[0]].kind], COST_RANGE)).astype(np.int64),
        ),
        first_only=True,
    )
    for row, offer, jobs in zip(flow.rows.tolist(), flow.offers.tolist(), flow.units.tolist(), strict=True):
        plan.add(members[row], offer, jobs)
