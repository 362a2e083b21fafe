"""Signed usage and receipts of a real operator, checked with the contract's own digest and keys of our own."""

from __future__ import annotations

import asyncio
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak
from tests.integration.operator.federation import (
    PAYOUT,
    PRICES,
    SECONDS_PER_HOUR,
    SIGNER_KEYS,
    Federation,
    Tenant,
    eventually,
    micro,
)

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import SignedUsage
from fedgpu_operator.domain.ledger import CountersignedReceipt
from fedgpu_operator.settlement.evidence import usage_root

SIGNER = str(Account.from_key(SIGNER_KEYS["alpha"]).address)
RECEIPT = "(address,address,uint64,uint40,bytes32)"


def test_a_run_becomes_a_receipt_that_the_contract_would_take(running: Federation, tenant: Tenant) -> None:
    tenant.apply(tenant.job("signed", run="3s", gpu={"count": 2}, placement={"countries": ["DE"]}))
    status = tenant.until_state("signed", "Succeeded")
    (lease,) = tenant.leases("signed")
    usage = lease["status"]["usage"]
    assert len(bytes.fromhex(usage["signature"][2:])) == 65
    eventually("usage to be signed", lambda: running.provider_says("alpha", "UsageSigned").get("status") == "True")
    assert running.provider_says("beta", "UsageSigned")["reason"] == "NoSigner"
    # The payout wallet of this federation never named its signer to the escrow: that is said, and it stops nothing.
    assert running.provider_says("alpha", "ReceiptsValid")["reason"] == "SignerNotOnChain"
    assert running.provider_says("beta", "ReceiptsValid")["reason"] == "NoSigner"

    owed = micro(PRICES["alpha"]) * status["usage"]["gpuSeconds"] // SECONDS_PER_HOUR
    kept = eventually("a receipt of it all", lambda: _receipt(running, tenant, owed))
    said = kept.receipt
    assert said.provider == PAYOUT["alpha"]
    name = lease["metadata"]["name"]
    assert said.usage_root == usage_root([(name, status["usage"]["gpuSeconds"])])
    digest = _digest(running, kept)
    assert _signed_by(digest, kept.provider_signature) == SIGNER
    assert _signed_by(digest, kept.meter_signature) == running.chain.roles.meter
    record = asyncio.run(_read(running, "last_usage", name))
    assert (record.gpu_seconds, record.signed.gpu_seconds) == (status["usage"]["gpuSeconds"],) * 2
    assert _usage_signer(running, name, record.signed) == SIGNER


def _receipt(running: Federation, tenant: Tenant, owed: int) -> CountersignedReceipt | None:
    found = asyncio.run(_read(running, "receipts", tenant=tenant.wallet))
    return next((each for each in found if each.receipt.cumulative == owed), None)


async def _read(running: Federation, method: str, *args: Any, **kwargs: Any) -> Any:
    async with await SqlLedger.open(running.environment["FEDGPU_LEDGER"], read_only=True) as ledger:
        return await getattr(ledger, method)(*args, **kwargs)


def _digest(running: Federation, kept: CountersignedReceipt) -> bytes:
    """What the contract itself says was signed."""
    said = kept.receipt
    values = (said.tenant, said.provider, said.cumulative, said.period_end, bytes.fromhex(said.usage_root[2:]))
    data = keccak(text=f"receiptDigest({RECEIPT})")[:4] + encode([RECEIPT], [values])
    call = {"to": running.deployment.escrow, "data": "0x" + data.hex()}
    return bytes.fromhex(str(running.chain.rpc("eth_call", call, "latest"))[2:])


def _usage_signer(running: Federation, lease: str, signed: SignedUsage) -> str:
    """Who signed the ledger's record, spelled out by hand for eth_account's own typed data."""
    domain = {
        "name": "fedgpu",
        "version": "1",
        "chainId": running.chain.chain_id,
        "verifyingContract": running.deployment.escrow,
    }
    names = {"lease": "string", "sequence": "uint64", "gpuSeconds": "uint64", "observedAt": "uint64"}
    fields = [{"name": name, "type": kind} for name, kind in {**names, "usageHash": "bytes32"}.items()]
    said = {
        "lease": lease,
        "sequence": signed.sequence,
        "gpuSeconds": signed.gpu_seconds,
        "observedAt": signed.observed_at,
        "usageHash": bytes.fromhex(signed.usage_hash[2:]),
    }
    message = encode_typed_data(domain, {"UsageRecord": fields}, said)
    return str(Account.recover_message(message, signature=signed.signature))


def _signed_by(digest: bytes, signature: bytes) -> str:
    parts = Signature(signature[:64] + bytes([signature[64] - 27]))
    return str(parts.recover_public_key_from_msg_hash(digest).to_checksum_address())
