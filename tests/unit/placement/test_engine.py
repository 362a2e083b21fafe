"""An engine that has seen other passes answers like a fresh one; masks say what the scalar rules say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.placement.chance import random_world
from tests.unit.placement.worlds import snapshot_of

from fedgpu_operator.domain.decision import Reason, Verdict
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement import (
    BUILT_IN,
    Context,
    Engine,
    Filter,
    OfferTable,
    Plugins,
    Snapshot,
    decide,
    evaluate,
    place,
)
from fedgpu_operator.placement import solve as solver
from fedgpu_operator.placement.context import BoolVector, Guards
from fedgpu_operator.placement.problem import Problem, Solution
from fedgpu_operator.placement.solve import solve

PROFILE = settings.get_profile("placement")
FEWER = settings(PROFILE, max_examples=PROFILE.max_examples // 3)


def edited(snapshot: Snapshot, rng: Random) -> Snapshot:
    """The next pass: some jobs gone and come, some offers changed, gone and come, some time passed."""
    fresh = snapshot_of(random_world(rng, gangs=False))
    known = {offer.name for offer in snapshot.offers}
    offers = [_changed(each, rng) for each in snapshot.offers]
    if rng.random() < 0.6:
        offers = [each for each in offers if rng.random() < 0.95]
        offers += [each for each in fresh.offers if each.name not in known and rng.random() < 0.2]
        rng.shuffle(offers)
    jobs = [job for job in snapshot.jobs if rng.random() < 0.8]
    uids = {job.uid for job in jobs}
    jobs += [job for job in fresh.jobs if job.uid not in uids]
    return replace(
        snapshot,
        now=snapshot.now + timedelta(seconds=rng.choice([0, 0, 30, 5_000])),
        jobs=tuple(jobs),
        offers=tuple(offers),
        policies=fresh.policies if rng.random() < 0.2 else snapshot.policies,
        funds=fresh.funds if rng.random() < 0.3 else snapshot.funds,
    )


def _changed(offer: Offer, rng: Random) -> Offer:
    change = rng.random()
    if change < 0.2:
        return replace(offer, free={rng.choice([1, 2, 4]): 1})
    if change < 0.3:
        return replace(offer, price=MicroUSD(rng.randrange(300_000, 3_000_000)))
    if change < 0.4:
        return replace(offer, ready=not offer.ready, lease_slots=rng.choice([None, 0, 2]))
    if change < 0.5:
        return replace(offer, watts=rng.choice([None, 700]), labels={"net": "fast"}, compliance=frozenset({"HIPAA"}))
    return replace(offer) if change < 0.6 else offer


@FEWER
@given(st.randoms(use_true_random=False))
def test_an_engine_that_saw_other_passes_answers_like_a_fresh_one(rng: Random) -> None:
    snapshot, engine = snapshot_of(random_world(rng, gangs=False)), Engine()
    for _ in range(4):
        outcome = engine.decide(snapshot)
        assert outcome.decisions == decide(snapshot)
        for job in snapshot.jobs[:2]:
            assert engine.evaluate(job, snapshot) == evaluate(job, snapshot)
        snapshot = edited(snapshot, rng)


@PROFILE
@given(st.randoms(use_true_random=False))
def test_masks_and_prices_say_for_all_offers_what_they_say_for_one(rng: Random) -> None:
    snapshot = snapshot_of(random_world(rng, jobs=8))
    table = OfferTable(snapshot.offers)
    for job in snapshot.jobs:
        ctx = Context(job, Guards(snapshot.policies.get(job.namespace, ())), snapshot.default_deny, snapshot.now)
        for each in BUILT_IN.filters:
            said = [each.refusal(ctx, offer) for offer in table.offers]
            if each.key(ctx) is None:
                assert said == [None] * len(table), each.name
            assert each.allowed is not None, each.name
            assert each.allowed(ctx, table).tolist() == [refused is None for refused in said], each.name
            assert {refused.reason for refused in said if refused} <= set(each.reasons)
            if len(each.reasons) > 1:
                assert each.reason_index is not None
                told = [each.reasons[i] for i in each.reason_index(ctx, table).tolist()]
                assert all(refused is None or refused.reason == why for refused, why in zip(said, told, strict=True))
        for price in BUILT_IN.pricers:
            row = price.price(ctx, table)
            assert row.dtype == np.int64
            assert row.tolist() == [int(price.price(ctx, OfferTable([offer]))[0]) for offer in table.offers]
            assert price.key(ctx) is not None or not row.any(), price.name


def nearest_misses(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Per provider the reason of its offer that came furthest, from all verdicts one by one."""
    nearest: dict[str, str] = {}
    for verdict in verdicts:
        reason = verdict.reason or Reason.OUTBID
        known = nearest.get(verdict.provider)
        if known is None or BUILT_IN.reason_order.index(reason) > BUILT_IN.reason_order.index(known):
            nearest[verdict.provider] = reason
    return nearest


@FEWER
@given(st.randoms(use_true_random=False))
def test_the_sentence_counts_what_the_verdicts_say(rng: Random) -> None:
    snapshot = snapshot_of(random_world(rng, jobs=8))
    for decision in decide(snapshot):
        verdicts = list(decision.verdicts)
        assert len(verdicts) == len(decision.verdicts) == len(snapshot.offers)
        assert verdicts == sorted(
            verdicts, key=lambda each: (not each.eligible, each.effective_price, each.provider, each.product)
        )
        assert decision.fits == len({each.provider for each in verdicts if each.eligible})
        assert decision.total == len({each.provider for each in verdicts})
        assert decision.message.startswith(f"{decision.fits}/{decision.total} providers fit")
        nearest = list(nearest_misses(verdicts).values())
        if decision.chosen is None:
            assert decision.reason == max(nearest, key=BUILT_IN.reason_order.index)
            assert all(f"{nearest.count(reason)} {reason}" in decision.message for reason in nearest)
        else:
            better = verdicts.index(decision.chosen)
            assert ("better offer" in decision.message) == (better > 0)
            assert not better or f"; {better} better offer" in decision.message


def test_slices_of_verdicts_are_tuples_and_nothing_can_be_written() -> None:
    snapshot = snapshot_of(random_world(Random(1)))
    (decision, *_) = decide(snapshot)
    assert decision.verdicts[:2] == tuple(decision.verdicts)[:2]
    assert decision.verdicts[0] is decision.verdicts[0]
    assert not hasattr(decision.verdicts, "append")


def test_nothing_is_solved_again_where_a_solver_would_see_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[Problem] = []

    def counted(problem: Problem, **options: bool) -> Solution:
        solved.append(problem)
        return solve(problem, **options)

    monkeypatch.setattr(solver, "solve", counted)
    snapshot = snapshot_of(random_world(Random(4), jobs=8))
    engine, (first, *_) = Engine(), snapshot.jobs
    engine.place(snapshot)
    later = replace(snapshot, now=snapshot.now + timedelta(seconds=1))
    renamed = replace(later, jobs=(replace(first, name="other"), *snapshot.jobs[1:]))
    for each in (snapshot, later, renamed):
        assert engine.decide(each).decisions == decide(each)
    solved.clear()
    engine.place(renamed)
    assert solved == []
    engine.place(replace(renamed, offers=tuple(replace(each, free={}) for each in snapshot.offers)))
    engine.place(replace(renamed, jobs=snapshot.jobs[1:]))
    engine.place(replace(renamed, jobs=snapshot.jobs[1:]), clearing=True)
    assert len(solved) == 3


def test_only_what_changed_is_judged_again() -> None:
    asked: list[str] = []

    def refusal(_ctx: Context, offer: Offer) -> None:
        asked.append(offer.name)

    def allowed(_ctx: Context, table: OfferTable) -> BoolVector:
        asked.extend(name for name, _ in table.kinds(name_and_labels).values)
        return np.ones(len(table), dtype=np.bool_)

    rule = Filter("mine", refusal, ("No",), lambda ctx: 1, allowed)
    engine = Engine(Plugins(extra_filters=(rule,)))
    snapshot = snapshot_of(random_world(Random(9), providers=8))
    engine.place(snapshot)
    assert sorted(asked) == sorted(each.name for each in snapshot.offers)
    first, second, *others = snapshot.offers
    assert len(others) > 2
    moved = replace(snapshot, offers=(*others, replace(second, free={}), replace(first, labels={"x": "y"})))
    for each, expected in [(snapshot, []), (moved, [first.name]), (snapshot, [first.name])]:
        asked.clear()
        engine.place(each)
        assert asked == expected


def test_a_verdict_is_made_again_only_where_it_may_say_something_else() -> None:
    engine = Engine()
    offer = Offer("a", GpuModel("L4", 23_034, "ada"), MicroUSD(900_000), Location("NO"), {1: 2})
    job = Job("uid0", "lab", "train", GpuNeed(count=4), 1, 3600)
    offers = tuple(replace(offer, provider=name) for name in "abc")
    first = Snapshot(datetime(2026, 1, 1, tzinfo=UTC), (job,), offers, funds={"lab": None})
    later = replace(first, now=first.now + timedelta(seconds=5))
    another = replace(later, jobs=(job, replace(job, uid="uid1", gpu=GpuNeed(count=2))))
    fuller = replace(later, offers=(offers[0], replace(offers[1], free={1: 1}), offers[2]))
    dearer = replace(fuller, offers=(*fuller.offers[:2], replace(offers[2], price=MicroUSD(1_000_000))))
    fits = replace(dearer, offers=(replace(offers[0], free={4: 1}), *dearer.offers[1:]))
    cheaper = replace(fits, offers=(fits.offers[0], replace(offers[1], free={4: 1}, price=MicroUSD(1)), fits.offers[2]))
    alone = replace(dearer, offers=cheaper.offers[:2])
    last: dict[str, Verdict] = {}
    for snapshot, expected in [
        (first, "abc"),
        (later, ""),
        (another, ""),
        (fuller, "b"),
        (fuller, ""),
        (dearer, "c"),
        (fits, "a"),
        # What is eligible is scored by the cheapest.
        (cheaper, "ab"),
        (alone, "ab"),
    ]:
        (decision, *_) = engine.decide(snapshot).decisions
        seen = {each.provider: each for each in decision.verdicts[:3]}
        assert "".join(sorted(name for name, each in seen.items() if last.get(name) is not each)) == expected
        assert decision.verdicts == decide(snapshot)[0].verdicts
        last = seen


def test_asking_what_one_job_would_get_elsewhere_costs_the_next_pass_nothing() -> None:
    asked: list[str] = []

    def refusal(_ctx: Context, offer: Offer) -> None:
        asked.append(offer.name)

    engine = Engine(Plugins(extra_filters=(Filter("mine", refusal, ("No",), lambda ctx: 1),)))
    snapshot = snapshot_of(random_world(Random(9), providers=8))
    engine.place(snapshot)
    first, *others = snapshot.offers
    elsewhere = replace(snapshot, offers=(replace(first, labels={"x": "y"}), *others[:1]))
    asked.clear()
    for _ in range(2):
        assert engine.evaluate(snapshot.jobs[0], elsewhere).total == len({each.provider for each in elsewhere.offers})
    in_words = len(asked)
    engine.place(snapshot)
    assert len(asked) == in_words


@pytest.mark.parametrize("price", [10**12, 7 * 10**12, 4 * 10**15, 2**62, 2**63 - 1])
def test_an_absurdly_dear_offer_ends_no_pass_and_none_after_it(price: int) -> None:
    offer = Offer("a", GpuModel("L4", 23_034, "ada"), MicroUSD(900_000), Location("NO"), {1: 2})
    cheap = (offer, replace(offer, provider="b", price=MicroUSD(400_000)))
    dear = (replace(offer, price=MicroUSD(price)), cheap[1])
    jobs = [Job(f"uid{i}", "lab", f"train{i}", GpuNeed(), 1, 30 * 86_400) for i in range(4)]
    engine = Engine()
    for count, offers in [(2, cheap), (3, dear), (4, dear), (2, cheap), (4, cheap)]:
        snapshot = Snapshot(datetime(2026, 1, 1, tzinfo=UTC), tuple(jobs[:count]), offers, funds={"lab": None})
        warm, cold = engine.place(snapshot), place(snapshot)
        assert warm.solution.placed == cold.solution.placed == count
        assert warm.solution.cost == cold.solution.cost


def name_and_labels(offer: Offer) -> tuple[str, frozenset[tuple[str, str]]]:
    return offer.name, frozenset(offer.labels.items())
