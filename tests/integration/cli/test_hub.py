"""What the verbs take from a real hub: escrow, manifests, epochs, wallets; by what an ordinary user may read there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from fedgpu_lab.chain import Account
from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.domain.settlement import Epoch, EpochDraft, EpochPlan, EpochStage
from fedgpu_operator.hub.services import epochs as manifests
from fedgpu_operator.hub.services.epochs import publish_manifest
from fedgpu_operator.hub.services.escrow import Published, publish

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

API = "/apis/fedgpu.dev/v1alpha1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEDGER_NUMBER = 41
"""The ledger's own number of the epoch that is number 1 on the chain."""
Json = dict[str, Any]


@pytest.fixture
def published(
    own_cli: Cli,
    hub: Cluster,
    operator_service_account: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unique_name: Callable[[str], str],
) -> Json:
    """Epoch 1 with all that an operator publishes of it, in pieces; wallets of a tenant and of a provider."""
    tenant, provider = own_cli.chain.accounts[11], own_cli.chain.accounts[12]
    own_cli.fund(tenant, 20, 20)
    plan = own_cli.post({(tenant.address, provider.address): 4}, {tenant.address: 4})
    namespace, name = unique_name("tenant"), unique_name("owner")
    hub.create_namespace(namespace)
    hub.apply([account(namespace, tenant), owner(name, provider), settlement_epoch(unique_name("epoch"), plan)])

    monkeypatch.setattr(manifests, "PIECE_BYTES", 200)
    operator = tmp_path / "operator.yaml"
    operator.write_text(operator_service_account)
    monkeypatch.setenv("KUBECONFIG", str(operator))
    asyncio.run(published_by_the_operator(plan, own_cli.deployment.escrow))

    user = tmp_path / "user.yaml"
    user.write_text(hub.kubeconfig_for_service_account(namespace, "default"))
    hub.kubectl(
        "create",
        "rolebinding",
        "view",
        "--clusterrole=view",
        f"--serviceaccount={namespace}:default",
        f"-n={namespace}",
    )
    monkeypatch.setenv("KUBECONFIG", str(user))
    return {"namespace": namespace, "provider": name, "wallet": provider.address, "admin": str(hub.kubeconfig)}


async def published_by_the_operator(plan: EpochPlan, escrow: str) -> None:
    draft = EpochDraft(
        seq=plan.seq,
        prev_root=plan.prev_root,
        root=plan.root,
        manifest=plan.manifest,
        manifest_hash=plan.manifest_hash,
        period_end=NOW,
        total=plan.total,
        lines=(),
        covers=(),
    )
    kube = await connect()
    try:
        await publish_manifest(kube, NAMESPACE, Epoch(LEDGER_NUMBER, draft, EpochStage.POSTED, NOW))
        await publish(kube, NAMESPACE, Published("uid", 31337, escrow))
    finally:
        await kube.close()


def manifest(kind: str, metadata: Json, spec: Json) -> Json:
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def account(namespace: str, tenant: Account) -> Json:
    return manifest("ComputeAccount", {"name": "default", "namespace": namespace}, {"wallet": tenant.address})


def owner(name: str, provider: Account) -> Json:
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "none"}},
        "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}],
        "payout": {"address": provider.address},
    }
    return manifest("GPUProvider", {"name": name}, spec)


def settlement_epoch(name: str, plan: EpochPlan) -> Json:
    spec = {
        "sequence": LEDGER_NUMBER,
        "chainID": plan.chain_id,
        "contract": plan.escrow,
        "prevRoot": plan.prev_root,
        "root": plan.root,
        "manifestHash": plan.manifest_hash,
        "periodEnd": "2026-01-01T00:00:00Z",
        "total": "4",
        "tenants": 1,
        "providers": 1,
    }
    return manifest("SettlementEpoch", {"name": name}, spec)


def test_a_reader_of_the_hub_verifies_with_nothing_but_an_endpoint(
    own_cli: Cli, published: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", published["admin"])
    found = own_cli("settle", "verify", "1", escrow=False)
    assert found.code == 0, found.err
    assert "The manifest and the chain agree." in found.out
    row = next(
        each
        for each in own_cli("settle", "status", "-o", "json", escrow=False).data["epochs"]
        if each["epoch"] == 1 and each["onChain"]
    )
    assert (row["onChain"], row["state"], row["debited"]) == ("InWindow", "Pending", "4.00")

    own_cli.chain.jump(3600)
    own_cli.chain.mine(2)
    keys = own_cli.key(own_cli.chain.accounts[13])
    claimed = own_cli("payouts", "claim", "--provider", published["provider"], *keys, "-o", "json", escrow=False)
    assert claimed.code == 0, claimed.err
    assert claimed.data["total"] == "4.00"
    shown = own_cli("payouts", "--provider", published["provider"], "-o", "json", escrow=False).data["providers"]
    assert [(each["provider"], each["wallet"], each["paid"], each["payable"]) for each in shown] == [
        (published["provider"], published["wallet"], "4.00", "0.00")
    ]


def test_an_ordinary_user_finds_the_escrow_and_its_own_wallet(own_cli: Cli, published: Json) -> None:
    shown = own_cli("account", "limits", "show", "-n", published["namespace"], "-o", "json", escrow=False)
    assert shown.code == 0, shown.err
    assert (shown.data["limit"], shown.data["pending"]) == ("20.00", "4.00")
    refused = own_cli("settle", "status", escrow=False)
    assert refused.code == 1
    assert "permission denied" in refused.err
    # Who may not list epochs looks under the chain's number, and here the ledger counts otherwise.
    lost = own_cli("settle", "verify", "1", escrow=False)
    assert lost.code == 1
    assert "give it with --manifest" in lost.err

    nowhere = own_cli("chain", "check", "--operator-namespace", published["namespace"], escrow=False)
    assert nowhere.code == 2
    assert "escrow not found on the hub: " in nowhere.err
    other = own_cli("chain", "check", "--chain-id", "5", escrow=False)
    assert other.code == 1
    assert "the hub settles on chain 31337" in other.err
