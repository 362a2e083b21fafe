"""The best that can be reached, by exhaustive search; reads raw resources and imports nothing of the project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from tests.unit.placement.oracle import Pair, Raw, forbidden, nodes_of, slots_of
from tests.unit.placement.prices import effective_cost

Value = tuple[int, ...]


def value_of(world: Raw, placed: Mapping[str, Pair]) -> Value:
    """What placement minimizes: jobs left out per priority, highest first, and last the total effective cost."""
    providers = {each["metadata"]["name"]: each for each in world["providers"]}
    levels = levels_of(world)
    left, cost = [0] * len(levels), 0
    for job in world["jobs"]:
        pair = placed.get(job["metadata"]["uid"])
        if pair is None:
            left[levels.index(job["spec"].get("priority", 0))] += 1
        else:
            cost += effective_cost(world, job, providers[pair[0]], pair[1])
    return (*left, cost)


def levels_of(world: Raw) -> list[int]:
    """Priorities in use, highest first."""
    return sorted({job["spec"].get("priority", 0) for job in world["jobs"]}, reverse=True)


def optimum(world: Raw) -> Value:
    """The least value over every lawful placement of single-GPU jobs (funds left out), by exhaustive search."""
    levels = levels_of(world)
    offers = [
        (provider, product, i)
        for i, provider in enumerate(world["providers"])
        for product in provider["status"]["inventory"]
    ]
    choices = [
        [
            (number, owner, effective_cost(world, job, provider, product))
            for number, (provider, product, owner) in enumerate(offers)
            if not forbidden(world, job, provider, product)
        ]
        for job in world["jobs"]
    ]
    miss = [levels.index(job["spec"].get("priority", 0)) for job in world["jobs"]]

    @cache
    def least(number: int, free: tuple[int, ...], slots: tuple[int, ...]) -> Value:
        if number == len(choices):
            return (0,) * (len(levels) + 1)
        return min(_moves(number, free, slots))

    def _moves(number: int, free: tuple[int, ...], slots: tuple[int, ...]) -> Iterator[Value]:
        rest = least(number + 1, free, slots)
        yield tuple(part + (i == miss[number]) for i, part in enumerate(rest))
        for offer, owner, cost in choices[number]:
            if free[offer] and slots[owner]:
                rest = least(number + 1, _less(free, offer), _less(slots, owner))
                yield (*rest[:-1], rest[-1] + cost)

    return least(
        0,
        tuple(sum(nodes_of(provider, product)) for provider, product, _ in offers),
        tuple(slots_of(provider) for provider in world["providers"]),
    )


def _less(values: tuple[int, ...], at: int) -> tuple[int, ...]:
    return (*values[:at], values[at] - 1, *values[at + 1 :])
