"""What can still be sold: never negative, never more than the member reported, never beyond the owner's limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.world import H100

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.providerreport import NodeBucket, ProviderReport, ReportedProduct
from fedgpu_operator.hub.services.hubstate import free_histogram, inventory, offers

Histogram = dict[int, int]


def product(buckets: Histogram, name: str = H100) -> ReportedProduct:
    total = sum(free * nodes for free, nodes in buckets.items())
    listed = [NodeBucket(free=free, nodes=nodes) for free, nodes in buckets.items()]
    return ReportedProduct(product=name, total=total, gpus_in_use_by_others=0, free_gpu_histogram=listed)


def lease(gpus: int, replicas: int = 1, name: str = H100) -> ComputeLease:
    uid = "0" * 36
    spec = {
        "job": {"namespace": "team-a", "name": "job", "uid": uid},
        "attempt": 1,
        "fencingEpoch": 1,
        "provider": "berlin",
        "product": name,
        "replicas": replicas,
        "gpusPerReplica": gpus,
        "pricePerGPUHour": "1.25",
        "runLimitSeconds": 3600,
        "memberNamespace": "fedgpu-tenant-team-a",
        "workload": {},
    }
    return ComputeLease.parse({"metadata": {"name": f"{uid}-1", "namespace": "fedgpu-provider-berlin"}, "spec": spec})


def gpus(histogram: Histogram) -> int:
    return sum(free * nodes for free, nodes in histogram.items())


HISTOGRAMS = st.dictionaries(st.integers(0, 16), st.integers(1, 40), max_size=6)
LEASES = st.lists(st.builds(lease, st.integers(1, 16), st.integers(1, 8), st.sampled_from([H100, "other"])), max_size=8)


@given(HISTOGRAMS, LEASES, st.none() | st.integers(1, 600))
def test_never_negative_never_more_than_reported_never_beyond_the_owners_limit(
    buckets: Histogram, leases: list[ComputeLease], limit: int | None
) -> None:
    left = free_histogram(product(buckets), leases, limit)
    assert all(free > 0 and nodes > 0 for free, nodes in left.items())
    let = sum(each.spec.gpus for each in leases if each.spec.product == H100)
    assert gpus(left) <= max(0, gpus(buckets) - let)
    assert sum(left.values()) <= sum(buckets.values())
    assert max(left, default=0) <= max(buckets, default=0)
    if limit is not None:
        assert gpus(left) <= max(0, limit - let)


@given(HISTOGRAMS, st.integers(1, 600))
def test_the_owners_limit_is_given_out_whole_where_there_is_that_much(buckets: Histogram, limit: int) -> None:
    left = free_histogram(product(buckets), [], limit)
    assert gpus(left) == min(limit, gpus(buckets))


@pytest.mark.parametrize(
    ("buckets", "leases", "limit", "left"),
    [
        ({8: 2}, [], None, {8: 2}),
        ({0: 3, 8: 1}, [], None, {8: 1}),
        ({8: 2}, [lease(3)], None, {8: 1, 5: 1}),
        ({8: 2, 4: 1}, [lease(4)], None, {8: 2}),
        ({8: 2}, [lease(8, 2)], None, {}),
        ({8: 1}, [lease(8, 2)], None, {}),
        ({8: 2}, [lease(8, name="other")], None, {8: 2}),
        ({8: 2}, [], 12, {8: 1, 4: 1}),
        ({8: 2}, [lease(4)], 12, {8: 1}),
        ({8: 2}, [lease(8), lease(8)], 4, {}),
        ({8: 3, 2: 1}, [], 3, {3: 1}),
    ],
)
def test_by_hand(buckets: Histogram, leases: list[ComputeLease], limit: int | None, left: Histogram) -> None:
    assert free_histogram(product(buckets), leases, limit) == left


def provider(**spec: object) -> GPUProvider:
    body = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [
            {"product": H100, "pricePerGPUHour": "1.25", "maxGPUs": 6},
            {"product": "L4", "pricePerGPUHour": "1"},
        ],
        **spec,
    }
    return GPUProvider.parse({"metadata": {"name": "berlin", "labels": {"tier": "gold"}}, "spec": body})


def report(*products: ReportedProduct) -> ProviderReport:
    status = {"products": [each.to_wire() for each in products]}
    return ProviderReport.parse({"metadata": {"name": "berlin"}, "spec": {"provider": "berlin"}, "status": status})


def test_offers_carry_the_owners_words_and_what_is_free() -> None:
    energy, limits = {"carbonIntensity": 40}, {"maxLeases": 1}
    owner = provider(energy=energy, limits=limits, compliance=["HIPAA"])
    h100, l4 = offers(owner, report(product({8: 1})), [lease(2)], ready=True)
    assert (h100.price, h100.free_gpus, h100.lease_slots) == (1_250_000, 4, 0)
    assert (h100.carbon_g_per_kwh, set(h100.compliance), dict(h100.labels)) == (40, {"HIPAA"}, {"tier": "gold"})
    assert (l4.gpu.product, l4.free_gpus) == ("L4", 0), "offered, and no node has it"


def test_without_a_report_nothing_is_free() -> None:
    assert [each.free_gpus for each in offers(provider(), None, [], ready=False)] == [0, 0]


def test_the_inventory_names_offered_products_only_in_their_order() -> None:
    stock = inventory(
        provider(), report(product({4: 1}, "L4"), product({8: 1}), product({8: 9}, "private")), [lease(2)]
    )
    assert [(each.product, each.total, each.free, each.nodes) for each in stock] == [("L4", 4, 4, 1), (H100, 8, 4, 1)]


def test_round_trips_are_whole_microseconds_and_the_tail_is_never_below_the_median() -> None:
    location, secret = {"country": "DE"}, {"kubeconfigSecretRef": {"name": "berlin"}}
    spec = {"location": location, "connection": secret, "offers": [{"product": H100, "pricePerGPUHour": "1"}]}
    provider = GPUProvider.parse({"metadata": {"name": "berlin"}, "spec": spec})
    at = "2026-01-01T12:00:00Z"
    probes = [
        {"vantage": "fra", "p50Ms": 1.2345, "p95Ms": 9, "samples": 5, "measuredAt": at},
        {"vantage": "ber", "p50Ms": 4, "p95Ms": 2, "samples": 6, "measuredAt": at},
    ]
    report = ProviderReport.parse(
        {"metadata": {"name": "berlin"}, "spec": {"provider": "berlin"}, "status": {"probes": probes}}
    )
    (offer,) = offers(provider, report, [], ready=True)
    assert {name: (each.p50_us, each.p95_us, each.samples) for name, each in offer.probes.items()} == {
        "fra": (1234, 9000, 5),
        "ber": (4000, 4000, 6),
    }
    assert offers(provider, None, [], ready=True)[0].probes == {}
