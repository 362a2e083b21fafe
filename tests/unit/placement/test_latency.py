"""Latency by measurement: which round trips count, what they refuse and price, and which vantage stands for whom."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import Location, locate
from fedgpu_operator.domain.job import ExchangeRates, Job, LatencyRule
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer, Probe
from fedgpu_operator.domain.vantage import Vantage, parse_vantages, with_vantages
from fedgpu_operator.placement import Snapshot, evaluate
from fedgpu_operator.placement.context import Context, OfferRefusal
from fedgpu_operator.placement.plugins import latency

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FRANKFURT = locate(region="eu-central-1")
PARIS = Location("FR", "", 48.86, 2.35)
BERLIN = Location("DE", "", 52.52, 13.40)
POTSDAM = Location("DE", "", 52.39, 13.06)
JOB = Job("u", "lab", "job", GpuNeed(), 1, 3600)
OFFER = Offer("alpine", GpuModel("H100", 81559, "hopper"), MicroUSD(2_000_000), FRANKFURT, {8: 1})
VANTAGES = (Vantage("paris", "http://p", PARIS), Vantage("berlin", "http://b", BERLIN))


def probe(p50: float, p95: float, age: timedelta = timedelta(0), samples: int = 60) -> Probe:
    return Probe(round(1000 * p50), round(1000 * p95), NOW - age, samples)


def asked(rule: LatencyRule, offer: Offer = OFFER) -> OfferRefusal | None:
    return latency.refusal(Context(replace(JOB, latency=rule), (), False, NOW), offer)


@pytest.mark.parametrize(
    ("seen", "max_ms", "reason"),
    [
        ({"paris": probe(12, 14)}, 14, None),
        ({"paris": probe(12, 15)}, 14, Reason.LATENCY_TOO_HIGH),  # p95 judges, not the median
        ({"berlin": probe(12, 14)}, 500, Reason.LATENCY_UNMEASURED),  # another place
        ({}, 500, Reason.LATENCY_UNMEASURED),
        ({"paris": probe(12, 14, timedelta(hours=1))}, 14, None),
        ({"paris": probe(12, 14, timedelta(hours=1, seconds=1))}, 14, Reason.LATENCY_UNMEASURED),
        ({"paris": probe(12, 14, timedelta(minutes=-1))}, 14, None),
        ({"paris": probe(12, 14, timedelta(minutes=-2))}, 14, Reason.LATENCY_UNMEASURED),  # from the future
        ({"paris": probe(12, 14, samples=5)}, 14, None),
        ({"paris": probe(12, 14, samples=4)}, 14, Reason.LATENCY_UNMEASURED),
        ({"paris": probe(1, 2)}, 14, Reason.LATENCY_UNMEASURED),  # 450 km in a millisecond: faster than light
    ],
)
def test_a_hard_bound_is_met_only_by_a_measurement_that_counts(
    seen: dict[str, Probe], max_ms: int, reason: Reason | None
) -> None:
    rule = LatencyRule(PARIS, max_ms, vantages=frozenset({"paris"}), max_age=3600)
    refused = asked(rule, replace(OFFER, probes=seen))
    assert (refused.reason if refused else None) == reason
    if reason is Reason.LATENCY_UNMEASURED:
        # An estimate may stand in where the job lets it, and only then.
        assert asked(replace(rule, allow_estimate=True), replace(OFFER, probes=seen)) is None


def test_the_estimate_alone_refuses_what_light_cannot_reach() -> None:
    rule = LatencyRule(PARIS, 3, vantages=frozenset({"paris"}))
    refused = asked(rule)
    assert refused is not None
    assert refused.reason is Reason.LATENCY_TOO_HIGH
    assert "speed of light" in refused.message


def test_of_two_vantages_for_one_place_the_slower_counts_and_leaving_it_out_does_not_help() -> None:
    rule = LatencyRule(PARIS, 20, vantages=frozenset({"paris", "paris-2"}))
    fast, slow = {"paris": probe(10, 12)}, {"paris-2": probe(18, 25)}
    refused = asked(rule, replace(OFFER, probes=fast | slow))
    assert refused is not None
    assert "25.0 ms (measured" in refused.message
    refused = asked(rule, replace(OFFER, probes=fast))
    assert refused is not None
    assert refused.reason is Reason.LATENCY_UNMEASURED
    assert "paris-2: not measured" in refused.message
    old = {"paris-2": probe(11, 13, timedelta(days=2))}
    refused = asked(rule, replace(OFFER, probes=fast | old))
    assert refused is not None
    assert "paris-2: measured at 2025-12-30T00:00:00Z, older than" in refused.message
    assert asked(rule, replace(OFFER, probes=fast | {"paris-2": probe(11, 13)})) is None


@pytest.mark.parametrize("place", [Location("DE"), Location("US"), Location("DE", "nobodys-region")])
def test_who_leaves_its_coordinates_out_has_measured_nothing(place: Location) -> None:
    rule = LatencyRule(PARIS, 20, vantages=frozenset({"paris"}))
    for allow in (False, True):
        refused = asked(
            replace(rule, allow_estimate=allow), replace(OFFER, location=place, probes={"paris": probe(10, 12)})
        )
        assert refused is not None
        assert refused.reason is Reason.LATENCY_UNMEASURED
        assert "set coordinates" in refused.message
    job = replace(JOB, latency=replace(rule, max_ms=None), rates=ExchangeRates(per_ms=1_000))
    offer = replace(OFFER, location=place, probes={"paris": probe(10, 12)})
    (verdict,) = evaluate(job, Snapshot(NOW, (), (offer,), {}, {"lab": None})).verdicts
    assert verdict.components.keys() == {"latencyAssumed"}, "priced as from the antipodes"


def test_no_time_at_all_is_no_round_trip_even_next_door() -> None:
    rule = LatencyRule(FRANKFURT, 20, vantages=frozenset({"main"}))
    refused = asked(rule, replace(OFFER, probes={"main": probe(0, 0)}))
    assert refused is not None
    assert "faster than light" in refused.message
    assert asked(rule, replace(OFFER, probes={"main": probe(0.001, 0.3)})) is None


def test_the_measured_median_is_priced_and_shown_with_its_age_and_the_estimate_is_marked() -> None:
    rule = LatencyRule(PARIS, vantages=frozenset({"paris"}))
    job = replace(JOB, latency=rule, rates=ExchangeRates(per_ms=1_000))
    measured = replace(OFFER, probes={"paris": probe(12.5, 30)})
    unmeasured = replace(OFFER, provider="boreal")
    decision = evaluate(job, Snapshot(NOW, (), (measured, unmeasured), {}, {"lab": None}))
    known = {verdict.provider: verdict for verdict in decision.verdicts}
    assert (known["alpine"].latency_ms, known["alpine"].latency_source) == (12.5, "measured")
    assert known["alpine"].components["latency"] == 12_500
    assert known["boreal"].latency_source == "estimate"
    assert known["boreal"].latency_ms == pytest.approx(4.78, abs=0.5)
    # An estimate is a lower bound: what was not measured may look nearer, and is marked.
    assert known["boreal"].components["latency"] < 12_500


def test_a_vantage_stands_for_its_region_and_for_what_is_near() -> None:
    assert with_vantages(LatencyRule(POTSDAM), VANTAGES).vantages == {"berlin"}
    assert with_vantages(LatencyRule(FRANKFURT), VANTAGES).vantages == frozenset()
    here = Vantage("main", "http://m", FRANKFURT)
    assert with_vantages(LatencyRule(Location("DE", "eu-central-1")), (*VANTAGES, here)).vantages == {"main"}
    # An owner may reuse a cloud's name for a region elsewhere.
    assert with_vantages(LatencyRule(Location("US", "eu-central-1")), (here,)).vantages == frozenset()


def test_a_named_vantage_gives_the_place_and_an_unknown_one_is_refused() -> None:
    rule = LatencyRule(Location(""), 20, vantages=frozenset({"berlin"}))
    assert with_vantages(rule, VANTAGES).origin == BERLIN
    with pytest.raises(ValueError, match="unknown vantage 'oslo'; vantages of this hub: berlin, paris"):
        with_vantages(replace(rule, vantages=frozenset({"oslo"})), VANTAGES)


def test_vantages_are_read_with_their_places() -> None:
    entries = [
        {"name": "main", "url": "https://v.example/", "region": "eu-central-1"},
        {"name": "spree", "url": "http://10.0.0.1:8080", "latitude": 52.52, "longitude": 13.4, "country": "DE"},
    ]
    main, spree = parse_vantages(json.dumps(entries))
    assert (main.name, main.location.country) == ("main", "DE")
    assert (spree.location.latitude, spree.location.country) == (52.52, "DE")
    assert parse_vantages("") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must be a JSON list"),
        ('{"name": "a"}', "must be a JSON list"),
        ('[{"name": "a b", "url": "http://a", "country": "DE"}]', "entry 0: name must be a word"),
        ('[{"name": "a", "url": "ftp://a", "country": "DE"}]', "entry 0: url must be an http"),
        ('[{"name": "a", "url": "http://[a", "country": "DE"}]', "entry 0: invalid url"),
        ('[{"name": "a", "url": "https://user:word@a/", "country": "DE"}]', "must not contain a user, password"),
        ('[{"name": "a", "url": "https://user@a/", "country": "DE"}]', "must not contain a user, password"),
        ('[{"name": "a", "url": "https://a/p?token=1", "country": "DE"}]', "must not contain a user, password"),
        ('[{"name": "a", "url": "https://a/#token", "country": "DE"}]', "must not contain a user, password"),
        ('[{"name": "a", "url": "http://a"}]', "location missing: set region"),
        ('[{"name": "a", "url": "http://a", "country": "XX"}]', "unknown country 'XX': use an ISO 3166-1"),
        ('[{"name": "a", "url": "http://a", "latitude": 1}]', "must be two numbers"),
        ('[{"name": "a", "url": "http://a", "latitude": 91, "longitude": 0}]', "out of range"),
        ('[{"name": "a", "url": "http://a", "county": "DE"}]', "unknown field 'county'"),
        (
            '[{"name": "a", "url": "http://a", "country": "DE"}, {"name": "a", "url": "http://b", "country": "FR"}]',
            "names must be unique",
        ),
    ],
)
def test_a_vantage_that_cannot_be_is_refused_with_the_fix(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_vantages(text)
