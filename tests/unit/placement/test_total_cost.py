"""Law that comes with data, and what a run costs beside its price: egress, lost work, gas, time for the data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import GROUPS, Location
from fedgpu_operator.domain.job import DataSet, Job, PlacementRules, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context
from fedgpu_operator.placement.plugins import deadline, egress, gas, policy, rerun, residency
from fedgpu_operator.placement.table import OfferTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USD = 1_000_000
HOUR = 3600

JOB = Job(uid="u", namespace="lab", name="job", gpu=GpuNeed(), replicas=1, run_limit=HOUR)
OFFER = Offer("alpine", GpuModel("H100", 81559, "hopper"), MicroUSD(2 * USD), Location("DE", "eu-central-1"), {8: 1})
CLINIC = DataSet("scans", mib=100 * 1024, countries=GROUPS["EEA"])


def ctx(job: Job, *policies: Policy, now: datetime = NOW) -> Context:
    return Context(job, policies, default_deny=False, now=now)


def at(country: str, *, audited: bool = False) -> Offer:
    return replace(OFFER, location=Location(country), location_audited=audited)


def denied(job: Job, offer: Offer) -> str:
    """What residency says; all offers at once, it says the same."""
    refused = residency.refusal(ctx(job), offer)
    assert residency.allowed(ctx(job), OfferTable([offer])).tolist() == [refused is None]
    assert refused is None or residency.key(ctx(job)) is not None, "a job without a key is never asked about"
    if refused is None:
        return ""
    assert refused.reason == Reason.RESIDENCY_DENIED
    return refused.message


@pytest.mark.parametrize(
    ("data", "country", "said"),
    [
        ((CLINIC,), "NO", ""),
        ((CLINIC,), "CH", "data set scans may not be processed there: country CH is not among"),
        (
            (CLINIC,),
            "",
            "data set scans may not be processed there: country '' is unknown",
        ),
        ((replace(CLINIC, excluded_countries=frozenset({"HU"})),), "HU", "data set scans"),
        ((replace(CLINIC, countries=None, excluded_countries=frozenset({"US"})),), "CH", ""),
        ((replace(CLINIC, countries=None, excluded_countries=frozenset({"US"})),), "US", "country US is excluded"),
        ((CLINIC, DataSet("labels", countries=frozenset({"DE"}))), "FR", "data set labels"),
        ((CLINIC, DataSet("labels", countries=frozenset({"DE"}))), "DE", ""),
        ((DataSet("weights", mib=10, country="US"),), "", ""),
    ],
)
def test_every_data_set_binds_the_job_to_its_own_countries(data: tuple[DataSet, ...], country: str, said: str) -> None:
    message = denied(replace(JOB, data=data), at(country))
    assert said in message
    assert bool(said) == bool(message)


def test_data_tightens_what_the_job_itself_allows_and_never_loosens_it() -> None:
    job = replace(JOB, data=(CLINIC,), rules=PlacementRules(countries=frozenset({"US", "DE"})))
    assert denied(job, at("US")).startswith("data set scans")
    assert denied(job, at("FR")) == "country FR is not among DE, US"
    assert denied(job, at("DE")) == ""


def test_a_data_set_lies_where_it_may_not_be_processed_and_the_job_runs_elsewhere() -> None:
    job = replace(JOB, data=(replace(CLINIC, provider="texan"),))
    assert denied(job, replace(at("US"), provider="texan"))
    assert denied(job, at("DE")) == ""


@pytest.mark.parametrize(("country", "audited", "ok"), [("DE", True, True), ("DE", False, False), ("US", True, False)])
def test_an_audit_is_asked_for_by_a_job_or_by_a_policy(country: str, audited: bool, ok: bool) -> None:
    rules = PlacementRules(countries=GROUPS["EU"], audited_location=True)
    assert (denied(replace(JOB, rules=rules), at(country, audited=audited)) == "") == ok
    refused = policy.refusal(ctx(JOB, Policy("law", 3, rules)), at(country, audited=audited))
    assert (refused is None) == ok
    if refused is not None and not audited:
        assert refused == (
            Reason.POLICY_DENIED,
            "policy law@3: location DE is self-declared, but the rules require an audited one",
        )


def component(job: Job, *offers: Offer) -> dict[str, list[int]]:
    """Every part of this file's price by name; what has no key must be nothing."""
    parts = {
        "egress": (egress.key, egress.stated_price),
        "egressAssumed": (egress.key, egress.assumed_price),
        "rerun": (rerun.key, rerun.price),
        "gas": (gas.key, gas.price),
    }
    table = OfferTable(offers)
    found = {name: price(ctx(job), table).tolist() for name, (_, price) in parts.items()}
    for name, (key, _) in parts.items():
        assert key(ctx(job)) is not None or not any(found[name]), "a job without a key is never asked about"
    return {name: amounts for name, amounts in found.items() if any(amounts)}


def priced(gib: int, usd_per_gib: str | None = "0.09", provider: str = "") -> DataSet:
    price = None if usd_per_gib is None else MicroUSD(round(float(usd_per_gib) * USD))
    return DataSet("d", mib=gib * 1024, provider=provider, egress_per_gib=price)


@pytest.mark.parametrize(
    ("data", "output", "stated", "expected"),
    [
        ((priced(100),), 0, None, {"egress": 9 * USD}),
        ((priced(100), priced(50, "0.02")), 0, None, {"egress": 10 * USD}),
        ((priced(100, provider="alpine"),), 0, None, {}),
        ((priced(100, provider="else"),), 0, None, {"egress": 9 * USD}),
        ((priced(100, None, "else"),), 0, None, {"egressAssumed": 12 * USD}),
        ((priced(100, None, "alpine"),), 0, None, {}),
        ((), 10, 50_000, {"egress": 500_000}),
        ((), 10, 0, {}),
        ((), 10, None, {"egressAssumed": 1_200_000}),
        ((priced(100),), 10, None, {"egress": 9 * USD, "egressAssumed": 1_200_000}),
        ((), 0, None, {}),
    ],
)
def test_egress_of_an_hour_is_what_moves_at_what_its_host_asks(
    data: tuple[DataSet, ...], output: int, stated: int | None, expected: dict[str, int]
) -> None:
    offer = replace(OFFER, egress_per_gib=None if stated is None else MicroUSD(stated))
    found = component(replace(JOB, data=data, output_mib=output * 1024), offer)
    assert found == {name: [amount] for name, amount in expected.items()}


def test_egress_is_spread_over_all_gpu_hours_of_the_run() -> None:
    job = replace(JOB, data=(priced(100),), gpu=GpuNeed(count=4), replicas=2, run_limit=9 * HOUR)
    assert component(job, OFFER) == {"egress": [9 * USD // 72]}
    assert component(replace(job, run_limit=7 * HOUR), OFFER) == {"egress": [160_714]}, "160714.28 rounds down"
    assert component(replace(job, run_limit=11 * HOUR), OFFER) == {"egress": [102_273]}, "102272.72 rounds up"
    endless = replace(job, data=(priced(10**9, "999999999"),), run_limit=1)
    assert component(endless, OFFER) == {"egress": [MAX_COMPONENT]}


def test_data_that_lies_at_one_provider_makes_the_others_dearer() -> None:
    job = replace(JOB, data=(priced(10, provider="alpine"),))
    assert component(job, OFFER, replace(OFFER, provider="basin")) == {"egress": [0, 900_000]}


@pytest.mark.parametrize(
    ("interval", "limit", "per_mh", "expected"),
    [
        (None, HOUR, 500_000, 0),
        (1200, HOUR, 0, 0),
        (HOUR, 24 * HOUR, 1_000, 1_000),
        (HOUR, 24 * HOUR, None, 1_000),
        (600, 24 * HOUR, 1_000, 167),
        (10 * HOUR, HOUR, 1_000, 1_000),
        (HOUR, 24 * HOUR, 1_000_000, 1_000_000),
    ],
)
def test_rerun_is_half_of_what_lies_between_two_checkpoints(
    interval: int | None, limit: int, per_mh: int | None, expected: int
) -> None:
    job = replace(JOB, checkpoint_seconds=interval, run_limit=limit)
    found = component(job, replace(OFFER, interruptions_per_mh=per_mh))
    assert found == ({"rerun": [expected]} if expected else {})


def test_rerun_is_exact_also_beyond_64_bits() -> None:
    """A mad price beside a sane one changes nothing of the sane one's part."""
    job = replace(JOB, checkpoint_seconds=600, run_limit=24 * HOUR)
    mad = replace(OFFER, provider="mad", price=MicroUSD(10**14), interruptions_per_mh=999_999)
    sane = replace(OFFER, interruptions_per_mh=1_000)
    alone = component(job, sane)["rerun"]
    assert component(job, sane, mad)["rerun"] == [*alone, (10**14 * 999_999 * 600 + 3600 * 10**6) // (7200 * 10**6)]
    assert component(job, replace(mad, price=MicroUSD(10**16)))["rerun"] == [
        min(MAX_COMPONENT, (10**16 * 999_999 * 600 + 3600 * 10**6) // (7200 * 10**6))
    ]


def test_gas_is_spread_over_the_run() -> None:
    offer = replace(OFFER, gas_share=MicroUSD(7_200))
    assert component(JOB, offer) == {"gas": [7_200]}
    assert component(replace(JOB, run_limit=24 * HOUR, gpu=GpuNeed(count=3)), offer) == {"gas": [100]}
    assert component(JOB, replace(offer, gas_share=MicroUSD(10**18))) == {"gas": [MAX_COMPONENT]}


GIB_100 = 8_590
"""Seconds that 100 GiB take at 100 Mbit/s: 100 × 1024 × 8.388608 / 100, rounded up."""


@pytest.mark.parametrize(
    ("data", "left", "mbps", "refused"),
    [
        ((), 1, None, False),
        ((), 0, None, True),
        ((), -1, 10_000, True),
        ((CLINIC,), GIB_100 + 1, None, False),
        ((CLINIC,), GIB_100, None, True),
        ((CLINIC,), 860, 1_000, False),
        ((CLINIC,), 859, 1_000, True),
        ((CLINIC,), 100_000, 1, True),
        ((replace(CLINIC, provider="alpine"),), 1, None, False),
        ((replace(CLINIC, provider="else"),), GIB_100, None, True),
        ((CLINIC, replace(CLINIC, name="more")), GIB_100 + 1, None, True),
        ((replace(CLINIC, mib=10**13),), 10**9, 1, True),
    ],
)
def test_the_data_must_arrive_before_the_deadline(
    data: tuple[DataSet, ...], left: int, mbps: int | None, refused: bool
) -> None:
    job = replace(JOB, data=data, deadline=NOW + timedelta(seconds=left))
    offer = replace(OFFER, ingress_mbps=mbps)
    answer = deadline.refusal(ctx(job), offer)
    assert (answer is not None) == refused
    assert deadline.allowed(ctx(job), OfferTable([offer])).tolist() == [not refused]
    assert not refused or deadline.key(ctx(job)) is not None, "a job without a key is never asked about"
    if answer is not None:
        assert answer.reason == Reason.DEADLINE_TOO_NEAR


def test_a_late_arrival_is_told_in_figures() -> None:
    job = replace(JOB, data=(CLINIC,), deadline=NOW + timedelta(minutes=10))
    refused = deadline.refusal(ctx(job), OFFER)
    assert refused is not None
    assert refused.message == (
        "transferring 102400 MiB of data at 100 Mbit/s (assumed) takes 8590 s, but the deadline is in 600 s"
    )


def test_a_far_deadline_asks_nothing_of_anybody() -> None:
    far = replace(JOB, data=(CLINIC,), deadline=NOW + timedelta(days=30))
    assert deadline.key(ctx(far)) is None
    assert deadline.key(ctx(JOB)) is None
    passed = replace(JOB, deadline=NOW)
    assert deadline.key(ctx(passed)) == deadline.key(ctx(passed, now=NOW + timedelta(hours=1))), (
        "its words are the same"
    )
