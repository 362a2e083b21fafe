"""Epochs of very many providers: every claim fits a transaction, and everybody is paid to the unit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.hub.fakes import FakeClock, FakeKube, FakeMetrics

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.books import AttemptRequest, ChainTx, EpochStage, TxState, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.settlement import SettlementLoop
from fedgpu_operator.settlement import MAX_TX_GAS, Terms

WHOLE = 1_250_000
"""µUSD that each provider earned."""


async def work(ledger: SqlLedger, tenant: str, providers: list[str], at: datetime) -> None:
    """One hour of one GPU at each provider."""
    opened = await ledger.open_many(
        [
            AttemptRequest(
                f"job-{i}", "a", "team", f"job-{i}", f"p-{i}", "H100", MicroUSD(WHOLE), 1, 7200, tenant, payee
            )
            for i, payee in enumerate(providers)
        ],
        at,
    )
    leases = [each.lease_name for each in opened if not isinstance(each, Exception)]
    assert (await ledger.record_many(UsageRecord(name, 1, 3600, at) for name in leases)).appended == len(providers)


def gas_limit(chain: Any, tx: ChainTx) -> int:
    sent = chain.rpc("eth_getTransactionByHash", tx.tx_hash)
    return int(sent["gas"], 16)


def gas_used(chain: Any, tx: ChainTx) -> int:
    return int(chain.rpc("eth_getTransactionReceipt", tx.tx_hash)["gasUsed"], 16)


@pytest.mark.parametrize(("count", "most"), [(210, 2), (1_000, 8)])
async def test_the_lines_of_a_crowd_of_providers_are_paid_in_claims_that_fit(
    world: Any,
    addresses: Callable[[int], list[str]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    count: int,
    most: int,
) -> None:
    await world.fund(0, 2 * count * WHOLE, 2 * count * WHOLE)
    chain, providers, tenant = world.chain, addresses(count), world.tenants[0]
    began = datetime.fromtimestamp((await world.settler.snapshot([], [], "latest")).timestamp, UTC)
    clock = FakeClock(began)
    async with await SqlLedger.open(tmp_path / "ledger.db") as ledger:
        await work(ledger, tenant, providers, began - timedelta(hours=1))
        loop = SettlementLoop(
            FakeKube(clock),
            ledger,
            world.settler,
            clock,
            FakeMetrics(),
            namespace="fedgpu-system",
            terms=Terms(every=timedelta(minutes=1), at_most=timedelta(days=1)),
            fee_cap=500 * 10**9,
            poll=1,
            auto_claim=True,
        )
        for _ in range(4 * most + 12):
            await loop.pass_once()
            chain.mine(3)
            (epoch,) = await ledger.epochs()
            if epoch.stage is EpochStage.PAID:
                break
            if epoch.stage is EpochStage.FINALIZED and not (await world.settler.snapshot([], [])).active_epoch:
                chain.jump(3_600)
                chain.mine(3)
        (epoch,) = await ledger.epochs()
        assert epoch.stage is EpochStage.PAID
        claims = [tx for tx in await ledger.transactions() if tx.kind == "claim"]
        assert {tx.state for tx in claims} == {TxState.FINALIZED}, "none had to be replaced"
        assert len(claims) <= most
        limits = [gas_limit(chain, tx) for tx in claims]
        assert max(limits) <= MAX_TX_GAS
        block_gas = int(chain.rpc("eth_getBlockByNumber", "latest", False)["gasLimit"], 16)
        assert max(limits) <= block_gas // 2
        record_property("limits", limits)
        record_property("used", [gas_used(chain, tx) for tx in claims])
    pairs = [(tenant, payee) for payee in providers]
    books = (await world.settler.snapshot([tenant], pairs)).books
    assert {books[pair].paid for pair in pairs} == {WHOLE}
    assert {world.balance(payee) for payee in providers[:: max(1, count // 20)]} == {WHOLE}
