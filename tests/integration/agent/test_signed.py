"""Signatures over a real API server: what the agent signed is what the hub reads, to the microsecond."""

from __future__ import annotations

import time
from typing import Any

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.agent import Signing
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import ProposedReceipt, ProviderReport
from fedgpu_operator.ports import ResourceType
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import escrow_domain, hub_domain, receipt, recover

REPORTS = ResourceType.of(ProviderReport.info)
CHAIN, ESCROW = 31337, "0x" + "11" * 20
TENANT, PAYOUT = (LocalSigner("0x" + byte * 32).address for byte in ("a1", "b2"))
KEY, NEXT = LocalSigner("0x" + "c3" * 32), LocalSigner("0x" + "d4" * 32)


def signer_of(lease: ComputeLease) -> str:
    reading = lease.status.usage.to_domain()
    assert reading is not None
    data = usage_statement(hub_domain(CHAIN, ESCROW), lease.metadata.name, reading.sequence, reading)
    return recover(data.digest, lease.status.usage.signature)


async def test_usage_and_receipt_are_signed_and_signed_again_after_a_rotation(site: Any, eventually: Any) -> None:
    site.start(signing=Signing(KEY, PAYOUT, CHAIN, ESCROW), usage_interval=0.5)
    name = await site.lease(annotations={"lab.fedgpu.dev/duration": "3s"}, gpus=2, wallets=(TENANT, PAYOUT))
    running = await site.state(name, "Running", "Succeeded")
    assert signer_of(running) == KEY.address
    ended = await site.state(name, "Succeeded", "Failed")
    assert ended.status.usage.final
    assert signer_of(ended) == KEY.address

    async def reported() -> Any:
        return (await site.hub.list(REPORTS, site.namespace))[0]

    await eventually("a report", reported)
    now = int(time.time()) - 1
    fair = proposal("9.00", now)
    await propose(site, fair)
    (signed,) = await eventually("a signed receipt", lambda: signatures(site))
    data = receipt(escrow_domain(CHAIN, ESCROW), fair.to_domain())
    assert signed.digest == "0x" + data.digest.hex()
    assert recover(data.digest, signed.signature) == KEY.address
    await propose(site)

    async def taken_away() -> bool:
        return not await signatures(site)

    await eventually("no signature left of what is taken away", taken_away)

    await site.stop()
    site.start(signing=Signing(NEXT, PAYOUT, CHAIN, ESCROW))

    async def rotated() -> bool:
        return signer_of(await site.read(name)) == NEXT.address

    await eventually("the last reading under the next key", rotated)
    again = (await site.read(name)).status.usage
    assert again.model_copy(update={"signature": ""}) == ended.status.usage.model_copy(update={"signature": ""})


def proposal(cumulative: str, end: int) -> ProposedReceipt:
    root = "0x" + "00" * 32
    return ProposedReceipt(tenant=TENANT, provider=PAYOUT, cumulative=cumulative, period_end=end, usage_root=root)


async def propose(site: Any, *receipts: ProposedReceipt) -> None:
    spec = {"receipts": [each.to_wire() for each in receipts]}
    await site.hub.patch(REPORTS, site.provider, site.namespace, {"spec": spec})
    site.wake()


async def signatures(site: Any) -> Any:
    return (await site.report()).status.receipts
