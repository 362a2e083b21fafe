"""Clearing prices against a worked example, and against what one GPU more or less really changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from random import Random

import numpy as np
import pytest

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job, PlacementRules
from fedgpu_operator.domain.market import Market
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement import Snapshot
from fedgpu_operator.placement import solve as solver
from fedgpu_operator.placement.market import MarketView, emptied, regions_of, survey, survey_snapshot
from fedgpu_operator.placement.problem import JobClass

NOW = datetime(2026, 11, 1, tzinfo=UTC)
H100 = GpuModel("H100", 81_559, "hopper")
USD = 10**6


def offer(name: str, price: float, free: int, country: str = "DE", region: str = "", **fields: object) -> Offer:
    made = Offer(name, H100, MicroUSD(round(price * USD)), Location(country, region), {1: free} if free else {})
    return replace(made, **fields)  # type: ignore[arg-type]  # fields of one test's offer, by name


def ask(size: int, offers: Sequence[Offer], *, where: str = "", extra: int = 0, priority: int = 0) -> JobClass:
    """A class of single-GPU jobs: `where` names the countries it may go to, `extra` is added to each list price."""
    return JobClass(
        members=[f"{priority}-{where}-{extra}-{i}" for i in range(size)],
        priority=priority,
        gpus=1,
        replicas=1,
        seconds=7200,
        price=np.array([each.price + extra for each in offers], dtype=np.int64),
        eligible=np.array([each.location.country in (where or each.location.country) for each in offers]),
    )


def market(view: MarketView, region: str) -> Market:
    return next(each for each in view.markets if each.point.region == region)


def figures(view: MarketView, region: str) -> tuple[float, float | None, int, int, int]:
    point = market(view, region).point
    high = None if point.high is None else point.high / USD
    return point.low / USD, high, point.free, point.wanted, point.unmet


WORLD = (offer("a", 2.0, 3, "DE"), offer("b", 2.5, 2, "FR"), offer("c", 4.0, 5, "US"), offer("d", 9.0, 0, "DE"))
"""The worked example of docs/market.md."""


def test_without_demand_the_price_is_the_cheapest_free_offer() -> None:
    view = survey([], WORLD, NOW)
    assert figures(view, "DE") == (2.0, 2.0, 3, 0, 0)
    assert figures(view, "EU") == (2.0, 2.0, 5, 0, 0)
    assert figures(view, "US") == (4.0, 4.0, 5, 0, 0)
    assert market(view, "GLOBAL").depth == ((2 * USD, 3), (2.5 * USD, 2), (4 * USD, 5))
    assert (market(view, "DE").point.cheapest, market(view, "DE").point.dearest) == (2 * USD, 9 * USD)
    assert view.certified


def test_demand_moves_the_price_to_the_next_offer() -> None:
    """Three jobs for Europe fill DE: one more there pushes one of them to FR, at 2.50."""
    view = survey([ask(3, WORLD, where="DEFR")], WORLD, NOW)
    assert figures(view, "DE") == (2.0, 2.5, 3, 3, 0)
    assert figures(view, "FR") == (2.5, 2.5, 2, 3, 0)
    assert figures(view, "EU") == (2.0, 2.5, 5, 3, 0)
    assert figures(view, "US") == (4.0, 4.0, 5, 0, 0)
    assert view.premiums["a/H100"].low == 0
    assert view.premiums["a/H100"].high == USD // 2


def test_a_price_has_no_upper_end_where_one_more_would_leave_work_waiting() -> None:
    """Five jobs for Europe take everything there: the next one waits, unless it may go to the US."""
    bound = [ask(5, WORLD, where="DEFR")]
    assert figures(survey(bound, WORLD, NOW), "EU") == (2.5, None, 5, 5, 0)
    waiting = survey([ask(7, WORLD, where="DEFR")], WORLD, NOW)
    assert figures(waiting, "EU") == (2.5, None, 5, 7, 2)
    assert figures(waiting, "US") == (4.0, 4.0, 5, 0, 0)
    free_to_go = survey([ask(5, WORLD)], WORLD, NOW)
    assert figures(free_to_go, "EU") == (2.5, 4.0, 5, 5, 0)


def test_what_is_sold_out_has_a_price_only_where_nothing_else_is_for_sale() -> None:
    sold = [offer("a", 2.0, 0), offer("b", 3.0, 0), offer("c", 1.0, 4, ready=False), offer("d", 1.0, 4, lease_slots=0)]
    assert figures(survey([], sold, NOW), "DE") == (1.0, None, 0, 0, 0)
    open_ones = [*sold, offer("e", 5.0, 1)]
    assert figures(survey([], open_ones, NOW), "DE") == (5.0, 5.0, 1, 0, 0)


def test_every_gpu_of_a_gang_is_wanted() -> None:
    gang = replace(ask(2, WORLD, where="US"), gpus=4, replicas=2)
    assert figures(survey([gang], WORLD, NOW), "US") == (4.0, None, 5, 16, 11)


def test_the_regions_of_a_place() -> None:
    assert regions_of(Location("DE", "eu-central-1")) == ("GLOBAL", "EU", "EEA", "DE", "eu-central-1")
    assert regions_of(Location("NO")) == ("GLOBAL", "EEA", "NO")
    assert regions_of(Location("", "lab")) == ("GLOBAL", "lab")
    assert regions_of(Location("US", "EU")) == ("GLOBAL", "US")
    assert regions_of(Location("US", "DE")) == ("GLOBAL", "US")


def test_offers_are_judged_as_if_they_were_empty() -> None:
    (made,) = emptied([offer("a", 2.0, 0, lease_slots=0)])
    assert made.free_gpus >= 10**6
    assert made.lease_slots is None


@pytest.mark.parametrize("seed", range(60))
def test_a_clearing_price_is_what_one_gpu_more_or_less_changes(seed: int) -> None:
    """Against exhaustive search, with demand of two priorities, offers that are unlawful for some, and full ones."""
    random = Random(seed)
    countries = ["DE", "FR", "US"]
    offers = [offer(f"p{i}", random.randint(1, 6), random.randint(0, 2), random.choice(countries)) for i in range(3)]
    classes = [
        ask(
            random.randint(1, 3),
            offers,
            where="".join(random.sample(countries, random.randint(1, 3))),
            extra=random.randint(0, 2) * USD,
            priority=random.choice([0, 10]),
        )
        for _ in range(2)
    ]
    supply = [each.free_gpus for each in offers]
    base = best(classes, offers, supply)
    view = survey(classes, offers, NOW)
    for i, each in enumerate(offers):
        more = best(classes, offers, [free + (i == j) for j, free in enumerate(supply)])
        premium = view.premiums[each.name]
        if more.placed == base.placed:
            assert premium.low == base.cost - more.cost
        if supply[i]:
            less = best(classes, offers, [free - (i == j) for j, free in enumerate(supply)])
            assert premium.high == (less.cost - base.cost if less.placed == base.placed else None)
    for found in view.markets:
        inside = [one for one in offers if found.point.region in regions_of(one.location)]
        assert found.point.free == sum(one.free_gpus for one in inside)
        assert found.point.high is None or found.point.low <= found.point.high
        more = best([*classes, forced(offers, found.point.region)], offers, supply)
        rises = more.cost - base.cost if more.placed == (1, *base.placed) else None
        assert found.point.high == rises


def forced(offers: Sequence[Offer], region: str) -> JobClass:
    """One more GPU-hour that has to be served in a region, at list price, before all others."""
    inside = np.array([region in regions_of(each.location) for each in offers])
    return replace(ask(1, offers, priority=1000), eligible=inside)


class Best:
    """The best that exhaustive search found: jobs placed by falling priority, then the cost."""

    def __init__(self, placed: tuple[int, ...], cost: int) -> None:
        self.placed, self.cost = placed, cost


def best(classes: Sequence[JobClass], offers: Sequence[Offer], supply: Sequence[int]) -> Best:
    levels = sorted({each.priority for each in classes}, reverse=True)
    jobs = [each for each in classes for _ in range(each.size)]
    choices = [[None, *(i for i in range(len(offers)) if each.eligible[i])] for each in jobs]
    found: tuple[tuple[int, ...], int] | None = None
    for plan in product(*choices):
        if any(plan.count(i) > free for i, free in enumerate(supply)):
            continue
        cost = sum(int(job.price[where]) for job, where in zip(jobs, plan, strict=True) if where is not None)
        placed = tuple(
            sum(where is not None for job, where in zip(jobs, plan, strict=True) if job.priority == level)
            for level in levels
        )
        if found is None or (placed, -cost) > (found[0], -found[1]):
            found = placed, cost
    assert found is not None
    return Best(*found)


def test_a_snapshot_is_surveyed_by_law_alone_and_without_a_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nobody is placed to know a price")

    monkeypatch.setattr(solver, "solve", never)
    gang = Job("g", "lab", "g", GpuNeed(2), 3, 3600, rules=PlacementRules(countries=frozenset({"DE"})))
    jobs = (gang, *(Job(f"s{i}", "lab", "s", GpuNeed(), 1, 3600) for i in range(3)))
    view = survey_snapshot(Snapshot(NOW, jobs, WORLD, funds={"lab": None}))
    assert (market(view, "DE").point.wanted, market(view, "US").point.wanted) == (9, 3)
