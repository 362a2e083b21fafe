"""Whether a lease's usage carries the signature that its provider was accepted with; judges, and bills nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.conditions import Finding
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.books import SignedUsage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.wallets import checksummed
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import SigningDomain, recover

MOST_REMEMBERED: Final = 100_000
"""Judgements kept: one per lease that there is, and as many leases as a hub has."""

Word = Literal["Signed", "NoSigner", "NotSigned", "BadSignature", "BadReading"]


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """Whether usage may be billed as far as signatures go; `signed` is the proof where there is one."""

    word: Word
    message: str = ""
    signed: SignedUsage | None = None

    @property
    def billable(self) -> bool:
        """Signed by whom it must be, or by nobody where nobody must."""
        return self.word in ("Signed", "NoSigner")


NO_SIGNER: Final = SignatureVerdict("NoSigner")


def accepted_signer(provider: GPUProvider | None) -> str:
    """The receipt signer (EIP-55) that the provider was accepted with; empty if it named none.

    A change of the spec counts from its acceptance on: until then the one before signs, and nobody else's signature,
    or its absence, is taken.
    """
    known = provider.status.acceptance if provider is not None else None
    return checksummed(known.signer) if known is not None and known.signer else ""


class UsageVerifier:
    """Verifies usage in one signing domain; None where nothing is settled on chain, and nothing has to be signed.

    Judgements are remembered by the lease's version, so that a quiet lease is verified once.
    """

    def __init__(self, domain: SigningDomain | None) -> None:
        self._domain = domain
        self._known: dict[tuple[str, str, str], SignatureVerdict] = {}

    @property
    def required(self) -> bool:
        """Whether signatures mean anything here."""
        return self._domain is not None

    def judge(self, lease: ComputeLease, provider: GPUProvider | None) -> SignatureVerdict:
        """Of the usage that the lease shows now; a lease without a reading is signed by nobody and owes nothing."""
        signer = accepted_signer(provider)
        if self._domain is None or not signer:
            return NO_SIGNER
        meta = lease.metadata
        key = (meta.uid, meta.resource_version, signer)
        if key not in self._known:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = _judge(lease, signer, self._domain)
        return self._known[key]


def _judge(lease: ComputeLease, signer: str, domain: SigningDomain) -> SignatureVerdict:
    usage = lease.status.usage
    try:
        reading = usage.to_domain()
    except InvalidResourceError as error:
        return SignatureVerdict("BadReading", f"lease {lease.metadata.name}: {error}")
    if reading is None or not usage.signature:
        return SignatureVerdict("NotSigned", f"lease {lease.metadata.name}: its usage is not signed by {signer}")
    sequence = lease.spec.sequence_base + reading.sequence
    statement = usage_statement(domain, lease.metadata.name, sequence, reading)
    try:
        found = recover(statement.digest, usage.signature)
    except ValueError as error:
        return SignatureVerdict("BadSignature", f"lease {lease.metadata.name}: {error}")
    if found != signer:
        # An altered figure gives a signature of some random account, so its address says nothing to people.
        return SignatureVerdict("BadSignature", f"lease {lease.metadata.name}: {signer} did not sign these figures")
    message = statement.message
    return SignatureVerdict(
        "Signed",
        signed=SignedUsage(
            sequence=sequence,
            gpu_seconds=reading.gpu_seconds,
            observed_at=int(message["observedAt"]),
            usage_hash=str(message["usageHash"]),
            signer=signer,
            signature=bytes.fromhex(usage.signature.removeprefix("0x")),
        ),
    )


def usage_signed(provider: GPUProvider, leases: Iterable[ComputeLease], verifier: UsageVerifier) -> Finding | None:
    """The provider's condition UsageSigned; None where signatures mean nothing."""
    if not verifier.required:
        return None
    signer = accepted_signer(provider)
    if not signer:
        text = "set spec.payout.signer: without its signatures the provider has the hub's word for what it is owed"
        return Finding("UsageSigned", "False", "NoSigner", text)
    mine = (lease for lease in leases if lease.spec.provider == provider.metadata.name)
    for lease in sorted(mine, key=lambda lease: lease.metadata.name):
        verdict = verifier.judge(lease, provider) if lease.status.usage.gpu_seconds else NO_SIGNER
        if not verdict.billable:
            text = f"{verdict.message}; nothing more of it is billed until it is"
            return Finding("UsageSigned", "False", verdict.word, text)
    return Finding("UsageSigned", "True", "Signed", f"what is billed is signed by {signer}")
