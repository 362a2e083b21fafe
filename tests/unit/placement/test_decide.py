"""Whole passes: reasons and sentences, funds, gangs, blocks of priority, and evaluation of one job alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.domain.decision import Decision, Reason
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import ExchangeRates, Job, PlacementRules, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement import Snapshot, decide, evaluate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600


def offer(provider: str, usd: float, free: Mapping[int, int], country: str = "DE", product: str = "H100") -> Offer:
    card = GpuModel(product, 81559, "hopper")
    return Offer(provider, card, MicroUSD(round(usd * 1_000_000)), Location(country), free)


def job(uid: str, *, count: int = 1, replicas: int = 1, priority: int = 0, countries: str = "") -> Job:
    rules = PlacementRules(countries=frozenset(countries.split()) if countries else None)
    return Job(uid, "lab", uid, GpuNeed(count=count), replicas, HOUR, priority, rules)


def snapshot(jobs: list[Job], offers: list[Offer], funds: float | None = None) -> Snapshot:
    usd = None if funds is None else MicroUSD(round(funds * 1_000_000))
    return Snapshot(NOW, tuple(jobs), tuple(offers), funds={"lab": usd})


def where(decisions: tuple[Decision, ...]) -> dict[str, str]:
    return {each.job_uid: each.chosen.provider if each.chosen else str(each.reason) for each in decisions}


def test_the_cheapest_lawful_offer_wins_and_says_so() -> None:
    offers = [offer("us-cheap", 1.0, {8: 1}, "US"), offer("de", 1.25, {8: 1}), offer("cloud", 6.04, {8: 1})]
    (decision,) = decide(snapshot([job("a", countries="DE FR")], offers))
    assert decision.chosen is not None
    assert (decision.chosen.provider, decision.chosen.cost, decision.chosen.score) == ("de", 1_250_000, 100)
    assert decision.message == "2/3 providers fit: de/H100 at 1.25 USD per GPU-hour"
    assert [(each.provider, each.score) for each in decision.verdicts] == [("de", 100), ("cloud", 20), ("us-cheap", 0)]


def test_refusals_are_counted_by_provider_and_named_by_the_nearest_miss() -> None:
    offers = [
        offer("us-1", 1.0, {8: 1}, "US"),
        offer("us-2", 1.0, {8: 1}, "US"),
        offer("us-3", 1.0, {8: 1}, "US"),
        offer("de-1", 1.0, {2: 4}),
        offer("de-2", 1.0, {}),
        offer("de-2", 1.0, {8: 1}, product="T4"),
    ]
    (decision,) = decide(
        snapshot([replace(job("a", count=4, countries="DE"), gpu=GpuNeed(4, frozenset({"H100"})))], offers)
    )
    assert decision.message == "0/5 providers fit: 3 ResidencyDenied, 2 InsufficientGPUs"
    assert decision.reason is Reason.INSUFFICIENT_GPUS
    assert all(each.message for each in decision.verdicts)


def test_nobody_offers_anything() -> None:
    (decision,) = decide(snapshot([job("a")], []))
    assert decision.reason is Reason.NO_ELIGIBLE_PROVIDER
    assert decision.message.startswith("0/0 providers fit")


def test_a_job_that_lost_the_capacity_is_told_so() -> None:
    decisions = decide(snapshot([job("a"), job("b")], [offer("de", 1.25, {1: 1}), offer("us", 2, {1: 1}, "US")]))
    assert where(decisions) == {"a": "de", "b": "us"}
    assert decisions[1].message.endswith("; 1 better offer went to other jobs")
    (_, lost) = decide(snapshot([job("a"), job("b")], [offer("de", 1.25, {1: 1})]))
    assert lost.reason is Reason.OUTBID
    assert lost.message == "1/1 providers fit, but their capacity went to other jobs in this pass: 1 Outbid"


def test_priority_comes_before_cost_and_count_before_cost() -> None:
    offers = [offer("de", 1.0, {1: 1}), offer("us", 9.0, {1: 1}, "US")]
    jobs = [job("low", countries="DE"), job("high", priority=5)]
    assert where(decide(snapshot(jobs, offers))) == {"high": "us", "low": "de"}
    assert where(decide(snapshot([*jobs, job("top", priority=9, countries="DE")], offers))) == {
        "top": "de",
        "high": "us",
        "low": "Outbid",
    }


def test_lease_slots_bound_all_products_of_a_provider_together() -> None:
    two = [
        replace(offer("de", 1.0, {8: 1}), lease_slots=1),
        replace(offer("de", 1.0, {8: 1}, product="A100"), lease_slots=1),
    ]
    decisions = decide(snapshot([job("a"), job("b"), job("c", count=2)], two))
    assert sorted(where(decisions).values()) == ["Outbid", "Outbid", "de"]


def test_an_absurd_price_blurs_no_difference_between_the_others() -> None:
    offers = [offer("b", 1.250001, {1: 1}), offer("c", 1.25, {1: 1}), offer("absurd", 1.8e13, {1: 1})]
    jobs = [job(f"j{i}") for i in range(2)]
    assert sorted(where(decide(snapshot(jobs, offers))).values()) == ["b", "c"]
    assert where(decide(snapshot(jobs[:1], offers))) == {"j0": "c"}


class TestFunds:
    def test_every_job_reserves_its_dearest_eligible_offer(self) -> None:
        offers = [offer("cheap", 1, {8: 1}), offer("dear", 3, {8: 1})]
        decisions = decide(snapshot([job("a"), job("b"), job("c")], offers, funds=5))
        # a reserves 3 of 5; b cannot pay 3 of the 2 left, so it reserves 1; c likewise takes the last 1.
        assert where(decisions) == {"a": "cheap", "b": "cheap", "c": "cheap"}
        assert where(decide(snapshot([job("a"), job("b"), job("c")], offers, funds=4.5)))["c"] == "Unfunded"

    def test_high_priority_reserves_first(self) -> None:
        jobs = [job("a"), job("z", priority=1)]
        assert where(decide(snapshot(jobs, [offer("de", 2, {8: 1})], funds=3))) == {"z": "de", "a": "Unfunded"}

    def test_a_namespace_without_funds_starts_nothing(self) -> None:
        pass_ = replace(snapshot([job("a")], [offer("de", 2, {8: 1})]), funds={})
        (decision,) = decide(pass_)
        assert decision.reason is Reason.UNFUNDED
        assert "the account has 0.00 USD left" in decision.verdicts[0].message
        assert evaluate(job("a"), pass_).reason is Reason.UNFUNDED

    def test_a_job_with_no_offer_reserves_nothing(self) -> None:
        jobs = [job("a", countries="FR"), job("b")]
        assert where(decide(snapshot(jobs, [offer("de", 2, {8: 1})], funds=2)))["b"] == "de"


class TestGangs:
    def test_the_gpus_of_a_replica_lie_on_one_node(self) -> None:
        scattered, whole = offer("scattered", 1, {2: 4}), offer("whole", 5, {8: 1})
        assert where(decide(snapshot([job("a", count=4)], [scattered, whole]))) == {"a": "whole"}
        assert where(decide(snapshot([job("a", count=2, replicas=4)], [scattered, whole]))) == {"a": "scattered"}

    def test_all_replicas_lie_at_one_provider(self) -> None:
        (decision,) = decide(snapshot([job("a", count=4, replicas=2)], [offer("x", 1, {4: 1}), offer("y", 1, {4: 1})]))
        assert decision.reason is Reason.INSUFFICIENT_GPUS

    def test_singles_use_the_fragments_that_gangs_leave(self) -> None:
        jobs = [job("gang", count=6), *(job(f"s{i}") for i in range(2))]
        assert where(decide(snapshot(jobs, [offer("de", 1, {8: 1})]))) == {"gang": "de", "s0": "de", "s1": "de"}

    def test_among_as_many_jobs_the_cheapest_go_and_a_gang_counts_as_one(self) -> None:
        jobs = [job("gang", count=6), *(job(f"s{i}") for i in range(3))]
        decisions = where(decide(snapshot(jobs, [offer("de", 1, {8: 1})])))
        assert decisions == {"gang": "Outbid", "s0": "de", "s1": "de", "s2": "de"}

    def test_a_gang_of_higher_priority_goes_before_singles_and_a_lower_one_after(self) -> None:
        single, offers = job("single", priority=1), [offer("de", 1, {2: 1})]
        assert where(decide(snapshot([single, job("gang", count=2)], offers))) == {"single": "de", "gang": "Outbid"}
        assert where(decide(snapshot([single, job("gang", count=2, priority=2)], offers))) == {
            "gang": "de",
            "single": "Outbid",
        }

    def test_singles_leave_whole_nodes_to_the_gangs_below_them(self) -> None:
        jobs = [job("single", priority=1), job("gang", count=4)]
        assert where(decide(snapshot(jobs, [offer("de", 1, {4: 1, 1: 1})]))) == {"single": "de", "gang": "de"}

    def test_repair_pushes_a_placed_gang_aside_for_one_left_out(self) -> None:
        offers = [offer(name, usd, {2: 1}, product=name.upper()) for name, usd in (("x", 1), ("y", 10), ("z", 1.5))]
        # "p" loses most without x, so greedy gives x to it; then "q" and "s" both have z alone left.
        wants = {"p": {"X", "Y"}, "q": {"X", "Z"}, "s": {"X", "Z"}}
        jobs = [replace(job(uid), gpu=GpuNeed(2, frozenset(products))) for uid, products in wants.items()]
        assert where(decide(snapshot(jobs, offers)))["p"] == "y"
        assert set(where(decide(snapshot(jobs, offers))).values()) == {"x", "y", "z"}

    def test_a_gang_leaves_the_only_lawful_offer_to_singles(self) -> None:
        offers = [offer("de", 1.0, {2: 1}), offer("us", 1.1, {2: 1}, "US")]
        jobs = [job("gang", count=2), job("one", countries="DE"), job("two", countries="DE")]
        assert where(decide(snapshot(jobs, offers))) == {"gang": "us", "one": "de", "two": "de"}

    def test_many_gangs_and_singles_share_what_is_there(self) -> None:
        jobs = [*(job(f"gang-{i:03}", count=2) for i in range(160)), *(job(f"single-{i:03}") for i in range(160))]
        decisions = decide(snapshot(jobs, [offer("de", 1.0, {3: 80}), offer("us", 2.0, {2: 40}, "US")]))
        placed = [each.job_uid for each in decisions if each.chosen]
        assert sum(uid.startswith("gang") for uid in placed) == 80
        assert sum(uid.startswith("single") for uid in placed) == 160


def test_evaluate_answers_as_if_the_job_were_alone_and_reserves_nothing() -> None:
    pass_ = snapshot([job("a"), job("b")], [offer("de", 1, {1: 1})])
    alone = evaluate(job("new", priority=-1), pass_)
    assert alone.chosen is not None
    assert alone.chosen.provider == "de"
    assert evaluate(job("new", priority=-1), pass_) == alone


def test_evaluate_and_decide_agree_on_one_job() -> None:
    wish = replace(job("a"), rates=ExchangeRates(per_kg_co2e=10_000_000))
    offers = [
        replace(offer("coal", 1, {1: 1}), watts=700, carbon_g_per_kwh=900),
        replace(offer("hydro", 1.5, {1: 1}), watts=700, carbon_g_per_kwh=20),
        offer("silent", 0.5, {1: 1}),
    ]
    pass_ = snapshot([wish], offers)
    assert (evaluate(wish, pass_),) == decide(pass_)
    chosen = evaluate(wish, pass_).chosen
    assert chosen is not None
    assert (chosen.provider, chosen.components, chosen.effective_price) == ("hydro", {"carbon": 140_000}, 1_640_000)
    silent = next(each for each in evaluate(wish, pass_).verdicts if each.provider == "silent")
    assert silent.components == {"carbonAssumed": 11_480_000}


def test_policies_are_named_with_their_generation() -> None:
    policies = {"lab": (Policy("z", 3), Policy("a", 1, PlacementRules(countries=frozenset({"FR"}))))}
    (decision,) = decide(replace(snapshot([job("a")], [offer("de", 1, {1: 1})]), policies=policies))
    assert decision.policies == ("a@1", "z@3")
    assert decision.reason is Reason.POLICY_DENIED
    assert decision.verdicts[0].message == "policy a@1: country DE is not among FR"


def test_jobs_that_differ_in_one_rule_are_judged_apart() -> None:
    base = job("a")
    others = [
        replace(base, uid="b", deadline=NOW - timedelta(seconds=1)),
        replace(base, uid="c", avoid={"de/H100": "rejected"}),
        replace(base, uid="d", max_price=MicroUSD(1)),
        replace(base, uid="e", budget_left=MicroUSD(1)),
        replace(base, uid="f", gpu=GpuNeed(min_memory_mib=10**6)),
        replace(base, uid="g", deadline=NOW + timedelta(days=1)),
    ]
    assert where(decide(snapshot([base, *others], [offer("de", 1, {8: 1})]))) == {
        "a": "de",
        "b": "DeadlineTooNear",
        "c": "CoolingDown",
        "d": "PriceAboveLimit",
        "e": "OverBudget",
        "f": "HardwareMismatch",
        "g": "de",
    }


@pytest.mark.parametrize(
    ("jobs", "offers", "said"),
    [
        ([job("a"), job("a")], [], "job uid 'a' appears twice"),
        ([], [offer("de", 1, {}), offer("de", 2, {})], "offer 'de/H100' appears twice"),
    ],
)
def test_twins_are_refused(jobs: list[Job], offers: list[Offer], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        snapshot(jobs, offers)
