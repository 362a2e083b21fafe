"""Epochs of very many providers, on a chain that takes no transaction above 2^24 gas: everybody is paid to the unit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from tests.unit.hub.fakes import FakeClock, FakeHub, FakeKube, FakeMetrics

from fedgpu_lab.chain import Chain
from fedgpu_lab.chains import make_chain
from fedgpu_lab.process import Watchdog, end
from fedgpu_operator.adapters.chain import EscrowClient, Periods, TenantWallet, deploy
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.domain.attempts import AttemptRequest, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Deployment, Epoch, EpochStage
from fedgpu_operator.domain.transactions import ChainTx, Fees, TxState
from fedgpu_operator.errors import NotTakenError, Refusal
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement import MAX_TX_GAS, Terms, claims, parse_manifest

CHALLENGE = 3600
WHOLE = 1_250_000
"""µUSD that each provider earned."""


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A chain that enforces the gas limit of a transaction, and makes a block for each."""
    watchdog = Watchdog()
    chain = make_chain("hardhat", directory=tmp_path_factory.mktemp("crowd") / "chain", watchdog=watchdog)
    try:
        chain.start()
        chain.stop_clock()
        chain.automine(True)
        yield chain
    finally:
        end(chain.children)
        chain.close()
        watchdog.close()


@dataclass
class Office:
    """A settler with its ledger, one tenant, and as many providers as are wanted, each with one line."""

    chain: Chain
    deployment: Deployment
    escrow: EscrowClient
    ledger: SqlLedger
    clock: FakeClock
    tenant: TenantWallet
    loop: SettlementLoop = field(init=False)

    def __post_init__(self) -> None:
        hub = FakeHub(FakeKube(self.clock))
        factory = Factory(Settings.from_env({}), hub, self.ledger, clock=self.clock, metrics=FakeMetrics())
        self.loop = factory.settlement_loop(
            self.escrow,
            Terms(every=timedelta(minutes=1), at_most=timedelta(days=1)),
            fee_cap=500 * 10**9,
            poll=1,
            auto_claim=True,
            opens=lambda: True,
        )

    async def owe(self, providers: Sequence[str]) -> None:
        """One hour of one GPU at each provider, and a tenant who can pay for it."""
        units, token, escrow = 2 * len(providers) * WHOLE, self.deployment.token, self.deployment.escrow
        await self.tenant.mint(token, units)
        await self.tenant.approve(token, escrow, units)
        await self.tenant.deposit(escrow, units)
        await self.tenant.set_spend_limit(escrow, units)
        self.chain.mine(3)
        at = self.clock.now() - timedelta(hours=1)
        opened = await self.ledger.open_many([self._request(i, payee) for i, payee in enumerate(providers)], at)
        leases = [each.lease_name for each in opened if not isinstance(each, Exception)]
        assert (await self.ledger.record_many([UsageRecord(name, 1, 3600, at) for name in leases])).appended == len(
            leases
        )

    def _request(self, number: int, payee: str) -> AttemptRequest:
        job = f"job-{number}"
        wallets = self.tenant.address, payee
        return AttemptRequest(job, "a", "team", job, f"p-{number}", "H100", MicroUSD(WHOLE), 1, 7200, *wallets)

    async def epoch(self) -> Epoch:
        (found,) = await self.ledger.epochs()
        return found

    async def until(self, stage: EpochStage, passes: int = 200) -> None:
        for _ in range(passes):
            await self.loop.pass_once()
            self.chain.mine(3)
            if (await self.epoch()).stage is stage:
                return
            if (await self.epoch()).stage is EpochStage.FINALIZED:
                self.chain.jump(CHALLENGE)
                self.chain.mine(3)
        raise AssertionError(f"it is not {stage} after {passes} passes")

    async def claims(self) -> list[ChainTx]:
        return [tx for tx in await self.ledger.transactions() if tx.kind == "claim"]

    def of(self, method: str, tx: ChainTx, name: str) -> int:
        answer = cast("dict[str, str]", self.chain.rpc(method, tx.tx_hash))
        return int(answer[name], 16)

    async def pays(self, providers: Sequence[str]) -> None:
        """Every provider has what it earned, and the tenant the rest."""
        pairs = [(str(self.tenant.address), payee) for payee in providers]
        now = await self.escrow.snapshot([self.tenant.address], pairs, "latest")
        assert {now.books[pair].paid for pair in pairs} == {WHOLE}
        account = now.accounts[self.tenant.address]
        assert (account.balance, account.allocated, account.pending) == (len(providers) * WHOLE, 0, 0)


@pytest.fixture
async def office(capped: Chain, tmp_path: Path) -> AsyncIterator[Office]:
    owner, settler, tenant = capped.accounts[0], capped.accounts[1], capped.accounts[5]
    periods = Periods(CHALLENGE, CHALLENGE, CHALLENGE, CHALLENGE)
    made = await deploy(capped.rpc_url, owner.private_key, capped.roles, periods)
    capped.mine(3)
    async with AsyncExitStack() as stack:
        escrow = await stack.enter_async_context(
            EscrowClient(capped.rpc_url, made.escrow, capped.chain_id, settler.private_key, 60.0)
        )
        ledger = await stack.enter_async_context(await SqlLedger.open(tmp_path / "ledger.db"))
        wallet = await stack.enter_async_context(TenantWallet(capped.rpc_url, tenant.private_key))
        now = (await escrow.snapshot([], [], "latest")).timestamp
        yield Office(capped, made, escrow, ledger, FakeClock(datetime.fromtimestamp(now, UTC)), wallet)


@pytest.mark.parametrize(("count", "most"), [(210, 2), (1_000, 8)])
async def test_the_lines_of_a_crowd_are_paid_by_claims_that_each_fit_a_transaction(
    office: Office,
    addresses: Callable[[int], list[str]],
    record_property: Callable[[str, object], None],
    count: int,
    most: int,
) -> None:
    providers = addresses(count)
    await office.owe(providers)
    await office.until(EpochStage.PAID)
    sent = await office.claims()
    limits = [office.of("eth_getTransactionByHash", tx, "gas") for tx in sent]
    record_property("gas limits", limits)
    record_property("gas used", [office.of("eth_getTransactionReceipt", tx, "gasUsed") for tx in sent])
    assert {tx.state for tx in sent} == {TxState.FINALIZED}, "none had to be replaced"
    assert len(sent) <= most
    assert max(limits) <= MAX_TX_GAS
    assert [tx.gas for tx in sent] == limits
    await office.pays(providers)


async def test_a_claim_that_an_earlier_release_left_stuck_is_cured_at_its_nonce(
    office: Office, addresses: Callable[[int], list[str]]
) -> None:
    """All 210 lines in one call, 17.4 M gas: the node itself says what is wrong, and one smaller version counts."""
    providers = addresses(210)
    await office.owe(providers)
    await office.until(EpochStage.FINALIZED)
    office.chain.jump(CHALLENGE)
    office.chain.mine(3)
    epoch, escrow, now = await office.epoch(), office.escrow, office.clock.now()
    call = escrow.call_claim(epoch.chain_epoch or 0, claims(parse_manifest(epoch.draft.manifest)))
    nonce = (await escrow.nonces(str(escrow.address))).finalized
    intent = await office.ledger.open_intent(
        "claim:1", "claim", 1, str(escrow.address), nonce, call.to or "", bytes.fromhex(call.data[2:]), now
    )
    for fee in (10**9, 400 * 10**9):
        signed = await escrow.sign(replace(call, gas=17_400_000), nonce, Fees(fee, 10**9))
        with pytest.raises(NotTakenError) as refused:
            await escrow.broadcast(signed)
        assert refused.value.why is Refusal.TOO_LARGE
        tx = ChainTx(signed.tx_hash, "claim", 1, None, signed.sender, nonce, signed.raw, intent=intent.id, max_fee=fee)
        await office.ledger.store_tx(replace(tx, tip=10**9), now)
    await office.until(EpochStage.PAID)
    versions = await office.ledger.transactions(intent=intent.id)
    assert [tx.state for tx in versions] == [TxState.REPLACED, TxState.REPLACED, TxState.FINALIZED]
    assert (versions[-1].call, versions[-1].nonce) == (1, nonce)
    assert versions[-1].max_fee < 400 * 10**9, "a fee was not what was missing"
    await office.pays(providers)
