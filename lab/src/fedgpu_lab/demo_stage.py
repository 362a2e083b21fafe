"""Sets the demo's stage: escrow and funded tenants, kinds and Secrets on the hub, the operator as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from fedgpu_lab.chain import Chain
from fedgpu_lab.demo_proofs import key_of, keys_of, prove_wallets
from fedgpu_lab.demo_scenario import Scenario, Tenant
from fedgpu_lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_lab.progress import Progress
from fedgpu_lab.world import Lab
from fedgpu_operator.adapters.chain import Periods, ProviderWallet, TenantWallet, deploy
from fedgpu_operator.api.crd import all_crds
from fedgpu_operator.api.gpuprovider import Payout, SecretKeyRef
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import LabError

T = TypeVar("T")

NAMESPACE: Final = "fedgpu-system"
CHALLENGE_SECONDS: Final = 86_400
"""A day, as a real deployment would have it: the demo jumps over it, and says so."""
RECEIPT_PATIENCE_S: Final = 20.0
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs while the demo plays; the operator's log is `operator.log`."""

    lab: Lab
    chain: Chain
    deployment: Deployment
    operator: Child


@contextmanager
def stage(lab: Lab, scenario: Scenario, progress: Progress, *, epoch_seconds: float) -> Iterator[Stage]:
    """Prepare hub and chain side by side, start the operator, and end it afterwards. Raises LabError, ChainError."""
    chain = lab.chain
    if chain is None or len(chain.accounts) < 2:
        raise LabError("the demo needs the lab's chain")
    watchdog = Watchdog()
    try:
        with progress.task("Installing the kinds on the hub and the escrow on the chain"):
            deployment = _side_by_side(partial(_install, lab), _deploy(chain))
        operator = _operator(lab, chain, deployment, watchdog, epoch_seconds)
        operator.start()
        try:
            with progress.task(f"kubectl apply of providers and policies; {len(scenario.tenants)} tenants deposit"):
                _side_by_side(partial(_apply, lab, chain, scenario), _on_chain(chain, deployment, scenario))
            with progress.task("fedgpu account prove, fedgpu provider prove: every wallet agrees to its use"):
                prove_wallets(lab, chain, deployment, scenario)
            yield Stage(lab, chain, deployment, operator)
        finally:
            end([operator], grace=8.0)
    finally:
        watchdog.close()


def _side_by_side(on_hub: Callable[[], None], on_chain: Coroutine[object, object, T]) -> T:
    """Both at once: kubectl keeps a thread busy, the chain answers block by block."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        hub_done = pool.submit(on_hub)
        answer = asyncio.run(on_chain)
        hub_done.result()
    return answer


def _install(lab: Lab) -> None:
    """What the operator needs before it starts: the kinds, and a namespace of its own."""
    lab.hub.apply(all_crds())
    lab.hub.create_namespace(NAMESPACE, restricted=True)
    lab.hub.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def _apply(lab: Lab, chain: Chain, scenario: Scenario) -> None:
    """Members' kubeconfigs, signers' keys, tenants, policies and providers, as their people would apply them."""
    lab.hub.apply([*_secrets(lab, scenario), *_signer_keys(chain, scenario)])
    files = [f"--filename={scenario.folder / part}" for part in ("accounts.yaml", "policies", "providers")]
    lab.hub.kubectl("apply", "--server-side", *files)


def _secrets(lab: Lab, scenario: Scenario) -> list[dict[str, object]]:
    return [
        _secret(provider.spec.connection.kubeconfig_secret_ref, lab.members[provider.metadata.name].kubeconfig_text())
        for provider in scenario.providers
    ]


def _signer_keys(chain: Chain, scenario: Scenario) -> list[dict[str, object]]:
    """The keys that owners lend their agents to sign usage and receipts with; no money is behind them."""
    keys, payouts = keys_of(chain), [provider.spec.payout for provider in scenario.providers]
    return [
        _secret(payout.signer_key_secret_ref, key_of(keys, payout.signer))
        for payout in payouts
        if payout is not None and payout.signer is not None and payout.signer_key_secret_ref is not None
    ]


def _secret(ref: SecretKeyRef, text: str) -> dict[str, object]:
    meta = {"name": ref.name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {ref.key: text}}


def _operator(lab: Lab, chain: Chain, deployment: Deployment, watchdog: Watchdog, epoch_seconds: float) -> Child:
    settler, meter = (_key_file(lab, who, chain) for who in ("settler", "meter"))
    metrics, health = free_ports(2)
    settings = {
        "NAMESPACE": NAMESPACE,
        # Nobody but the admin writes to this hub.
        "ACCEPTANCE_ENFORCED": "true",
        "LEDGER": str(lab.directory / "ledger.db"),
        "BIND_ADDRESS": "127.0.0.1",
        "METRICS_PORT": str(metrics),
        "HEALTH_PORT": str(health),
        # Short intervals: runs last seconds here, not hours.
        "RESYNC_SECONDS": "2",
        "USAGE_INTERVAL_SECONDS": "2",
        "INVENTORY_INTERVAL_SECONDS": "5",
        "CHAIN_RPC_URL": chain.rpc_url,
        "CHAIN_ID": str(chain.chain_id),
        "ESCROW_ADDRESS": deployment.escrow,
        "SETTLER_KEY_FILE": str(settler),
        "METER_KEY_FILE": str(meter),
        "EPOCH_SECONDS": str(epoch_seconds),
    }
    # `env -u` drops what the user's own shell may hold: a setting meant for another operator must not leak in.
    foreign = [f"--unset={name}" for name in os.environ if name.startswith("FEDGPU_")]
    argv: list[str | Path] = ["env", *foreign, *(f"FEDGPU_{name}={value}" for name, value in settings.items())]
    argv += [sys.executable, "-m", "fedgpu_operator", "operator"]
    log = lab.directory / "operator.log"
    return Child("operator", argv, log=log, rank=Rank.CLIENT, watchdog=watchdog, env=lab.hub.env)


def _key_file(lab: Lab, role: Literal["settler", "meter"], chain: Chain) -> Path:
    path = lab.directory / f"{role}.key"
    path.touch(mode=0o600)
    path.write_text(key_of(keys_of(chain), getattr(chain.roles, role)))
    return path


async def _deploy(chain: Chain) -> Deployment:
    owner = chain.accounts[0]
    return await deploy(chain.rpc_url, owner.private_key, chain.roles, Periods(challenge=CHALLENGE_SECONDS))


async def _on_chain(chain: Chain, deployment: Deployment, scenario: Scenario) -> None:
    """Every tenant deposits and allows an epoch to debit all of it; every owner names the key that signs receipts."""
    keys = keys_of(chain)
    payouts = [provider.spec.payout for provider in scenario.providers if provider.spec.payout is not None]
    await asyncio.gather(
        *(_fund_one(chain, deployment, tenant, keys) for tenant in scenario.tenants),
        *(_name_signer(chain, deployment, payout, keys) for payout in payouts if payout.signer is not None),
    )


async def _name_signer(chain: Chain, deployment: Deployment, payout: Payout, keys: dict[str, str]) -> None:
    async with ProviderWallet(chain.rpc_url, key_of(keys, payout.address)) as wallet:
        await _mined(chain, await wallet.set_provider(deployment.escrow, None, payout.signer))


async def _fund_one(chain: Chain, deployment: Deployment, tenant: Tenant, keys: dict[str, str]) -> None:
    token, escrow = deployment.token, deployment.escrow
    async with TenantWallet(chain.rpc_url, key_of(keys, tenant.wallet)) as wallet:
        await wallet.mint(token, tenant.deposit)
        approved = await wallet.approve(token, escrow, tenant.deposit)
        await _mined(chain, approved)
        deposited = await wallet.deposit(escrow, tenant.deposit)
        limited = await wallet.set_spend_limit(escrow, tenant.deposit)
        await _mined(chain, deposited)
        await _mined(chain, limited)


async def _mined(chain: Chain, transaction: str) -> None:
    deadline = time.monotonic() + RECEIPT_PATIENCE_S
    while time.monotonic() < deadline:
        receipt = await asyncio.to_thread(chain.rpc, "eth_getTransactionReceipt", transaction)
        if isinstance(receipt, dict):
            if receipt["status"] != "0x1":
                raise LabError(f"the chain refused {transaction}: {json.dumps(receipt)}")
            return
        await asyncio.sleep(POLL_S)
    raise LabError(f"{transaction} did not get into a block within {RECEIPT_PATIENCE_S:.0f} s")
