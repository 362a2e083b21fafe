"""Whether usage and receipts carry the signature that counts: as accepted on the hub, and by the escrow's rule."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from eth_typing import ChecksumAddress

from fedgpu_operator.api.base import Finding
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import SignedUsage
from fedgpu_operator.domain.ledger import CountersignedReceipt
from fedgpu_operator.domain.terms import Role
from fedgpu_operator.errors import ChainError, InvalidResourceError
from fedgpu_operator.hub.services.wallets import ASKED_AT_ONCE, RECHECK
from fedgpu_operator.hub.views.accounts import checksummed
from fedgpu_operator.ports import Clock, ReceiptBook
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import SigningDomain, escrow_domain, receipt, recover

log = logging.getLogger(__name__)


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

    word: ConditionReason
    signer: str
    why: str = ""
    coded: bool = False

    @property
    def accepted(self) -> bool:
        """Whether both signatures count."""
        return self.word == ConditionReason.ACCEPTED


async def judge_receipt(rules: ReceiptRules, kept: CountersignedReceipt) -> ReceiptVerdict:
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
        return ReceiptVerdict(ConditionReason.METER_REFUSED, signer, f"the meter {meter} does not hold the role METER")
    if not metered:
        # Recovered from this very signature, so nothing but code can be in the way.
        text = f"the account of the meter {meter} has code that does not accept what its key signs"
        return ReceiptVerdict(ConditionReason.METER_REFUSED, signer, text)
    signed, coded = await asyncio.gather(
        rules.accepts_signature(signer, digest, kept.provider_signature), rules.has_code(signer)
    )
    if not signed and coded:
        text = f"the account of {signer} has code that does not accept what its key signs"
        return ReceiptVerdict(ConditionReason.SIGNER_HAS_CODE, signer, text, coded=True)
    if not signed:
        return ReceiptVerdict(ConditionReason.SIGNATURES_REFUSED, signer, f"it is not signed by {signer}")
    return ReceiptVerdict(ConditionReason.ACCEPTED, signer, coded=coded or meter_coded)


MOST_REMEMBERED: Final = 20_000
"""Leases of which the newest judgement is kept at least, those judged last; of twice as many at most."""


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """Whether usage may be billed as far as signatures go; `signed` is the proof where there is one."""

    word: ConditionReason
    message: str = ""
    signed: SignedUsage | None = None

    @property
    def billable(self) -> bool:
        """Signed by whom it must be, or by nobody where nobody must."""
        return self.word in (ConditionReason.SIGNED, ConditionReason.NO_SIGNER)


NO_SIGNER: Final = SignatureVerdict(ConditionReason.NO_SIGNER)


def accepted_signer(provider: GPUProvider | None) -> str:
    """The receipt signer (EIP-55) that the provider was accepted with; empty if it named none.

    A change of the spec counts from its acceptance on: until then the one before signs, and nobody else's signature,
    or its absence, is taken.
    """
    known = provider.status.acceptance if provider is not None else None
    return checksummed(known.signer) if known is not None and known.signer else ""


class _Judged(NamedTuple):
    version: str
    signer: str
    verdict: SignatureVerdict


class UsageVerifier:
    """Verifies usage in one signing domain; None where nothing is settled on chain, and nothing has to be signed.

    The newest judgement of each lease is remembered, so that a quiet lease is verified once.
    """

    def __init__(self, domain: SigningDomain | None) -> None:
        self._domain = domain
        self._recent: dict[str, _Judged] = {}
        self._older: dict[str, _Judged] = {}

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
        known = self._recent.get(meta.uid) or self._older.pop(meta.uid, None)
        if known is None or (known.version, known.signer) != (meta.resource_version, signer):
            known = _Judged(meta.resource_version, signer, _judge(lease, signer, self._domain))
        if meta.uid not in self._recent and len(self._recent) >= MOST_REMEMBERED:
            self._older, self._recent = self._recent, {}
        self._recent[meta.uid] = known
        return known.verdict


def _judge(lease: ComputeLease, signer: str, domain: SigningDomain) -> SignatureVerdict:
    usage = lease.status.usage
    try:
        reading = usage.to_domain()
    except InvalidResourceError as error:
        return SignatureVerdict(ConditionReason.BAD_READING, f"lease {lease.metadata.name}: {error}")
    if reading is None or not usage.signature:
        return SignatureVerdict(
            ConditionReason.NOT_SIGNED, f"lease {lease.metadata.name}: its usage is not signed by {signer}"
        )
    sequence = lease.spec.sequence_base + reading.sequence
    statement = usage_statement(domain, lease.metadata.name, sequence, reading)
    try:
        found = recover(statement.digest, usage.signature)
    except ValueError as error:
        return SignatureVerdict(ConditionReason.BAD_SIGNATURE, f"lease {lease.metadata.name}: {error}")
    if found != signer:
        # An altered figure gives a signature of some random account, so its address says nothing to people.
        return SignatureVerdict(
            ConditionReason.BAD_SIGNATURE, f"lease {lease.metadata.name}: {signer} did not sign these figures"
        )
    message = statement.message
    return SignatureVerdict(
        ConditionReason.SIGNED,
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
        return Finding("UsageSigned", "False", ConditionReason.NO_SIGNER, text)
    mine = (lease for lease in leases if lease.spec.provider == provider.metadata.name)
    for lease in sorted(mine, key=lambda lease: lease.metadata.name):
        verdict = verifier.judge(lease, provider) if lease.status.usage.gpu_seconds else NO_SIGNER
        if not verdict.billable:
            text = f"{verdict.message}; nothing more of it is billed until it is"
            return Finding("UsageSigned", "False", verdict.word, text)
    return Finding("UsageSigned", "True", ConditionReason.SIGNED, f"what is billed is signed by {signer}")


RECEIPTS_VALID: Final = "ReceiptsValid"
WARNED: Final = frozenset(
    {
        ConditionReason.SIGNER_NOT_ON_CHAIN,
        ConditionReason.SIGNER_HAS_CODE,
        ConditionReason.SIGNATURES_REFUSED,
        ConditionReason.METER_REFUSED,
    }
)
"""Reasons that are shown as a Warning too: receipts that were signed count nowhere."""
PATIENCE_SECONDS: Final = 5.0
"""How long a pass over providers waits for the chain at most: their heartbeats are judged in it as well."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the escrow said and when it was asked; `signer` is None if it was silent.

    `coded` is whether the signer's account has code, `newest` its verdict on the newest receipt of the wallet; None
    while there is no receipt.
    """

    asked: datetime
    signer: str | None = None
    coded: bool = False
    newest: ReceiptVerdict | None = None


class SignerBook:
    """The condition ReceiptsValid of every provider. It stops no work: a receipt that counts nowhere is the
    provider's own risk, but one that it must know of.
    """

    def __init__(self, rules: ReceiptRules, ledger: ReceiptBook, clock: Clock) -> None:
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._answers: dict[str, _Answer] = {}

    async def findings(self, providers: Iterable[GPUProvider]) -> dict[str, Finding]:
        """By name of the provider."""
        asked = {provider.metadata.name: _named(provider) for provider in providers}
        await self._refresh({wallet for wallet, signer in asked.values() if signer})
        return {name: self._finding(wallet, signer) for name, (wallet, signer) in asked.items()}

    async def _refresh(self, wallets: set[str]) -> None:
        """Ask of every wallet whose answer is old, and forget those that no provider names any more."""
        now = self._clock.now()
        self._answers = {wallet: known for wallet, known in self._answers.items() if wallet in wallets}
        known = self._answers
        due = [each for each in wallets if each not in known or now - known[each].asked >= RECHECK]
        if not due:
            return
        # Those that got no answer the last time come first, so that the end of the patience is not always theirs.
        due.sort(key=lambda each: (each in known and known[each].signer is not None, each))
        # Silent until it says otherwise; what a chain said a minute ago may have changed.
        self._answers |= {wallet: _Answer(now) for wallet in due}
        newest = _newest(await self._ledger.receipts())
        turns = asyncio.Semaphore(ASKED_AT_ONCE)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                for wallet in due:
                    group.create_task(self._ask(wallet, newest.get(wallet), now, turns))
        except TimeoutError:
            log.warning("the escrow does not say in time which keys sign receipts; asking again in a minute")

    async def _ask(
        self, wallet: str, newest: CountersignedReceipt | None, now: datetime, turns: asyncio.Semaphore
    ) -> None:
        async with turns:
            try:
                signer = checksummed(await self._rules.signer_of(wallet))
                verdict = await judge_receipt(self._rules, newest) if newest is not None else None
                coded = verdict.coded if verdict is not None else await self._rules.has_code(signer)
            except ChainError as error:
                log.debug("the escrow does not answer about the receipts of %s: %s", wallet, error)
            else:
                self._answers[wallet] = _Answer(now, signer, coded, verdict)

    def _finding(self, wallet: str, signer: str) -> Finding:
        if not signer:
            text = "set spec.payout.signer: without receipts the provider can neither answer a dispute nor leave alone"
            return Finding(RECEIPTS_VALID, "False", ConditionReason.NO_SIGNER, text)
        answer = self._answers[wallet]
        known = answer.signer
        if known is None:
            text = f"the chain does not say whose key signs the receipts of {wallet}"
            return Finding(RECEIPTS_VALID, "Unknown", ConditionReason.CHAIN_UNREACHABLE, text)
        if known != signer:
            text = (
                f"{signer} signs the receipts, but the escrow takes only those that {known} signs for {wallet}: they "
                f"answer no dispute and open no exit; with the key of {wallet} run: fedgpu provider keys --signer "
                f"{signer} (and --payee, where another account is paid)"
            )
            return Finding(RECEIPTS_VALID, "False", ConditionReason.SIGNER_NOT_ON_CHAIN, text)
        if answer.newest is not None and not answer.newest.accepted:
            return Finding(RECEIPTS_VALID, "False", answer.newest.word, _refused(wallet, signer, answer.newest))
        if answer.newest is None and answer.coded:
            text = f"the account of {signer} has code: its first receipt will show whether that code accepts it"
            return Finding(RECEIPTS_VALID, "Unknown", ConditionReason.SIGNER_HAS_CODE, text)
        return Finding(
            RECEIPTS_VALID,
            "True",
            ConditionReason.SIGNER_ON_CHAIN,
            f"the escrow takes receipts of {wallet} by {signer}",
        )


def _newest(receipts: Iterable[CountersignedReceipt]) -> dict[str, CountersignedReceipt]:
    """By payout wallet, the receipt that the hub took last."""
    found: dict[str, CountersignedReceipt] = {}
    for kept in receipts:
        wallet = checksummed(kept.receipt.provider)
        if wallet not in found or kept.at >= found[wallet].at:
            found[wallet] = kept
    return found


def _refused(wallet: str, signer: str, verdict: ReceiptVerdict) -> str:
    """Why the escrow refuses the newest receipt, and what to do about it."""
    effect = f"the escrow refuses the receipts of {wallet}, which answer no dispute and open no exit"
    if verdict.word == ConditionReason.METER_REFUSED:
        return f"{effect}: {verdict.why}; the operator of this hub has to mend that, the provider cannot"
    if verdict.word == ConditionReason.SIGNER_HAS_CODE:
        cure = (
            "undo the delegation (EIP-7702: authorize the zero address), or name another key in spec.payout.signer and "
            f"with the key of {wallet} run: fedgpu provider keys --signer ADDRESS"
        )
        return f"{effect}: {verdict.why}; {cure}"
    return (
        f"the escrow refuses the newest receipt of {wallet}, since {signer} did not sign it: a receipt of an earlier "
        f"key counts only while the escrow names that key; the next one that {signer} signs will count"
    )


def _named(provider: GPUProvider) -> tuple[str, str]:
    """(payout wallet, receipt signer) as they were accepted, both EIP-55; the signer is empty if either is missing."""
    known = provider.status.acceptance
    if known is None or not known.payout:
        return "", ""
    return checksummed(known.payout), accepted_signer(provider)
