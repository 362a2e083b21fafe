"""One table per plugin: which offer it refuses for which job, with which reason; and the parts of the price."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import (
    ExchangeRates,
    Job,
    LatencyRule,
    PlacementRules,
    Policy,
    Requirement,
    SelectorOperator,
)
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context
from fedgpu_operator.placement.registry import BUILT_IN, PRICERS, Pricer
from fedgpu_operator.placement.table import OfferTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USD = 1_000_000
FRANKFURT = Location("DE", "eu-central-1", 50.1, 8.7)
SINGAPORE = Location("SG", "", 1.35, 103.82)

JOB = Job(uid="u", namespace="lab", name="job", gpu=GpuNeed(), replicas=1, run_limit=3600)
OFFER = Offer(
    provider="alpine",
    gpu=GpuModel("H100", 81559, "hopper"),
    price=MicroUSD(2 * USD),
    location=FRANKFURT,
    free={1: 2, 4: 1},
    compliance=frozenset({"HIPAA", "ISO27001"}),
    labels={"net": "fast"},
)


def refusals(job: Job, offer: Offer, policies: tuple[Policy, ...] = (), *, deny: bool = False) -> dict[str, str]:
    """Every filter that refuses, with its reason; not only the first."""
    ctx = Context(job, policies, deny, NOW)
    answers = {each.name: each.refusal(ctx, offer) for each in BUILT_IN.filters}
    for each in BUILT_IN.filters:
        assert each.key(ctx) is not None or answers[each.name] is None, f"{each.name} has no key, but refuses"
        assert each.allowed is None or each.allowed(ctx, OfferTable([offer])).tolist() == [answers[each.name] is None]
    assert all(refused.message for refused in answers.values() if refused), "a refusal without a sentence"
    return {name: refused.reason for name, refused in answers.items() if refused}


def ruled(rules: PlacementRules) -> Job:
    return replace(JOB, rules=rules)


def test_a_job_without_rules_is_refused_by_nothing() -> None:
    assert refusals(JOB, OFFER) == {}


DE, NOT_DE = frozenset({"DE"}), frozenset({"FR", "NL"})


@pytest.mark.parametrize(
    ("rules", "location", "refused"),
    [
        (PlacementRules(countries=DE), FRANKFURT, False),
        (PlacementRules(countries=NOT_DE), FRANKFURT, True),
        (PlacementRules(countries=frozenset()), FRANKFURT, True),
        (PlacementRules(countries=frozenset({"de"})), FRANKFURT, True),
        (PlacementRules(countries=DE), Location("de"), True),
        (PlacementRules(countries=frozenset({"de"})), Location("de"), True),
        (PlacementRules(countries=frozenset({""})), Location(""), True),
        (PlacementRules(excluded_countries=DE), FRANKFURT, True),
        (PlacementRules(excluded_countries=NOT_DE), FRANKFURT, False),
        (PlacementRules(countries=DE, excluded_countries=DE), FRANKFURT, True),
        (PlacementRules(excluded_countries=frozenset({"US"})), Location(""), True),
        (PlacementRules(excluded_countries=frozenset({"US"})), Location("us"), True),
        (PlacementRules(excluded_countries=frozenset({"US"})), Location("XX"), True),
        (PlacementRules(regions=frozenset({"eu-central-1"})), FRANKFURT, False),
        (PlacementRules(regions=frozenset({"EU-CENTRAL-1"})), FRANKFURT, True),
        (PlacementRules(regions=frozenset({"paris"})), FRANKFURT, True),
        (PlacementRules(regions=frozenset({""})), SINGAPORE, True),
        (PlacementRules(countries=DE, regions=frozenset({"paris"})), FRANKFURT, True),
        (PlacementRules(), Location(""), False),
    ],
)
def test_residency(rules: PlacementRules, location: Location, refused: bool) -> None:
    expected = {"residency": Reason.RESIDENCY_DENIED} if refused else {}
    assert refusals(ruled(rules), replace(OFFER, location=location)) == expected


@pytest.mark.parametrize(
    ("claims", "refused"),
    [({"HIPAA"}, False), ({"HIPAA", "ISO27001"}, False), ({"hipaa"}, True), ({"HIPAA", "C5"}, True)],
)
def test_compliance(claims: set[str], refused: bool) -> None:
    expected = {"compliance": Reason.COMPLIANCE_MISSING} if refused else {}
    assert refusals(ruled(PlacementRules(compliance=frozenset(claims))), OFFER) == expected


@pytest.mark.parametrize(
    ("key", "operator", "values", "refused"),
    [
        ("net", SelectorOperator.IN, {"fast"}, False),
        ("net", SelectorOperator.IN, {"Fast"}, True),
        ("rack", SelectorOperator.IN, {"fast"}, True),
        ("net", SelectorOperator.NOT_IN, {"fast"}, True),
        ("rack", SelectorOperator.NOT_IN, {"fast"}, False),
        ("net", SelectorOperator.EXISTS, set(), False),
        ("rack", SelectorOperator.EXISTS, set(), True),
        ("net", SelectorOperator.DOES_NOT_EXIST, set(), True),
        ("rack", SelectorOperator.DOES_NOT_EXIST, set(), False),
    ],
)
def test_selector(key: str, operator: SelectorOperator, values: set[str], refused: bool) -> None:
    expected = {"selector": Reason.SELECTOR_MISMATCH} if refused else {}
    assert refusals(ruled(PlacementRules(selector=(Requirement(key, operator, frozenset(values)),))), OFFER) == expected


@pytest.mark.parametrize(
    ("policies", "deny", "refused"),
    [
        ((), False, False),
        ((), True, True),
        ((Policy("any", 1),), True, False),
        ((Policy("home", 1, PlacementRules(countries=DE)),), False, False),
        ((Policy("home", 1, PlacementRules(countries=NOT_DE)),), False, True),
        ((Policy("a", 1), Policy("b", 1, PlacementRules(compliance=frozenset({"C5"})))), False, True),
        ((Policy("s", 1, PlacementRules(selector=(Requirement("rack", SelectorOperator.EXISTS),))),), False, True),
        ((Policy("cap", 1, max_price=MicroUSD(2 * USD)),), False, False),
        ((Policy("cap", 1, max_price=MicroUSD(2 * USD - 1)),), False, True),
    ],
)
def test_policy(policies: tuple[Policy, ...], deny: bool, refused: bool) -> None:
    expected = {"policy": Reason.POLICY_DENIED} if refused else {}
    assert refusals(JOB, OFFER, policies, deny=deny) == expected


def test_a_job_cannot_loosen_a_policy() -> None:
    strict = Policy("eu", 1, PlacementRules(countries=frozenset({"FR"})))
    assert refusals(ruled(PlacementRules(countries=frozenset({"DE", "FR"}))), OFFER, (strict,)) == {
        "policy": Reason.POLICY_DENIED
    }


@pytest.mark.parametrize(
    ("need", "card", "refused"),
    [
        (GpuNeed(products=frozenset({"H100"})), OFFER.gpu, False),
        (GpuNeed(products=frozenset({"h100"})), OFFER.gpu, True),
        (GpuNeed(architectures=frozenset({"hopper"})), OFFER.gpu, False),
        (GpuNeed(architectures=frozenset({"ampere"})), OFFER.gpu, True),
        (GpuNeed(architectures=frozenset({"ampere"})), GpuModel("H100", 81559, ""), True),
        (GpuNeed(min_memory_mib=81559), OFFER.gpu, False),
        (GpuNeed(min_memory_mib=81560), OFFER.gpu, True),
        (GpuNeed(min_memory_mib=1), GpuModel("H100", 0, "hopper"), True),
    ],
)
def test_hardware(need: GpuNeed, card: GpuModel, refused: bool) -> None:
    expected = {"hardware": Reason.HARDWARE_MISMATCH} if refused else {}
    assert refusals(replace(JOB, gpu=need), replace(OFFER, gpu=card)) == expected


@pytest.mark.parametrize(("cap", "refused"), [(2 * USD, False), (2 * USD - 1, True), (0, True), (None, False)])
def test_price_cap(cap: int | None, refused: bool) -> None:
    job = replace(JOB, max_price=None if cap is None else MicroUSD(cap))
    assert refusals(job, OFFER) == ({"priceCap": Reason.PRICE_ABOVE_LIMIT} if refused else {})


@pytest.mark.parametrize(
    ("budget", "replicas", "refused"),
    [(2 * USD, 1, False), (2 * USD - 1, 1, True), (2 * USD, 2, True), (None, 2, False)],
)
def test_budget_must_cover_the_whole_run_limit(budget: int | None, replicas: int, refused: bool) -> None:
    job = replace(JOB, replicas=replicas, budget_left=None if budget is None else MicroUSD(budget))
    assert refusals(job, OFFER) == ({"budget": Reason.OVER_BUDGET} if refused else {})


@pytest.mark.parametrize(
    ("location", "max_ms", "allow", "expected"),
    [
        (SINGAPORE, None, False, None),
        (SINGAPORE, 5, True, None),
        (SINGAPORE, 5, False, Reason.LATENCY_UNMEASURED),
        (FRANKFURT, 102, True, Reason.LATENCY_TOO_HIGH),
        (FRANKFURT, 104, True, None),
        (FRANKFURT, 50, False, Reason.LATENCY_TOO_HIGH),
        (Location("SG"), 500, True, Reason.LATENCY_UNMEASURED),
        (Location("SG", "ap-southeast-1"), 5, True, None),
        (Location("DE", "ap-southeast-1"), 5, True, Reason.LATENCY_UNMEASURED),
    ],
)
def test_latency_from_singapore(location: Location, max_ms: int | None, allow: bool, expected: Reason | None) -> None:
    job = replace(JOB, latency=LatencyRule(SINGAPORE, max_ms, allow))
    assert refusals(job, replace(OFFER, location=location)) == ({"latency": expected} if expected else {})


@pytest.mark.parametrize(("seconds", "refused"), [(1, False), (0, True), (-60, True)])
def test_deadline(seconds: int, refused: bool) -> None:
    job = replace(JOB, deadline=NOW + timedelta(seconds=seconds))
    assert refusals(job, OFFER) == ({"deadline": Reason.DEADLINE_TOO_NEAR} if refused else {})


def test_readiness_and_cooldown() -> None:
    assert refusals(JOB, replace(OFFER, ready=False)) == {"readiness": Reason.PROVIDER_NOT_READY}
    assert refusals(replace(JOB, avoid={OFFER.name: "rejected"}), OFFER) == {"cooldown": Reason.COOLING_DOWN}
    assert refusals(replace(JOB, avoid={"other": "rejected"}), OFFER) == {}


@pytest.mark.parametrize(
    ("count", "replicas", "slots", "expected"),
    [
        (1, 6, None, None),
        (1, 7, None, Reason.INSUFFICIENT_GPUS),
        (2, 2, None, None),
        (2, 3, None, Reason.INSUFFICIENT_GPUS),
        (4, 1, None, None),
        (5, 1, None, Reason.INSUFFICIENT_GPUS),
        (1, 1, 1, None),
        (1, 1, 0, Reason.PROVIDER_FULL),
        (1, 1, -3, Reason.PROVIDER_FULL),
    ],
)
def test_capacity_of_nodes_with_1_1_and_4_free(
    count: int, replicas: int, slots: int | None, expected: Reason | None
) -> None:
    job = replace(JOB, gpu=GpuNeed(count=count), replicas=replicas)
    assert refusals(job, replace(OFFER, lease_slots=slots)) == ({"capacity": expected} if expected else {})


def test_the_registry_knows_every_reason_a_filter_gives_once() -> None:
    assert len(set(BUILT_IN.reason_order)) == len(BUILT_IN.reason_order)
    assert set(Reason) - set(BUILT_IN.reason_order) == {Reason.NO_ELIGIBLE_PROVIDER}


def context(rates: ExchangeRates, origin: Location | None = None) -> Context:
    rule = None if origin is None else LatencyRule(origin)
    return Context(replace(JOB, rates=rates, latency=rule), (), False, NOW)


def each_price(price: Pricer, ctx: Context, *offers: Offer) -> list[int]:
    """What a pricer adds to each offer, in the order given; each is asked alone, for an answer is one offer's."""
    return [int(price.price(ctx, OfferTable([offer]))[0]) if price.key(ctx) is not None else 0 for offer in offers]


def pricer(name: str) -> Pricer:
    return next(each for each in PRICERS if each.name == name)


def test_carbon_price_is_rate_times_kilograms() -> None:
    ctx = context(ExchangeRates(per_kg_co2e=10 * USD))
    clean = replace(OFFER, watts=700, carbon_g_per_kwh=30)  # 0.021 kg per GPU-hour
    unknown = OFFER  # 1.4 kW at 820 g/kWh: 1.148 kg
    half = replace(OFFER, watts=700)  # 0.7 kW at 820 g/kWh: 0.574 kg
    assert each_price(pricer("carbon"), ctx, clean, unknown, half) == [210_000, 0, 0]
    assert each_price(pricer("carbonAssumed"), ctx, clean, unknown, half) == [0, 11_480_000, 5_740_000]


def test_carbon_price_rounds_half_a_unit_up() -> None:
    ctx = context(ExchangeRates(per_kg_co2e=1))
    offers = [replace(OFFER, watts=1000, carbon_g_per_kwh=grams) for grams in (499, 500, 1499, 1500)]
    assert each_price(pricer("carbon"), ctx, *offers) == [0, 1, 1, 2]


def test_latency_price_counts_estimated_milliseconds_and_the_antipodes_where_unknown() -> None:
    ctx = context(ExchangeRates(per_ms=1_000), SINGAPORE)
    here, far, unknown = replace(OFFER, location=SINGAPORE), OFFER, replace(OFFER, location=Location("DE"))
    near, frankfurt, nothing = each_price(pricer("latency"), ctx, here, far, unknown)
    assert (near, nothing) == (0, 0)
    assert 102_000 < frankfurt < 104_000  # about 10,270 km: 102.7 ms there and back
    assert each_price(pricer("latencyAssumed"), ctx, here, far, unknown) == [0, 0, 200_151]


def test_no_exchange_rate_overflows() -> None:
    ctx = context(ExchangeRates(per_ms=2**64, per_kg_co2e=2**64), SINGAPORE)
    for name in ("carbonAssumed", "latency"):
        assert each_price(pricer(name), ctx, OFFER) == [MAX_COMPONENT]
