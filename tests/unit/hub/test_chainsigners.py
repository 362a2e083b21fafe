"""A provider is told whether the escrow takes its receipts, and the chain is not asked about it more than is due."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.signing import NEXT_SIGNER, PAYOUT, SIGNER
from tests.unit.hub.world import PROVIDERS, World

from fedgpu_operator.api.conditions import find
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.hub import chainsigners
from fedgpu_operator.hub.chainsigners import RECHECK, SignerBook
from fedgpu_operator.hub.providers import ProviderLoop


class Chain:
    """An escrow that names signers and counts how often it is asked."""

    def __init__(self, world: World) -> None:
        self.escrow, self.asked = world.wallets, 0

    async def signer_of(self, provider: str) -> str:
        self.asked += 1
        return await self.escrow.signer_of(provider)


@pytest.fixture
async def paid(world: World) -> World:
    await world.provider("berlin", payout={"address": PAYOUT.lower(), "signer": SIGNER.address.lower()})
    return world


@pytest.fixture
def chain(paid: World) -> Chain:
    return Chain(paid)


@pytest.fixture
def book(chain: Chain, clock: FakeClock) -> SignerBook:
    return SignerBook(chain, clock)


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
    assert (await says(SignerBook(Mute(), clock), paid))[:2] == ("Unknown", "ChainUnreachable")


class Mute:
    """Keeps the connection open and says nothing."""

    async def signer_of(self, provider: str) -> str:
        await asyncio.Event().wait()
        return provider


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
    loop = ProviderLoop(
        paid.kube,
        paid.ledger,
        paid.clock,
        proofs=paid.proofs,
        acceptance="OnCreate",
        enforced=True,
        heartbeat_timeout=30,
        refusals={},
        signers=book,
    )
    for _ in range(4):
        await loop.pass_once()
    status = GPUProvider.parse(paid.kube.objects[PROVIDERS.plural, "", "berlin"]).status
    found, ready = find(status.conditions, "ReceiptsValid"), find(status.conditions, "Ready")
    assert found is not None
    assert (found.status, found.reason) == ("False", "SignerNotOnChain")
    assert ready is not None
    assert ready.reason == "AwaitingReport", "it has nothing to do with whether work goes there"
    assert paid.events().count(("Warning", "SignerNotOnChain")) == 1
