"""A disputed line: with receipts of both sides its provider is paid all the same, without them it is billed anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.chaos.child import Settler, settler
from tests.chaos.faults import Trap
from tests.chaos.field import CHALLENGE, EPOCH_OF_TIME, Range, provider_key

from fedgpu_operator.adapters.chain import LocalSigner, TenantWallet
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, Pair, Receipt
from fedgpu_operator.settlement import claims, parse_manifest
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

pytestmark = pytest.mark.chains("anvil", "hardhat")

DISPUTED = 100_000


async def append_receipt(field: Range, life: Settler, pair: Pair, name: str) -> None:
    """The provider's and the meter's word on all that was metered for the pair."""
    keys = {account.address: account.private_key for account in field.chain.accounts}
    stated = Receipt(*pair, MicroUSD(field.bill.owed[pair]), int(EPOCH_OF_TIME.timestamp()), ZERO_HASH)
    typed = receipt(escrow_domain(field.site.chain_id, field.site.escrow), stated)
    provider, meter = LocalSigner(provider_key(name)), LocalSigner(keys[field.chain.roles.meter])
    assert provider.address == pair[1]
    signatures = await provider.sign_typed(typed), await meter.sign_typed(typed)
    assert await life.ledger.append_receipt(stated, *signatures, EPOCH_OF_TIME)


async def dispute(field: Range, life: Settler) -> None:
    """The first tenant disputes part of its line at p in the epoch that was just posted."""
    [epoch] = await life.ledger.epochs()
    tenant = field.tenants[0]
    [leaf] = [
        leaf
        for leaf in claims(parse_manifest(epoch.draft.manifest))
        if leaf.provider == LocalSigner(provider_key("p")).address
    ]
    async with TenantWallet(field.chain.rpc_url, tenant.private_key) as wallet:
        await wallet.dispute(field.site.escrow, leaf, DISPUTED)


@pytest.mark.parametrize("answered", [True, False])
async def test_what_was_earned_is_paid_once_whatever_is_disputed(shooting_range: Range, *, answered: bool) -> None:
    field = shooting_range
    field.restore()
    pair = field.tenants[0].address, str(LocalSigner(provider_key("p")).address)
    async with settler(replace(field.site, stride=CHALLENGE // 4), Trap()) as life:
        if answered:
            await append_receipt(field, life, pair, "p")
        assert await life.step()
        await dispute(field, life)
        await life.move()
        assert await life.settle(40)
        kinds = [intent.kind for intent in await life.ledger.intents()]
    found = await asyncio.to_thread(field.judge, epochs=1 if answered else 2)
    # Answered, the disputed part is claimed once more; unanswered it is refunded, and the next epoch bills it again.
    wanted = ["post", "answer", "claim", "close", "claim"] if answered else ["post", "claim", "close", "post", "claim"]
    assert kinds == wanted
    assert found.owed == found.bonded, "the bond waits for whoever won it"
