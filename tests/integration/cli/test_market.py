"""The market on a real hub: the operator publishes it with its own rights, anybody reads and quotes without others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.commands import run

from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.market import Premium
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.hub.services.market import QuotedOffer, publish_market, published_market
from fedgpu_operator.settings import Settings

L4 = "NVIDIA-L4-market-test"
Json = dict[str, Any]
As = Callable[[str], None]


@pytest.fixture
def become(hub: Cluster, operator_service_account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> As:
    """Sets who the next connections are: the operator, the hub's admin, or a tenant who may view his namespace."""

    def become(who: str) -> None:
        path = tmp_path / "kubeconfig"
        if who == "admin":
            monkeypatch.setenv("KUBECONFIG", str(hub.kubeconfig))
            return
        path.write_text(
            operator_service_account if who == "operator" else hub.kubeconfig_for_service_account(who, "default")
        )
        monkeypatch.setenv("KUBECONFIG", str(path))

    return become


async def looked(ledger: Path) -> None:
    """One look of the operator's market loop."""
    kube = await connect()
    try:
        async with await SqlLedger.open(ledger) as books:
            settings = Settings.from_env({"FEDGPU_NAMESPACE": NAMESPACE})
            await Factory(settings, kube, books).market_loop(settle=timedelta(0)).pass_once()
    finally:
        await kube.close()


async def offer_published() -> None:
    """The same document with one offer that has free GPUs, as a provider that is Ready would have."""
    kube = await connect()
    try:
        offer = Offer("berlin", GpuModel(L4, 24_000, "ada-lovelace"), MicroUSD(500_000), Location("DE"), {4: 2})
        document = await published_market(kube, NAMESPACE)
        quoted = QuotedOffer(offer, Premium(MicroUSD(0), MicroUSD(0)), 0)
        await publish_market(kube, NAMESPACE, replace(document, at=datetime.now(UTC), offers=(quoted,)))
    finally:
        await kube.close()


def job(namespace: str) -> Json:
    return {
        "apiVersion": "fedgpu.dev/v1alpha1",
        "kind": "ComputeJob",
        "metadata": {"name": "asked", "namespace": namespace},
        "spec": {
            "runLimitSeconds": 3600,
            "gpu": {"count": 2, "products": [L4]},
            "template": {"spec": {"containers": [{"name": "a", "image": "example.com/a:1"}]}},
        },
    }


def test_the_operator_publishes_and_a_tenant_with_no_other_right_reads_and_quotes(
    hub: Cluster, become: As, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    namespace, name = unique_name("tenant"), unique_name("owner")
    hub.create_namespace(namespace)
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "none"}},
        "offers": [{"product": L4, "pricePerGPUHour": "0.5"}],
    }
    hub.apply([{"apiVersion": "fedgpu.dev/v1alpha1", "kind": "GPUProvider", "metadata": {"name": name}, "spec": spec}])
    become("operator")
    asyncio.run(looked(tmp_path / "ledger.db"))

    become(namespace)
    code, out, err = run("market", "--product", L4, "--operator-namespace", NAMESPACE, "-o", "json")
    assert (code, err) == (0, "")
    rows = {each["region"]: each for each in json.loads(out)["markets"]}
    assert set(rows) == {"GLOBAL", "EU", "EEA", "DE"}
    assert (rows["DE"]["free"], rows["DE"]["clearing"]) == (0, {"low": "0.50", "high": None})
    assert len(rows["DE"]["history"]) == 1

    become("operator")
    asyncio.run(offer_published())
    become(namespace)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(namespace)))
    code, out, err = run("quote", "-f", str(path), "--operator-namespace", NAMESPACE)
    assert (code, err) == (0, "")
    assert f"{namespace}/asked: 2 GPUs for at most 1h" in out
    assert "Placement berlin" in out
    assert "you may not list PlacementPolicies" in out

    become("admin")
    hub.apply(
        [
            {
                "apiVersion": "fedgpu.dev/v1alpha1",
                "kind": "PlacementPolicy",
                "metadata": {"name": unique_name("us-only")},
                "spec": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "placement": {"countries": ["US"]},
                },
            }
        ]
    )
    code, out, _ = run("quote", "-f", str(path), "--operator-namespace", NAMESPACE, "-o", "json")
    (found,) = json.loads(out)["quotes"]
    assert (code, found["fits"], found["offers"][0]["reason"]) == (0, False, "PolicyDenied")
    assert found["policies"][0].endswith("@1")
    jobs = json.loads(hub.kubectl("get", "computejobs", "-n", namespace, "-o", "json").stdout)
    assert jobs["items"] == [], "a quote applies nothing"
