"""A provider is told whether the escrow takes its receipts, and the chain is not asked about it more than is due."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.hub.chain import FakeEscrow
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.signing import METER, NEXT_SIGNER, PAYOUT, SIGNER, TENANT
from tests.unit.hub.world import PROVIDERS, World

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.api.base import find
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.hub.services import signatures as chainsigners
from fedgpu_operator.hub.services.signatures import SignerBook
from fedgpu_operator.hub.services.wallets import RECHECK
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

OTHER_TENANT = LocalSigner("0x" + "a2" * 32).address


class Chain(FakeEscrow):
    """An escrow that counts how often it is asked who signs."""

    asked = 0

    async def signer_of(self, provider: str) -> str:
        self.asked += 1
        return await super().signer_of(provider)


@pytest.fixture
async def paid(world: World) -> World:
    await world.provider("berlin", payout={"address": PAYOUT.lower(), "signer": SIGNER.address.lower()})
    return world


@pytest.fixture
def chain(paid: World) -> Chain:
    paid.wallets = Chain()
    return paid.wallets


@pytest.fixture
def book(paid: World, chain: Chain, clock: FakeClock) -> SignerBook:
    return SignerBook(chain, paid.ledger, clock)


async def says(book: SignerBook, world: World) -> tuple[str, str, str]:
    found = (await book.findings([GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"])]))["berlin"]
    assert found.type == "ReceiptsValid"
    return found.status, found.reason, found.message


async def test_a_signer_that_only_the_hub_knows_is_told_with_the_command(paid: World, book: SignerBook) -> None:
    status, reason, message = await says(book, paid)
    assert (status, reason) == ("False", "SignerNotOnChain"), "a wallet that named nobody signs for itself"
    assert f"fedgpu provider keys --signer {SIGNER.address}" in message
    paid.wallets.signers[PAYOUT] = NEXT_SIGNER.address
    paid.clock.forward(RECHECK.total_seconds())
    status, reason, message = await says(book, paid)
    assert (status, reason) == ("False", "SignerNotOnChain")
    assert NEXT_SIGNER.address in message
    paid.wallets.signers[PAYOUT] = SIGNER.address
    paid.clock.forward(RECHECK.total_seconds())
    assert (await says(book, paid))[:2] == ("True", "SignerOnChain")


async def test_the_chain_is_asked_at_most_once_a_minute(paid: World, book: SignerBook, chain: Chain) -> None:
    for _ in range(6):
        await says(book, paid)
        paid.clock.forward(RECHECK.total_seconds() / 6)
    assert chain.asked == 1
    await says(book, paid)
    assert chain.asked == 2


async def test_a_silent_chain_is_unknown_and_is_not_asked_in_every_pass(
    paid: World, book: SignerBook, chain: Chain
) -> None:
    paid.wallets.signers[PAYOUT] = SIGNER.address
    assert (await says(book, paid))[0] == "True"
    paid.clock.forward(RECHECK.total_seconds())
    paid.wallets.silent = True
    for _ in range(3):
        assert (await says(book, paid))[:2] == ("Unknown", "ChainUnreachable")
    assert chain.asked == 2
    paid.wallets.silent = False
    paid.clock.forward(RECHECK.total_seconds())
    assert (await says(book, paid))[0] == "True"


async def test_a_chain_that_never_answers_does_not_hold_up_the_providers(
    paid: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chainsigners, "PATIENCE_SECONDS", 0.01)
    assert (await says(SignerBook(Mute(), paid.ledger, clock), paid))[:2] == ("Unknown", "ChainUnreachable")


class Mute(FakeEscrow):
    """Keeps the connection open and answers nothing."""

    async def signer_of(self, provider: str) -> str:
        await asyncio.Event().wait()
        return provider


async def receipt_of(world: World, signer: LocalSigner = SIGNER, tenant: str = TENANT) -> None:
    """A receipt that the key signed, and the meter."""
    made = Receipt(tenant, PAYOUT, MicroUSD(1_000_000), 1_767_268_800, "0x" + "11" * 32)
    data = receipt(escrow_domain(world.wallets.chain_id, world.wallets.escrow), made)
    signatures = await signer.sign_typed(data), await METER.sign_typed(data)
    await world.ledger.append_receipt(made, *signatures, world.clock.now())


async def test_a_signer_whose_account_got_code_is_named_with_the_cure_until_that_is_undone(
    paid: World, book: SignerBook, chain: Chain
) -> None:
    chain.signers[PAYOUT] = SIGNER.address
    await receipt_of(paid)
    assert (await says(book, paid))[:2] == ("True", "SignerOnChain")
    chain.deaf.add(SIGNER.address)
    paid.clock.forward(RECHECK.total_seconds())
    status, reason, message = await says(book, paid)
    assert (status, reason) == ("False", "SignerHasCode")
    assert "undo the delegation" in message
    assert "fedgpu provider keys --signer" in message
    chain.deaf.clear()
    paid.clock.forward(RECHECK.total_seconds())
    assert (await says(book, paid))[:2] == ("True", "SignerOnChain")


async def test_code_that_accepts_what_the_key_signs_is_no_fault(paid: World, book: SignerBook, chain: Chain) -> None:
    chain.signers[PAYOUT] = SIGNER.address
    chain.coded.add(SIGNER.address)
    assert (await says(book, paid))[:2] == ("Unknown", "SignerHasCode"), "no receipt shows it yet"
    await receipt_of(paid)
    paid.clock.forward(RECHECK.total_seconds())
    assert (await says(book, paid))[0] == "True"


async def test_a_receipt_of_the_key_before_is_said_to_count_no_more(
    paid: World, book: SignerBook, chain: Chain
) -> None:
    chain.signers[PAYOUT] = SIGNER.address
    await receipt_of(paid, NEXT_SIGNER)
    assert (await says(book, paid))[:2] == ("False", "SignaturesRefused")
    paid.clock.forward(RECHECK.total_seconds())
    await receipt_of(paid, SIGNER, OTHER_TENANT)
    assert (await says(book, paid))[0] == "True", "the newest one shows what the escrow does with the next"


@pytest.mark.parametrize("how", ["code", "role"])
async def test_a_meter_that_the_escrow_refuses_is_shown_at_every_provider(
    paid: World, book: SignerBook, chain: Chain, how: str
) -> None:
    chain.signers[PAYOUT] = SIGNER.address
    await receipt_of(paid)
    if how == "code":
        chain.deaf.add(METER.address)
    else:
        chain.stripped.add(("METER", METER.address))
    status, reason, message = await says(book, paid)
    assert (status, reason) == ("False", "MeterRefused")
    assert METER.address in message


@pytest.mark.parametrize("payout", [None, {"address": PAYOUT, "signer": None}])
async def test_a_provider_without_a_signer_has_no_receipts(
    paid: World, book: SignerBook, chain: Chain, payout: Any
) -> None:
    await paid.kube.patch(PROVIDERS, "berlin", "", {"spec": {"payout": payout}})
    accepted = GPUProvider.parse(paid.kube.objects[PROVIDERS.plural, "", "berlin"]).spec.acceptance_hash()
    await paid.ready("berlin", acceptance=accepted)
    assert (await says(book, paid))[:2] == ("False", "NoSigner")
    assert chain.asked == 0


async def test_it_stands_in_the_status_and_is_told_once_but_stops_no_work(paid: World, book: SignerBook) -> None:
    factory = paid.factory()
    factory.proofs, factory.signers = paid.proofs, book
    loop = factory.provider_loop()
    for _ in range(4):
        await loop.pass_once()
    status = GPUProvider.parse(paid.kube.objects[PROVIDERS.plural, "", "berlin"]).status
    found, ready = find(status.conditions, "ReceiptsValid"), find(status.conditions, "Ready")
    assert found is not None
    assert (found.status, found.reason) == ("False", "SignerNotOnChain")
    assert ready is not None
    assert ready.reason == "AwaitingReport", "it has nothing to do with whether work goes there"
    assert paid.events().count(("Warning", "SignerNotOnChain")) == 1
