"""Running work that makes room for higher priority, follows a price, or leaves a draining provider; and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from tests.integration.operator.federation import API, PRICES, Federation, Json, Tenant, eventually

NOTICE = 4
MOVABLE: dict[str, Any] = {
    "run": "",
    "disruption": {"reclaimable": True, "noticeSeconds": NOTICE},
    "checkpoint": {"intervalSeconds": 5},
}
US = {"countries": ["US"]}
CLASS = "urgent-in-tests"


@pytest.fixture(autouse=True)
def urgent(running: Federation) -> Iterator[None]:
    """A PriorityClass above the default, as a cluster admin makes it."""
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    running.hub.api.create(classes, {"metadata": {"name": CLASS}, "value": 1000})
    yield
    running.hub.api.delete(f"{classes}/{CLASS}")


def _lease(tenant: Tenant, name: str) -> Json:
    return tenant.leases(name)[-1]


def _runs_at(tenant: Tenant, name: str, provider: str, attempt: int) -> Json:
    def there() -> Json | None:
        status = tenant.status(name)
        placed = status.get("placement", {})
        right = (placed.get("provider"), placed.get("attempt"), status.get("state")) == (provider, attempt, "Running")
        return status if right else None

    return eventually(f"{name} to run at {provider} as attempt {attempt}", there)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_higher_priority_moves_lower_work_with_notice_and_within_its_budget(tenant: Tenant) -> None:
    tenant.apply(tenant.job("low", gpu={"count": 8}, **MOVABLE))
    _runs_at(tenant, "low", "beta", 1)
    first = _lease(tenant, "low")
    tenant.apply(tenant.job("high", gpu={"count": 8}, placement=US, priorityClassName=CLASS))
    eventually("the announcement", lambda: "MoveAnnounced" in tenant.events("low"))
    workload = "fedgpu.dev/checkpoint-requested"
    eventually(
        "the workload to be told",
        lambda: any(workload in pod["metadata"].get("annotations", {}) for pod in tenant.pods("beta")),
    )
    assert tenant.until_state("high", "Succeeded")["placement"]["provider"] == "beta"
    stopped = tenant.leases("low")[0]["spec"]
    assert stopped["stopReason"] == "Preempted"
    notice = _at(stopped["stopRequestedAt"]) - _at(stopped["checkpointRequestedAt"])
    assert notice.total_seconds() >= NOTICE
    moved = _runs_at(tenant, "low", "alpha", 2)
    assert moved["placement"]["lease"] != first["metadata"]["name"]
    assert moved["placement"]["price"] == PRICES["alpha"]
    eventually("the Event of the stop", lambda: "Preempted" in tenant.events("low"))

    # All of alpha is wanted now; but it may be moved once, and was.
    wanted: dict[str, Any] = {"gpu": {"count": 8}, "replicas": 2, "placement": {"countries": ["DE"]}}
    tenant.apply(tenant.job("again", priorityClassName=CLASS, **wanted))
    tenant.until("again", "Placed", "False", "InsufficientGPUs")
    tenant.apply(tenant.job("meanwhile", run="1s"))
    tenant.until_state("meanwhile", "Succeeded")
    assert (len(tenant.leases("low")), _lease(tenant, "low")["spec"]["desired"]) == (2, "Run")


def test_work_that_is_not_reclaimable_stays(tenant: Tenant) -> None:
    tenant.apply(tenant.job("bound", run="", gpu={"count": 8}, placement=US))
    _runs_at(tenant, "bound", "beta", 1)
    tenant.apply(tenant.job("high", gpu={"count": 8}, placement=US, priorityClassName=CLASS))
    tenant.until("high", "Placed", "False", "InsufficientGPUs")
    tenant.apply(tenant.job("meanwhile", run="1s"))
    tenant.until_state("meanwhile", "Succeeded")
    assert _lease(tenant, "bound")["spec"]["desired"] == "Run"
    assert "MoveAnnounced" not in tenant.events("bound")
    tenant.delete("bound")
    tenant.until_state("high", "Succeeded")


def test_a_class_that_nobody_made_is_said(tenant: Tenant) -> None:
    tenant.apply(tenant.job("lost", priorityClassName="nobody-made-it"))
    tenant.until("lost", "Placed", "False", "UnknownPriorityClass")
    assert tenant.leases("lost") == []


def test_a_lower_price_moves_work_only_where_it_pays(running: Federation, tenant: Tenant) -> None:
    tenant.apply(
        tenant.job("long", gpu={"count": 4}, runLimitSeconds=7200, **MOVABLE),
        tenant.job("short", runLimitSeconds=120, **MOVABLE),
    )
    for name in ("long", "short"):
        _runs_at(tenant, name, "beta", 1)
    _offer(running, "alpha", "0.20")
    try:
        moved = _runs_at(tenant, "long", "alpha", 2)
        assert moved["placement"]["price"] == "0.20"
        assert tenant.leases("long")[0]["spec"]["stopReason"] == "Rebalanced"
        assert _lease(tenant, "short")["spec"]["attempt"] == 1, "it saves less than a start elsewhere costs"
    finally:
        _offer(running, "alpha", PRICES["alpha"])
    assert _lease(tenant, "long")["spec"]["desired"] == "Run"


def _offer(running: Federation, provider: str, price: str) -> None:
    _change(running, provider, {"offers": [{"product": "NVIDIA-H100-80GB-HBM3", "pricePerGPUHour": price}]})


def _change(running: Federation, provider: str, spec: Json) -> None:
    path = f"{API}/gpuproviders/{provider}"
    generation = running.hub.api.patch(path, {"spec": spec})["metadata"]["generation"]
    eventually("the change to stand", lambda: running.provider(provider).get("observedGeneration") == generation)
    running.until_provider(provider, "Ready", "True")


def test_a_draining_provider_empties(running: Federation, tenant: Tenant) -> None:
    tenant.apply(tenant.job("leaves", gpu={"count": 4}, **MOVABLE), tenant.job("bound", run="", placement=US))
    _runs_at(tenant, "leaves", "beta", 1)
    _runs_at(tenant, "bound", "beta", 1)
    _drain(running, "beta", True)
    try:
        _runs_at(tenant, "leaves", "alpha", 2)
        tenant.apply(tenant.job("new", run="1s"))
        assert tenant.until_state("new", "Succeeded")["placement"]["provider"] == "alpha", "nothing new goes there"
        assert _lease(tenant, "bound")["spec"]["desired"] == "Run"
        events = running.hub.api.get("/api/v1/namespaces/default/events")["items"]
        said = {event["message"] for event in events if event["reason"] == "Draining"}
        assert any("of which 1 may not be moved" in text for text in said), said
    finally:
        _drain(running, "beta", False)
    tenant.apply(tenant.job("back", run="1s"))
    assert tenant.until_state("back", "Succeeded")["placement"]["provider"] == "beta"


def _drain(running: Federation, provider: str, value: bool) -> None:
    _change(running, provider, {"drain": value})
