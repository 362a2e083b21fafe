"""Sets the demo's stage: escrow and funded tenants, kinds and Secrets on the hub, the operator as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from fedgpu_operator.adapters.chain import TenantWallet, deploy
from fedgpu_operator.api.crd import all_crds
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import LabError
from fedgpu_operator.lab.chain import Account, Chain
from fedgpu_operator.lab.demo_scenario import Scenario, Tenant
from fedgpu_operator.lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_operator.lab.progress import Progress
from fedgpu_operator.lab.world import Lab

T = TypeVar("T")

NAMESPACE: Final = "fedgpu-system"
CHALLENGE_SECONDS: Final = 86_400
"""A day, as a real deployment would have it: the demo jumps over it, and says so."""
NOTICE_SECONDS: Final = 2 * CHALLENGE_SECONDS + 86_400
"""The least that the escrow allows."""
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
                _side_by_side(partial(_apply, lab, scenario), _fund(chain, deployment, scenario.tenants))
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


def _apply(lab: Lab, scenario: Scenario) -> None:
    """Kubeconfigs of the members, tenants, policies and providers, as their people would apply them; no jobs yet."""
    lab.hub.apply(_secrets(lab, scenario))
    files = [f"--filename={scenario.folder / part}" for part in ("accounts.yaml", "policies", "providers")]
    lab.hub.kubectl("apply", "--server-side", *files)


def _secrets(lab: Lab, scenario: Scenario) -> list[dict[str, object]]:
    manifests: list[dict[str, object]] = []
    for provider in scenario.providers:
        wanted = provider.spec.connection.kubeconfig_secret_ref
        text = lab.members[provider.metadata.name].kubeconfig_text()
        manifests.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": wanted.name, "namespace": NAMESPACE},
                "stringData": {wanted.key: text},
            }
        )
    return manifests


def _operator(lab: Lab, chain: Chain, deployment: Deployment, watchdog: Watchdog, epoch_seconds: float) -> Child:
    key_file = lab.directory / "settler.key"
    key_file.touch(mode=0o600)
    key_file.write_text(_settler(chain).private_key)
    metrics, health = free_ports(2)
    settings = {
        "NAMESPACE": NAMESPACE,
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
        "SETTLER_KEY_FILE": str(key_file),
        "EPOCH_SECONDS": str(epoch_seconds),
    }
    # `env -u` drops what the user's own shell may hold: a setting meant for another operator must not leak in.
    foreign = [f"--unset={name}" for name in os.environ if name.startswith("FEDGPU_")]
    argv: list[str | Path] = ["env", *foreign, *(f"FEDGPU_{name}={value}" for name, value in settings.items())]
    argv += [sys.executable, "-m", "fedgpu_operator", "operator"]
    log = lab.directory / "operator.log"
    return Child("operator", argv, log=log, rank=Rank.CLIENT, watchdog=watchdog, env=lab.hub.env)


def _settler(chain: Chain) -> Account:
    return chain.accounts[1]


async def _deploy(chain: Chain) -> Deployment:
    admin = chain.accounts[0]
    return await deploy(
        chain.rpc_url,
        admin.private_key,
        challenge_seconds=CHALLENGE_SECONDS,
        notice_seconds=NOTICE_SECONDS,
        settler=_settler(chain).address,
        guardian=admin.address,
    )


async def _fund(chain: Chain, deployment: Deployment, tenants: Iterable[Tenant]) -> None:
    """Every tenant mints test dollars, deposits them and allows an epoch to debit all of them."""
    keys = {account.address.lower(): account.private_key for account in chain.accounts}
    await asyncio.gather(*(_fund_one(chain, deployment, tenant, keys) for tenant in tenants))


async def _fund_one(chain: Chain, deployment: Deployment, tenant: Tenant, keys: dict[str, str]) -> None:
    key = keys.get(tenant.wallet.lower())
    if key is None:
        raise LabError(f"{tenant.namespace}: the lab's chain holds no key for wallet {tenant.wallet}")
    token, escrow = deployment.token, deployment.escrow
    async with TenantWallet(chain.rpc_url, key) as wallet:
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
