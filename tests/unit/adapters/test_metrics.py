"""What Prometheus is told of the solver and of the market: the present figures alone, in a bounded number of series."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf, isnan

import pytest
from prometheus_client import CollectorRegistry, Gauge

from fedgpu_operator import __version__
from fedgpu_operator.adapters.metrics import MOST_MARKETS, MOST_NAMESPACES, OTHER, PrometheusMetrics
from fedgpu_operator.domain.market import PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.placement.problem import Solution
from fedgpu_operator.ports import Metrics
from fedgpu_operator.settlement.funding import Purse


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return PrometheusMetrics(registry)


def point(product: str, region: str, high: int | None = 2_490_000, *, free: int = 8, unmet: int = 0) -> PricePoint:
    return PricePoint(
        at=datetime(2026, 11, 1, tzinfo=UTC),
        product=product,
        region=region,
        low=MicroUSD(2_000_000),
        high=None if high is None else MicroUSD(high),
        cheapest=MicroUSD(1_990_000),
        dearest=MicroUSD(3_000_000),
        free=free,
        wanted=unmet,
        unmet=unmet,
    )


def market(registry: CollectorRegistry, name: str, region: str) -> float | None:
    return registry.get_sample_value(name, {"product": "H100", "region": region})


def test_prices_are_those_of_the_last_look(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.market([point("H100", "DE"), point("H100", "FR")])
    metrics.market([point("H100", "DE", None, free=3, unmet=5)])
    assert market(registry, "fedgpu_clearing_price_low_usd", "DE") == 2.0
    assert market(registry, "fedgpu_clearing_price_high_usd", "DE") == inf
    assert market(registry, "fedgpu_market_free_gpus", "DE") == 3
    assert market(registry, "fedgpu_market_unmet_gpus", "DE") == 5
    assert market(registry, "fedgpu_market_free_gpus", "FR") is None, "a market that is gone has no price"


def test_how_long_each_watch_is_silent_is_asked_at_every_look(registry: CollectorRegistry) -> None:
    silence = 3.0
    PrometheusMetrics(registry).follow({"computejobs": lambda: silence})
    silence = 90.0
    assert registry.get_sample_value("fedgpu_watch_silence_seconds", {"kind": "computejobs"}) == 90.0


def test_owners_cannot_make_any_number_of_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.market([point("H100", f"r{number}", free=number) for number in range(MOST_MARKETS + 50)])
    shown = [
        sample for family in registry.collect() for sample in family.samples if sample.name == "fedgpu_market_free_gpus"
    ]
    assert len(shown) == MOST_MARKETS
    assert min(sample.value for sample in shown) == 50, "the largest markets are kept"


def test_a_solve_shows_its_gap_and_its_proof(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.solved(Solution(flows=(), cost=100, placed=10, most=10, floor=100, certified=True, rounds=3))
    assert registry.get_sample_value("fedgpu_placement_gap_ratio") == 0
    assert registry.get_sample_value("fedgpu_placement_certified") == 1
    assert registry.get_sample_value("fedgpu_placement_rounds") == 3
    metrics.solved(Solution(flows=(), cost=103, placed=10, most=10, floor=100, certified=False))
    assert registry.get_sample_value("fedgpu_placement_gap_ratio") == pytest.approx(0.03)
    assert registry.get_sample_value("fedgpu_placement_certified") == 0
    for certified in ("true", "false"):
        assert registry.get_sample_value("fedgpu_placement_solves_total", {"certified": certified}) == 1


def test_the_settlers_coins_are_unknown_until_somebody_has_looked(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    names = ("balance_wei", "runway_seconds", "epochs", "burn_wei_per_day")
    shown = [registry.get_sample_value(f"fedgpu_settler_{name}") for name in names]
    assert all(value is not None and isnan(value) for value in shown[:3]), "not 0: that would be an alarm"
    metrics.settler(Purse(balance=7 * 10**15, epoch=10**12, next=10**12, burn=10**15))
    assert [registry.get_sample_value(f"fedgpu_settler_{name}") for name in names] == [7e15, 7 * 86_400, 7_000, 1e15]
    metrics.settler(Purse(balance=7, epoch=0, next=0, burn=0))
    assert [registry.get_sample_value(f"fedgpu_settler_{name}") for name in names] == [7, inf, inf, 0]


def test_pending_jobs_are_counted_as_they_are_now(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.pending({("team-a", "InsufficientGPUs"): 3, ("team-b", "Unfunded"): 1})
    metrics.pending({("team-a", "InsufficientGPUs"): 2})
    assert series(registry, "fedgpu_pending_jobs") == {("team-a", "InsufficientGPUs"): 2}


def test_of_pending_jobs_only_what_changed_is_touched(
    metrics: Metrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = {(f"team-{number}", "Unfunded"): 1 for number in range(MOST_NAMESPACES + 2)}
    metrics.pending(queues)
    touched: list[tuple[str, ...]] = []
    labels = Gauge.labels

    def noted(gauge: Gauge, *names: str) -> Gauge:
        touched.append(names)
        return labels(gauge, *names)

    monkeypatch.setattr(Gauge, "labels", noted)
    metrics.pending(queues | {("team-1", "Unfunded"): 2})
    assert touched == [("team-1", "Unfunded")]
    assert series(registry, "fedgpu_pending_jobs")["team-1", "Unfunded"] == 2
    assert series(registry, "fedgpu_pending_jobs")[OTHER, "Unfunded"] == 2


def test_an_attempt_that_places_something_is_a_success(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.decided(2, {"Outbid": 1}, 0.2)
    metrics.decided(0, {}, 0.1)
    metrics.decided(0, {}, 0.1)
    counts = {("success",): 1, ("inadmissible",): 2}
    assert series(registry, "fedgpu_admission_attempts_total") == counts
    assert series(registry, "fedgpu_admission_attempt_duration_seconds_count") == counts
    assert series(registry, "fedgpu_placement_refusals_total") == {("Outbid",): 1}


def test_tenants_cannot_make_any_number_of_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    for number in range(MOST_NAMESPACES + 50):
        metrics.admitted(f"team-{number}", 7.0)
    metrics.pending({(f"team-{number}", "Unfunded"): 1 for number in range(MOST_NAMESPACES + 50)})
    admitted = series(registry, "fedgpu_admitted_jobs_total")
    assert len(admitted) == MOST_NAMESPACES + 1
    assert admitted[OTHER,] == series(registry, "fedgpu_pending_jobs")[OTHER, "Unfunded"] == 50
    waited = series(registry, "fedgpu_admission_wait_time_seconds_sum")
    assert (waited["team-0",], waited[OTHER,]) == (7, 350)


def test_only_known_words_are_reasons_of_an_eviction(metrics: Metrics, registry: CollectorRegistry) -> None:
    for reason in ("Preempted", "Deleted", "what somebody wrote by hand", "and again"):
        metrics.evicted(reason)
    assert series(registry, "fedgpu_evicted_jobs_total") == {("Preempted",): 1, ("Deleted",): 1, (OTHER,): 2}


def test_a_provider_that_is_gone_has_no_connection(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.providers({"berlin": True, "oslo": False})
    assert series(registry, "fedgpu_provider_connected") == {("berlin",): 1, ("oslo",): 0}
    metrics.providers({"berlin": False})
    assert series(registry, "fedgpu_provider_connected") == {("berlin",): 0}


def test_an_epoch_is_not_due_before_there_is_work_to_settle(metrics: Metrics, registry: CollectorRegistry) -> None:
    due = registry.get_sample_value("fedgpu_epoch_due_timestamp_seconds")
    assert due is not None
    assert isnan(due), "not 0: that would be an alarm"
    metrics.epoch_due(datetime(2026, 11, 1, tzinfo=UTC))
    assert registry.get_sample_value("fedgpu_epoch_due_timestamp_seconds") == 1793491200
    metrics.epoch_due(None)
    assert isnan(registry.get_sample_value("fedgpu_epoch_due_timestamp_seconds") or 0.0)


def test_the_version_is_served(metrics: Metrics, registry: CollectorRegistry) -> None:
    ((version, _),) = series(registry, "fedgpu_build_info")
    assert version == __version__


def series(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Values by the label values of every series of that name."""
    samples = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def test_an_obstacle_is_there_while_it_holds(metrics: Metrics, registry: CollectorRegistry) -> None:
    for holds in (True, False):
        metrics.obstacles({"StatePruned": holds, "RoleMissing": not holds})
        assert registry.get_sample_value("fedgpu_settlement_obstacle", {"reason": "StatePruned"}) == holds
        assert registry.get_sample_value("fedgpu_settlement_obstacle", {"reason": "RoleMissing"}) != holds
