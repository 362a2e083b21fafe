"""Whether the escrow takes a receipt now, by its own rule (EscrowBase._verify); reads the chain and decides no more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol

from eth_typing import ChecksumAddress

from fedgpu_operator.domain.ledger import SignedReceipt
from fedgpu_operator.domain.terms import Role
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt, recover

ReceiptWord = Literal["Accepted", "MeterRefused", "SignerHasCode", "SignaturesRefused"]


class ReceiptRules(Protocol):
    """The part of ports.Escrow that is needed here."""

    @property
    def escrow(self) -> ChecksumAddress: ...

    @property
    def chain_id(self) -> int: ...

    async def signer_of(self, provider: str) -> str: ...

    async def holds_role(self, role: Role, account: str) -> bool: ...

    async def has_code(self, account: str) -> bool: ...

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class ReceiptVerdict:
    """What the escrow says of a receipt at the newest finalized block, and why.

    `signer` is the account whose signature the escrow wants for the provider. `coded` is whether an account with code
    signed: such an account may answer differently the next time, and use any amount of gas for it.
    """

    word: ReceiptWord
    signer: str
    why: str = ""
    coded: bool = False

    @property
    def accepted(self) -> bool:
        """Whether both signatures count."""
        return self.word == "Accepted"


async def judge_receipt(rules: ReceiptRules, kept: SignedReceipt) -> ReceiptVerdict:
    """Apply the escrow's rule to both signatures; raises the ChainError tree where the chain does not answer.

    A key whose account delegated its code by EIP-7702 is refused on chain although it recovers from its signature.
    """
    digest = receipt(escrow_domain(rules.chain_id, rules.escrow), kept.receipt).digest
    meter = recover(digest, kept.meter_signature)
    signer, metering, metered, meter_coded = await asyncio.gather(
        rules.signer_of(kept.receipt.provider),
        rules.holds_role("METER", meter),
        rules.accepts_signature(meter, digest, kept.meter_signature),
        rules.has_code(meter),
    )
    if not metering:
        return ReceiptVerdict("MeterRefused", signer, f"the meter {meter} does not hold the role METER")
    if not metered:
        # Recovered from this very signature, so nothing but code can be in the way.
        text = f"the account of the meter {meter} has code that does not accept what its key signs"
        return ReceiptVerdict("MeterRefused", signer, text)
    signed, coded = await asyncio.gather(
        rules.accepts_signature(signer, digest, kept.provider_signature), rules.has_code(signer)
    )
    if not signed and coded:
        text = f"the account of {signer} has code that does not accept what its key signs"
        return ReceiptVerdict("SignerHasCode", signer, text, coded=True)
    if not signed:
        return ReceiptVerdict("SignaturesRefused", signer, f"it is not signed by {signer}")
    return ReceiptVerdict("Accepted", signer, coded=coded or meter_coded)
