"""Keys of providers and the meter, and an agent's signature under the usage that a test wrote."""

from __future__ import annotations

from typing import Any

from tests.unit.hub.chain import FakeEscrow
from tests.unit.hub.world import LEASES, TEAM, World

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import hub_domain

TENANT = LocalSigner("0x" + "a1" * 32).address
PAYOUT = LocalSigner("0x" + "b2" * 32).address
SIGNER, NEXT_SIGNER, METER = (LocalSigner("0x" + byte * 32) for byte in ("c3", "d4", "e5"))


async def funded(world: World, *, signer: LocalSigner | None = SIGNER, **job: Any) -> ComputeLease:
    """A funded tenant's job, placed at a provider whose usage that key must sign; its lease."""
    world.settlement = True
    escrow = FakeEscrow()
    escrow.fund(TENANT, 100)
    payout = {"address": PAYOUT} | ({"signer": signer.address} if signer is not None else {})
    await world.provider("berlin", "3.60", payout=payout)
    await world.account(TENANT)
    await world.factory().account_loop(escrow, world.proofs, poll=3).pass_once()
    await world.job(**job)
    await world.pass_once()
    return world.lease


async def sign(world: World, key: LocalSigner = SIGNER, *, lease: str = "", sequence: int = 0) -> None:
    """The only lease's usage under a key's signature; made for another lease or sequence where one is named."""
    shown = world.lease
    reading = shown.status.usage.to_domain()
    assert reading is not None
    domain = hub_domain(world.wallets.chain_id, world.wallets.escrow)
    data = usage_statement(domain, lease or shown.metadata.name, sequence or reading.sequence, reading)
    await put_signature(world, await key.sign_typed(data))


async def put_signature(world: World, signature: bytes) -> None:
    meta = world.lease.metadata
    status = {"usage": {"signature": "0x" + signature.hex()}}
    await world.kube.patch_status(LEASES, meta.name, meta.namespace, {"status": status})


async def billed(world: World) -> int:
    last = await world.ledger.last_usage(world.lease.metadata.name)
    return last.gpu_seconds if last is not None else 0


__all__ = ["METER", "NEXT_SIGNER", "PAYOUT", "SIGNER", "TEAM", "TENANT", "billed", "funded", "put_signature", "sign"]
