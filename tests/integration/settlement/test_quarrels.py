"""Disputes on a real chain: accounts that delegate their code (EIP-7702) cost nobody else an answer, and many answers
go into one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain import EscrowClient, LocalSigner
from fedgpu_operator.adapters.chain.calls import MULTICALL3
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import Finding
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import DisputeState, EpochDraft, EpochPlan, EpochStage, Receipt
from fedgpu_operator.domain.transactions import Call, Fees
from fedgpu_operator.errors import ChainMismatchError, RevertedError
from fedgpu_operator.hub.services.dispute_answers import DisputeKeeper
from fedgpu_operator.hub.services.signatures import SignerBook
from fedgpu_operator.hub.services.wallets import RECHECK
from fedgpu_operator.settlement import Room, claims
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

LINE = 1_000_000
ROOM = Room(12_000_000)

CHALLENGE = 3600
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NO_CODE = "0x" + "00" * 20
"""What a delegation is undone with."""


async def room() -> Room:
    return ROOM


class Watch:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def forward(self, by: timedelta) -> None:
        self.at += by


@dataclass
class Case:
    """One epoch with a line of each provider, a receipt for each, and what the hub does about disputes."""

    world: Any
    ledger: SqlLedger
    keys: dict[str, str]
    plan: EpochPlan
    clock: Watch = field(default_factory=Watch)

    @property
    def tenant(self) -> str:
        return str(self.world.tenants[0])

    @property
    def escrow(self) -> EscrowClient:
        escrow: EscrowClient = self.world.settler
        return escrow

    def keeper(self) -> DisputeKeeper:
        return DisputeKeeper(self.ledger, self.escrow, self.clock)

    def signed_in(self, call: Call) -> set[str]:
        """The providers whose receipts a call shows."""
        return {provider for provider in self.keys if f"{provider[2:].lower()}" in call.data.lower()}

    async def delegate(self, key: str, to: str) -> None:
        """Delegate the code of a key's account to a contract, by EIP-7702; somebody else pays for it."""
        owner, payer = Account.from_key(key), Account.from_key(self.world.accounts[-1].private_key)
        nonces = [
            int(str(self.world.chain.rpc("eth_getTransactionCount", each.address, "latest")), 16)
            for each in (owner, payer)
        ]
        authorization = owner.sign_authorization(
            {"chainId": self.world.chain.chain_id, "address": to_checksum_address(to), "nonce": nonces[0]}
        )
        signed = payer.sign_transaction(
            {
                "type": 4,
                "chainId": self.world.chain.chain_id,
                "nonce": nonces[1],
                "to": payer.address,
                "value": 0,
                "gas": 200_000,
                "maxFeePerGas": 100 * 10**9,
                "maxPriorityFeePerGas": 10**9,
                "data": "0x",
                "authorizationList": [authorization],
            }
        )
        self.world.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())

    def final(self) -> None:
        self.world.chain.mine(3)

    async def send(self, call: Call) -> None:
        await self.world.mined(self.escrow.send(call))
        self.final()

    async def dispute(self) -> DisputeState:
        (found,) = await self.escrow.disputes()
        return found


@pytest.fixture
async def case(world: Any, tmp_path: Path) -> AsyncIterator[Case]:
    # Of this escrow alone: the chain, with what its accounts delegated, serves other tests too.
    made_keys = (f"{world.deployment.escrow[:34]}{number:032x}" for number in range(1, 4))
    keys = {str(LocalSigner(key).address): key for key in made_keys}
    tenant = world.tenants[0]
    await world.fund(0, 10_000_000, 10_000_000)
    plan = await world.plan({(tenant, provider): LINE for provider in keys}, {tenant: 3 * LINE})
    await world.mined(world.settler.send(world.settler.call_post(plan)))
    meter = LocalSigner(world.chain.accounts[-1].private_key)
    async with await SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        draft = EpochDraft(
            plan.seq, plan.prev_root, plan.root, plan.manifest, plan.manifest_hash, NOW, plan.total, (), ()
        )
        number = (await ledger.store_epoch(draft, NOW)).number
        await ledger.mark_epoch(number, EpochStage.POSTED)
        await ledger.mark_epoch(number, EpochStage.FINALIZED, chain_epoch=1)
        for provider, key in keys.items():
            made = Receipt(tenant, provider, MicroUSD(LINE), int(NOW.timestamp()), "0x" + "11" * 32)
            typed = receipt(escrow_domain(world.chain.chain_id, world.deployment.escrow), made)
            assert await ledger.append_receipt(
                made, await LocalSigner(key).sign_typed(typed), await meter.sign_typed(typed), NOW
            )
        yield Case(world, ledger, keys, plan)


async def disputes_everything(case: Case) -> None:
    wallet, world = await case.world.wallet(0), case.world
    await world.mined(wallet.mint(world.deployment.token, 10_000_000))
    await world.mined(wallet.approve(world.deployment.token, world.deployment.escrow, 10_000_000))
    await world.mined(wallet.dispute_debit(world.deployment.escrow, 3 * LINE))
    case.final()


async def condition(case: Case, book: SignerBook, provider: str) -> Finding:
    """ReceiptsValid of a provider that signs with the key of its own payout wallet."""
    shown = GPUProvider.model_validate(
        {
            "metadata": {"name": "it"},
            "spec": {
                "location": {"country": "DE", "region": "eu-central"},
                "offers": [{"product": "NVIDIA-H100-80GB-HBM3", "pricePerGPUHour": "1.00"}],
                "connection": {"kubeconfigSecretRef": {"name": "it"}},
            },
            "status": {"acceptance": {"payout": provider, "signer": provider, "hash": "", "acceptedAt": NOW}},
        }
    )
    return (await book.findings([shown]))["it"]


async def test_one_signer_that_delegated_is_left_out_named_and_answered_when_it_undid_that(case: Case) -> None:
    await disputes_everything(case)
    culprit, honest = list(case.keys)[1], [each for i, each in enumerate(case.keys) if i != 1]
    key = case.keys[culprit]
    book = SignerBook(case.escrow, case.ledger, case.clock)
    assert (await condition(case, book, culprit)).status == "True"
    await case.delegate(key, case.world.deployment.escrow)
    case.final()

    keeper = case.keeper()
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert case.signed_in(urgent.call) == set(honest)
    await case.send(urgent.call)
    assert (await case.dispute()).shown == 2 * LINE
    assert await keeper.errands(room) == (None, None)
    case.clock.forward(RECHECK)
    said = await condition(case, book, culprit)
    assert (said.status, said.reason) == ("False", "SignerHasCode")
    assert (await condition(case, book, honest[0])).status == "True"

    await case.delegate(key, NO_CODE)
    case.final()
    case.clock.forward(RECHECK)
    assert (await condition(case, book, culprit)).status == "True"
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    await case.send(urgent.call)
    assert (await case.dispute()).shown == 3 * LINE


async def test_a_delegation_that_is_not_final_yet_is_found_in_the_simulated_answer(case: Case) -> None:
    await disputes_everything(case)
    culprit = list(case.keys)[2]
    await case.delegate(case.keys[culprit], case.world.deployment.escrow)
    assert not await case.escrow.has_code(culprit), "not final"
    keeper = case.keeper()
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert case.signed_in(urgent.call) == set(case.keys) - {culprit}


async def test_accounts_are_judged_as_the_contract_judges_them(case: Case) -> None:
    """Without code by the key, with code by ERC-1271 alone, by the contract's own rule word for word."""
    owner, key = next(iter(case.keys.items()))
    digest = b"\x07" * 32
    signature = bytes(Account.from_key(key).unsafe_sign_hash(digest).signature)
    # PUSH4 magic, shifted into the first four bytes of one word; the second answers with rubbish behind them.
    yes, dirty = "631626ba7e60e01b60005260206000f3", "631626ba7e60e01b60011760005260206000f3"
    places = {code: to_checksum_address("0x" + mark * 20) for code, mark in ((yes, "c0"), (dirty, "c1"))}
    for code, place in places.items():
        case.world.chain.rpc("anvil_setCode", place, "0x" + code)
    case.final()
    assert await case.escrow.accepts_signature(owner, digest, signature)
    assert not await case.escrow.accepts_signature(owner, digest, signature[:64] + b"\x00")
    for target, accepted in ((places[yes], True), (places[dirty], False), (case.world.deployment.escrow, False)):
        await case.delegate(key, target)
        case.final()
        assert await case.escrow.has_code(owner)
        assert await case.escrow.accepts_signature(owner, digest, signature) is accepted
    await case.delegate(key, NO_CODE)
    case.final()
    assert not await case.escrow.has_code(owner)
    assert await case.escrow.accepts_signature(owner, digest, signature)


# ---------------------------------------------------------------- bundles


async def disputes_each_line(case: Case) -> None:
    wallet, world = await case.world.wallet(0), case.world
    await world.mined(wallet.mint(world.deployment.token, 10_000_000))
    await world.mined(wallet.approve(world.deployment.token, world.deployment.escrow, 10_000_000))
    for leaf in claims(case.plan):
        await world.mined(wallet.dispute(world.deployment.escrow, leaf, LINE))
    case.final()


async def bundler(case: Case, batch: str | None) -> EscrowClient:
    """The settler's client with that batch contract named, or with none."""
    world = case.world
    key = world.chain.accounts[1].private_key
    made = EscrowClient(world.chain.rpc_url, world.deployment.escrow, world.chain.chain_id, key, batch=batch)
    client: EscrowClient = await world.stack.enter_async_context(made)
    return client


async def test_answers_and_closings_go_in_one_transaction_each_and_one_that_fails_voids_no_other(case: Case) -> None:
    await disputes_each_line(case)
    client = await bundler(case, case.world.deployment.batch)
    await client.verify()
    keeper = DisputeKeeper(case.ledger, client, case.clock)
    urgent, _ = await keeper.errands(room)
    assert urgent is not None
    assert (urgent.kind, case.signed_in(urgent.call)) == ("answer", set(case.keys))
    # A signer delegates between simulation and block.
    first, culprit, _ = case.keys
    gas, view = await client.simulate(urgent.call), await client.suggest_fees()
    nonce = (await client.nonces(str(client.address))).pending
    fees = Fees(2 * view.base_fee + view.tip, view.tip)
    signed = await client.sign(replace(urgent.call, gas=gas), nonce, fees)
    await case.delegate(case.keys[culprit], case.world.deployment.escrow)
    await case.world.mined(client.broadcast(signed))
    case.final()
    assert {each.provider: each.shown for each in await client.disputes()} == {
        provider: 0 if provider == culprit else LINE for provider in case.keys
    }
    case.world.chain.jump(2 * CHALLENGE)
    case.final()
    _, waiting = await DisputeKeeper(case.ledger, client, case.clock).errands(room)
    assert waiting is not None
    assert waiting.key.startswith("close:bundle:")
    await case.world.mined(case.world.keeper.send(case.world.keeper.call_close(1, case.tenant, first)))
    await case.send(waiting.call)
    assert await client.disputes() == ()


async def test_the_gas_of_a_bundle_is_what_all_of_it_needs(case: Case) -> None:
    """The node's own estimate would be for a bundle in which calls run out of gas and nothing shows it."""
    await disputes_each_line(case)
    client = await bundler(case, case.world.deployment.batch)
    moot = client.call_close(1, case.tenant, NO_CODE)
    urgent, _ = await DisputeKeeper(case.ledger, client, case.clock).errands(room)
    assert urgent is not None
    gas = await client.simulate(urgent.call)
    alone = int(
        str(
            case.world.chain.rpc(
                "eth_estimateGas", {"from": client.address, "to": urgent.call.to, "data": urgent.call.data}
            )
        ),
        16,
    )
    assert gas > 3 * 40_000
    assert gas > alone
    batch = await client.batch()
    assert batch is not None
    with pytest.raises(RevertedError, match="each of the 1 bundled calls would fail"):
        await client.simulate(client.call_bundle(batch, [moot]))


async def test_multicall3_serves_where_the_chain_has_it_and_nothing_is_bundled_where_it_has_none(case: Case) -> None:
    await disputes_each_line(case)
    client = await bundler(case, None)
    assert await client.batch() is None
    urgent, _ = await DisputeKeeper(case.ledger, client, case.clock).errands(room)
    assert urgent is not None
    assert len(case.signed_in(urgent.call)) == 1
    before = case.world.chain.rpc("evm_snapshot")
    code = case.world.chain.rpc("eth_getCode", case.world.deployment.batch, "latest")
    case.world.chain.rpc("anvil_setCode", MULTICALL3, code)
    case.final()
    urgent, _ = await DisputeKeeper(case.ledger, client, case.clock).errands(room)
    assert urgent is not None
    assert (urgent.call.to, case.signed_in(urgent.call)) == (MULTICALL3, set(case.keys))
    # An address that holds something else is not taken for one.
    case.world.chain.rpc("anvil_setCode", MULTICALL3, "0x60006000fd")
    assert await (await bundler(case, None)).batch() is None
    with pytest.raises(ChainMismatchError, match="holds no batch contract"):
        await (await bundler(case, case.tenant)).verify()
    case.world.chain.rpc("evm_revert", before)
