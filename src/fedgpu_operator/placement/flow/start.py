"""A first guess of what a unit is worth to each class: the problem in miniature, then less small; nothing exact."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.flow.costs import NEVER, Costs
from fedgpu_operator.placement.flow.network import UNCAPPED, FlowProblem, Idle, Pairs, Pricing, flow_on, summed
from fedgpu_operator.placement.problem import IntVector

CLASSES: Final = 1_000
"""Bunches of classes in the miniature, about."""

PAIRS: Final = 65_536
"""Pairs of the first miniature, about: its flow takes some hundredths of a second."""

BUNCHES: Final = 160
"""Bunches of offers in the first miniature at least."""

STEP: Final = 4
"""How many times as many bunches of offers the second miniature has as the first."""

LOOKS: Final = 64
"""Classes whose prices tell which offers are alike."""

DETOUR: Final = 4
"""How many typical dear costs it costs to leave a unit waiting while counts are not yet known."""

FINE: Final = 2**19
"""Steps into which a typical dear cost is divided while nothing must be exact."""


FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]


class Bunches(NamedTuple):
    """Things that are alike, each bunch with one of them to stand for it: `middle` (B,) and the units of all, (B,)."""

    middle: IntVector
    units: IntVector


def idle_costs(costs: Costs, problem: FlowProblem) -> tuple[IntVector, int]:
    """What waiting costs a unit of each class while counts are not yet known, (C,), and the step of rounded costs."""
    look = np.arange(0, len(problem.supply), max(1, len(problem.supply) // 64))
    longest: dict[tuple[int, int], int] = {}
    for row in np.flatnonzero(problem.demand).tolist():
        key = id(costs.price[row]), id(costs.eligible[row])
        if key not in longest or costs.seconds[row] > costs.seconds[longest[key]]:
            longest[key] = row
    typical = 1
    for row in longest.values():
        sample = np.sort(costs.at(row, look)[costs.eligible[row][look]])
        if len(sample):
            typical = max(typical, int(sample[len(sample) // 2]))
    return DETOUR * typical * problem.rank, max(1, typical // FINE)


def sizes(problem: FlowProblem) -> IntVector:
    """How many offers a class should know, (C,): several times what its demand fills, and some for choice."""
    asking, offers = int(np.count_nonzero(problem.demand)), len(problem.supply)
    mean = max(1.0, float(problem.supply.sum()) / max(1, offers))
    some = min(40, max(8, 400_000 // max(1, asking)))
    return np.minimum(some + (4 * problem.demand / mean).astype(np.int64), offers)


def nearby(pricing: Pricing, prices: IntVector, best: IntVector, size: IntVector) -> Pairs:
    """For each class about `size` offers that are cheapest at these prices, for each offer its nearest classes."""
    anything = np.full(len(best), NEVER, dtype=np.int64)
    return pricing.below(prices, anything, size).with_(pricing.rivals(prices, best))


def guess(pricing: Pricing, problem: FlowProblem, idle_cost: IntVector, coarse: int) -> IntVector:
    """The cost plus price at which each class buys, (C,), about; NEVER if nothing is known."""
    costs, asking, offers = pricing.costs, pricing.asking, np.flatnonzero(pricing.open)
    classes = _classes(costs, problem, asking)
    looks = _looks(costs, classes, offers)
    lawful = pricing.count() / max(1, len(asking) * len(offers))
    size = max(BUNCHES, int(PAIRS / max(1.0, len(classes.middle) * lawful)))
    supply = _within_caps(problem)[offers]
    mini = _Miniature(costs, problem, classes, _offers(looks, offers, supply, size))
    best, prices = mini.solve(None, idle_cost, coarse)
    if size * 2 * STEP < len(offers):
        mini = _Miniature(costs, problem, classes, _offers(looks, offers, supply, size * STEP))
        best, prices = mini.solve(best, idle_cost, coarse)
    whole = np.full(len(problem.demand), NEVER, dtype=np.int64)
    whole[asking] = mini.known_to(asking, costs, best, prices)
    return whole


class _Miniature:
    """Bunches of classes and of offers, each with its units; nobody's lease slots bind."""

    def __init__(self, costs: Costs, problem: FlowProblem, classes: Bunches, offers: Bunches) -> None:
        self._rows, self._offers = classes.middle, offers.middle
        self._costs = costs.among(classes.middle, offers.middle)
        everything = np.ones(len(offers.middle), dtype=np.bool_)
        self._pricing = Pricing(self._costs, np.arange(len(classes.middle)), everything)
        rank, place = problem.rank[classes.middle], problem.place[classes.middle]
        nobody = np.full(len(offers.middle), UNCAPPED, dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        self._problem = FlowProblem(classes.units, rank, place, problem.places, offers.units, nobody, none)
        self._lost = np.array([not each.any() for each in self._costs.eligible], dtype=np.bool_)

    def solve(self, best: IntVector | None, idle_cost: IntVector, coarse: int) -> tuple[IntVector, IntVector]:
        """What each bunch pays (NEVER if nothing is here for it) and the prices, given what they paid before."""
        pricing, problem = self._pricing, self._problem
        if best is None:
            pairs = pricing.pairs()
        else:
            # Twice as many as elsewhere: a bunch that finds no room pays the price of waiting, which tells nothing.
            size = np.minimum(2 * sizes(problem), len(self._offers))
            pairs = nearby(pricing, pricing.bids(best), best, size)
        state = flow_on(problem, self._costs, pairs, Idle(problem.waiting, idle_cost[self._rows]), coarse)
        return np.where(self._lost, NEVER, state.known), state.prices

    def known_to(self, asking: IntVector, costs: Costs, best: IntVector, prices: IntVector) -> IntVector:
        """What the classes `asking` would pay at the prices found here."""
        if len(self._rows) == len(asking):
            return best
        everything = np.ones(len(self._offers), dtype=np.bool_)
        return Pricing(costs.among(asking, self._offers), np.arange(len(asking)), everything).best(prices)


def _classes(costs: Costs, problem: FlowProblem, asking: IntVector) -> Bunches:
    """The classes that ask; if there are many, those of the same prices, law and priority by their run limits."""
    if len(asking) <= CLASSES:
        return Bunches(asking, problem.demand[asking])
    numbers: dict[tuple[int, int, int], int] = {}
    keys = zip(problem.rank.tolist(), map(id, costs.price), map(id, costs.eligible), strict=True)
    kind = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)[asking]
    order = np.lexsort((np.array(costs.seconds, dtype=np.int64)[asking], kind))
    kind = kind[order]
    each = -(-len(asking) // CLASSES)
    if len(numbers) <= CLASSES:
        part = kind * len(asking) + (np.arange(len(kind)) - np.searchsorted(kind, kind)) // each
    else:
        part = np.arange(len(kind)) // each
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return _bunches(asking[order], problem.demand[asking[order]], starts)


def _looks(costs: Costs, classes: Bunches, offers: IntVector) -> FloatMatrix:
    """What the offers cost some classes per second, (F, O), those with much demand first; far more if unlawful."""
    until = np.cumsum(classes.units)
    some = np.unique(np.searchsorted(until, (np.arange(LOOKS) + 0.5) * until[-1] / LOOKS))
    rows = classes.middle[some].tolist()
    price = np.stack([costs.price[row][offers] for row in rows]).astype(np.float64)
    lawful = np.stack([costs.eligible[row][offers] for row in rows])
    return np.where(lawful, price, 2 * price.max(where=lawful, initial=1))


def _offers(looks: FloatMatrix, offers: IntVector, supply: FloatVector, count: int) -> Bunches:
    """So many bunches of offers that cost about the same for all who look: the most unequal ones are halved."""
    order, starts = np.arange(len(offers)), np.zeros(1, dtype=np.int64)
    while len(starts) < min(count, len(offers)):
        seen = looks[:, order]
        length = np.diff(starts, append=len(offers))
        spread = np.maximum.reduceat(seen, starts, axis=1) - np.minimum.reduceat(seen, starts, axis=1)
        bunch = np.repeat(np.arange(len(starts)), length)
        order = order[np.lexsort((seen[spread.argmax(axis=0)[bunch], np.arange(len(order))], bunch))]
        parted = np.flatnonzero(length > 1)
        worst = np.argsort(-(spread.max(axis=0) * length)[parted], kind="stable")
        parted = parted[worst[: count - len(starts)]]
        starts = np.sort(np.append(starts, starts[parted] + length[parted] // 2))
    return _bunches(offers[order], supply[order], starts)


def _bunches(members: IntVector, units: NDArray[np.float64] | IntVector, starts: IntVector) -> Bunches:
    """Bunches of neighbours: the middle one stands for all."""
    middle = (starts + np.append(starts[1:], len(members))) // 2
    return Bunches(members[middle], np.rint(np.add.reduceat(units, starts)).astype(np.int64))


def _within_caps(problem: FlowProblem) -> FloatVector:
    """Supply, where a provider's slots bind in proportion less of each offer."""
    capped = problem.group != UNCAPPED
    held = summed(problem.group[capped], problem.supply[capped], len(problem.caps))
    share = np.append(problem.caps / np.maximum(1, held), 1.0)
    within: FloatVector = problem.supply * np.minimum(1.0, share[problem.group])
    return within
