"""What the hub does about disputes on chain: shows the receipts that answer them, closes those whose time has come.

Both are open to anybody; a hub that keeps receipts of both sides has no reason to wait for somebody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedgpu_operator.domain.books import Epoch
from fedgpu_operator.domain.ledger import SignedReceipt
from fedgpu_operator.domain.settlement import NO_BOOKS, Answer, ChainSnapshot, Claim, DisputeState, EpochPlan, Pair
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import RevertedError
from fedgpu_operator.ports import Escrow, Ledger
from fedgpu_operator.settlement import claims, parse_manifest
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, SigningDomain, escrow_domain, receipt, recover, signed_by

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """One call that somebody should make, with the key of its intent."""

    key: str
    kind: str
    call: Call


class DisputeKeeper:
    """Finds the next thing to do about a dispute."""

    def __init__(self, ledger: Ledger, escrow: Escrow) -> None:
        self._ledger = ledger
        self._escrow = escrow
        self._domain = escrow_domain(escrow.chain_id, escrow.escrow)
        self._refused: set[str] = set()
        """Answers that the contract refused to this process: the same receipt would be refused again."""

    async def errands(self) -> tuple[Errand | None, Errand | None]:
        """What cannot wait, and what can.

        Answers end, and a cancelled epoch must be closed before money is billed again. Other closings can wait: whoever
        opens many disputes must not put off everybody's next epoch.
        """
        disputes = await self._escrow.disputes()
        if not disputes:
            return None, None
        receipts = {kept.pair: kept for kept in await self._ledger.receipts()}
        waiting: Errand | None = None
        for dispute in sorted(disputes, key=lambda each: (each.deadline, each.epoch, each.tenant, each.provider)):
            errand, urgent = await self._errand(dispute, disputes, receipts)
            if errand is None or not await self._taken(errand):
                continue
            if urgent:
                return errand, waiting
            waiting = waiting or errand
        return None, waiting

    async def _errand(
        self, dispute: DisputeState, disputes: Sequence[DisputeState], receipts: Mapping[Pair, SignedReceipt]
    ) -> tuple[Errand | None, bool]:
        """What would help this dispute on now, if anything, and whether it cannot wait."""
        name = f"{dispute.epoch}:{dispute.tenant}:{dispute.provider}"
        state = await self._escrow.finalized_epoch(dispute.epoch)
        plan = await self._plan(dispute.epoch)
        pairs = [pair for pair in plan.pairs if pair[0] == dispute.tenant] if plan is not None else []
        chain = await self._escrow.snapshot([dispute.tenant], pairs)
        if chain.paused:
            return None, False
        if state.cancelled or dispute.ruled or chain.clock >= dispute.deadline:
            call = self._escrow.call_close(dispute.epoch, dispute.tenant, dispute.provider)
            return Errand(f"close:{name}", "close", call), state.cancelled
        standing = {pair: kept for pair, kept in receipts.items() if pair[0] == dispute.tenant}
        answers = tuple(
            [each for each in _answers(self._domain, plan, dispute, standing) if await self._still_counts(each)]
        )
        backed = _backed(dispute, disputes, answers, chain)
        key = f"answer:{name}:{backed}"
        if backed <= dispute.shown or key in self._refused:
            return None, False
        call = self._escrow.call_answer(dispute.epoch, dispute.tenant, dispute.provider, answers)
        return Errand(key, "answer", call), True

    async def _still_counts(self, answer: Answer) -> bool:
        """Whether the contract takes both signatures now: one that it does not would void the answer of all others."""
        digest = receipt(self._domain, answer.receipt).digest
        signer = await self._escrow.signer_of(answer.provider)
        signed = signed_by(signer, digest, answer.provider_signature) or await self._escrow.is_valid_signature(
            signer, digest, answer.provider_signature
        )
        return signed and await self._escrow.holds_role("METER", answer.meter)

    async def _taken(self, errand: Errand) -> bool:
        try:
            await self._escrow.simulate(errand.call)
        except RevertedError as error:
            log.warning("%s is not taken: %s", errand.key, error)
            self._refused.add(errand.key)
            return False
        return True

    async def _plan(self, chain_epoch: int) -> EpochPlan | None:
        epochs: tuple[Epoch, ...] = await self._ledger.epochs()
        for epoch in epochs:
            if epoch.chain_epoch == chain_epoch:
                return parse_manifest(epoch.draft.manifest)
        return None


def _answers(
    domain: SigningDomain, plan: EpochPlan | None, dispute: DisputeState, receipts: Mapping[Pair, SignedReceipt]
) -> Iterator[Answer]:
    """What backs the dispute: the pair's receipt, or where no provider is named, every line of the tenant in order."""
    if dispute.provider != NO_ADDRESS:
        kept = receipts.get((dispute.tenant, dispute.provider))
        if kept is not None:
            # The contract kept what it needs of the line when the dispute was opened.
            yield _answer(domain, kept)
        return
    for claim in sorted(claims(plan) if plan is not None else (), key=lambda claim: claim.provider.lower()):
        kept = receipts.get((dispute.tenant, claim.provider))
        index = _index(claim, dispute.tenant)
        if kept is not None and index is not None:
            yield replace(_answer(domain, kept), lines=claim.lines, index=index, proof=claim.proof)


def _answer(domain: SigningDomain, kept: SignedReceipt) -> Answer:
    return Answer(
        provider=kept.receipt.provider,
        lines=(),
        index=0,
        proof=(),
        receipt=kept.receipt,
        meter=recover(receipt(domain, kept.receipt).digest, kept.meter_signature),
        meter_signature=kept.meter_signature,
        provider_signature=kept.provider_signature,
    )


def _index(claim: Claim, tenant: str) -> int | None:
    return next((index for index, line in enumerate(claim.lines) if line.tenant == tenant), None)


def _backed(
    dispute: DisputeState, disputes: Sequence[DisputeState], answers: tuple[Answer, ...], chain: ChainSnapshot
) -> int:
    """How much of the disputed amount these receipts back, by the contract's own rule (ComputeEscrow.answer)."""
    if dispute.provider != NO_ADDRESS:
        return max((_clamp(each.receipt.cumulative - dispute.floor, dispute.amount) for each in answers), default=0)
    account = chain.accounts[dispute.tenant]
    # A debit of a later epoch belongs to later lines.
    there = account.allocated + (account.pending if chain.head_epoch == dispute.epoch else 0)
    there += sum(
        each.shown
        for each in disputes
        if (each.tenant, each.provider) == (dispute.tenant, NO_ADDRESS) and each.epoch != dispute.epoch
    )
    unpaid = 0
    for answer in answers:
        books = chain.books.get((dispute.tenant, answer.provider), NO_BOOKS)
        unpaid += max(0, min(answer.lines[answer.index].cumulative, answer.receipt.cumulative) - books.base)
    return _clamp(unpaid - there, dispute.amount)


def _clamp(value: int, most: int) -> int:
    return max(0, min(value, most))
