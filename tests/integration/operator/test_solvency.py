"""Money that leaves while a job runs: a warning, a checkpoint, the stop, the bill, and again when it is paid in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import pytest
from eth_account import Account
from tests.integration.operator.conftest import clear
from tests.integration.operator.federation import (
    PRICES,
    SECONDS_PER_HOUR,
    Federation,
    Json,
    Tenant,
    eventually,
    micro,
)

from fedgpu_lab.audit import audit
from fedgpu_operator.adapters.chain import TenantWallet

USD: Final = 200
NOTICE: Final = 5 * 86_400
"""Longer than that of the federation's escrow."""
CHECKPOINT: Final = "fedgpu.dev/checkpoint-requested"
POD: Final = {
    "terminationGracePeriodSeconds": 5,
    "containers": [
        {"name": "main", "image": "example.com/work:1", "volumeMounts": [{"name": "asked", "mountPath": "/asked"}]}
    ],
    "volumes": [
        {
            "name": "asked",
            "downwardAPI": {
                "items": [{"path": "at", "fieldRef": {"fieldPath": f"metadata.annotations['{CHECKPOINT}']"}}]
            },
        }
    ],
}
TEMPLATE: Final = {"metadata": {"annotations": {"lab.fedgpu.dev/stop-delay": "2s"}}, "spec": POD}


class Purse:
    """What a tenant does with its escrow, by its own key."""

    def __init__(self, federation: Federation, tenant: Tenant) -> None:
        self._key = "0x" + Account.create().key.hex().removeprefix("0x")
        self._federation, self._tenant = federation, tenant
        federation.fund(tenant, USD, self._key)

    @property
    def left(self) -> float:
        """Seconds for which running work may still count on what was announced, by the account's own status."""
        until = datetime.fromisoformat(self._tenant.account()["pendingWithdrawal"]["until"])
        return (until - datetime.now(UTC)).total_seconds()

    def announce(self, usd: int) -> None:
        """A withdrawal of that much, final on chain and seen by the operator."""
        self._send(lambda wallet, escrow: wallet.request_withdraw(escrow, usd * 10**6))
        eventually("the announcement on the account", lambda: self._tenant.account().get("pendingWithdrawal"))

    def wait_until_left(self, seconds: int) -> None:
        """The chain's clock jumps to so long before what was announced stops to count."""
        self._federation.chain.jump(int(self.left - seconds))
        self._federation.chain.mine(3)
        eventually("the operator to see it", lambda: self.left < seconds + 5)

    def take(self) -> None:
        """Withdraw what was announced, as soon as the notice is over."""
        self._federation.chain.jump(NOTICE)
        self._send(lambda wallet, escrow: wallet.withdraw(escrow))

    def pay_in(self, usd: int) -> None:
        token = self._federation.deployment.token
        self._send(lambda wallet, _: wallet.mint(token, usd * 10**6))
        self._send(lambda wallet, escrow: wallet.approve(token, escrow, usd * 10**6))
        self._send(lambda wallet, escrow: wallet.deposit(escrow, usd * 10**6))

    def _send(self, call: Callable[[TenantWallet, str], Awaitable[str]]) -> None:
        async def send() -> None:
            async with TenantWallet(self._federation.chain.rpc_url, self._key) as wallet:
                await call(wallet, self._federation.deployment.escrow)

        asyncio.run(send())
        self._federation.chain.mine(3)


@pytest.fixture
def tenant(running: Federation) -> Iterator[Tenant]:
    """A namespace whose wallet's key the test holds."""
    made = running.tenant()
    yield made
    clear(made)


def notes(objects: list[Json]) -> set[str]:
    return {str(obj["metadata"].get("annotations", {}).get(CHECKPOINT, "")) for obj in objects}


def funded(tenant: Tenant) -> str:
    return next((f"{one['status']} {one['reason']}" for one in tenant.account().get("conditions", [])), "")


def test_a_withdrawal_while_a_job_runs_stops_it_in_time_and_a_deposit_brings_it_back(
    running: Federation, tenant: Tenant
) -> None:
    purse = Purse(running, tenant)
    tenant.apply(tenant.job("work", run="", runLimitSeconds=360000, template=TEMPLATE, placement={"countries": ["DE"]}))
    tenant.until_state("work", "Running")
    eventually("what runs on the account", lambda: tenant.account().get("burnPerHour") == PRICES["alpha"])
    assert "fundedUntil" not in tenant.account(), "it is reserved to its end"
    purse.announce(USD)
    assert tenant.account()["available"] == "0.00"
    tenant.apply(tenant.job("late"))
    tenant.until("late", "Placed", "False", "Unfunded")
    tenant.delete("late")

    purse.wait_until_left(86_400 - 60)
    eventually("the warning", lambda: funded(tenant) == "True FundingLow")
    assert "FundingLow" in tenant.events("default")
    assert notes(tenant.pods("alpha")) == {""}

    purse.wait_until_left(600)
    stamp = eventually("the request", lambda: tenant.leases("work")[0]["spec"].get("checkpointRequestedAt"))
    eventually("the request on its pods", lambda: notes(tenant.pods("alpha")) == {stamp})
    eventually("the request on its Job", lambda: notes(tenant.workloads("alpha")) == {stamp})
    assert tenant.status("work")["state"] == "Running", "asked, not stopped"
    assert "CheckpointRequested" in tenant.events("work")

    purse.wait_until_left(10)
    status = tenant.until_state("work", "Suspended")
    assert tenant.condition("work", "Placed")["reason"] == "Unfunded"
    (lease,) = tenant.leases("work")
    assert (lease["spec"]["stopReason"], lease["status"]["state"]) == ("Unfunded", "Stopped")
    assert tenant.workloads("alpha") == []
    first = status["usage"]["gpuSeconds"]
    assert first > 0

    eventually("all of it to be debited", lambda: _debited(running, tenant))
    purse.take()
    eventually("the money to be gone", lambda: "pendingWithdrawal" not in tenant.account())
    assert tenant.status("work")["state"] == "Suspended"
    purse.pay_in(USD)
    status = tenant.until_state("work", "Running")
    assert status["placement"]["attempt"] == 2
    tenant.patch("work", suspend=True)
    tenant.until_state("work", "Suspended")
    running.until_settled([(tenant, "work")])
    seconds = tenant.status("work")["usage"]["gpuSeconds"]
    assert seconds > first
    owed, before = (micro(PRICES["alpha"]) * used // SECONDS_PER_HOUR for used in (seconds, first))
    assert running.paid(tenant.wallet, "alpha") == owed
    found = audit(running.chain.rpc_url, running.deployment.token, running.deployment.escrow)
    assert found.conserved, found.problems
    assert found.accounts[tenant.wallet.lower()].balance == USD * 10**6 - (owed - before)


def _debited(running: Federation, tenant: Tenant) -> bool:
    running.jump_over_windows()
    account = tenant.account()
    return micro(account["accrued"]) == 0 and micro(account["committed"]) == 0
