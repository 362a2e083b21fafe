"""What answers a dispute: receipts as the contract wants them shown, and how much of the amount they back; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedgpu_operator.domain.ledger import SignedReceipt
from fedgpu_operator.domain.settlement import NO_BOOKS, Answer, ChainSnapshot, Claim, DisputeState, EpochPlan, Pair
from fedgpu_operator.settlement import claims
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, SigningDomain, receipt, recover


@dataclass(frozen=True, slots=True)
class Shown:
    """One receipt as the ledger keeps it, and as it is shown to the contract."""

    kept: SignedReceipt
    answer: Answer


def answers_to(
    domain: SigningDomain, plan: EpochPlan | None, dispute: DisputeState, receipts: Mapping[Pair, SignedReceipt]
) -> Iterator[Shown]:
    """What backs the dispute: the pair's receipt, or every line of the tenant in order if no provider is named."""
    if dispute.provider != NO_ADDRESS:
        kept = receipts.get((dispute.tenant, dispute.provider))
        if kept is not None:
            # The contract kept what it needs of the line when the dispute was opened.
            yield Shown(kept, _answer(domain, kept))
        return
    for claim in sorted(claims(plan) if plan is not None else (), key=lambda claim: claim.provider.lower()):
        kept = receipts.get((dispute.tenant, claim.provider))
        index = _index(claim, dispute.tenant)
        if kept is not None and index is not None:
            yield Shown(kept, replace(_answer(domain, kept), lines=claim.lines, index=index, proof=claim.proof))


def backed(
    dispute: DisputeState, disputes: Sequence[DisputeState], answers: Sequence[Shown], chain: ChainSnapshot
) -> int:
    """How much of the disputed amount these receipts back, by the contract's own rule (ComputeEscrow.answer)."""
    if dispute.provider != NO_ADDRESS:
        return max(
            (_clamp(each.kept.receipt.cumulative - dispute.floor, dispute.amount) for each in answers), default=0
        )
    account = chain.accounts[dispute.tenant]
    # A debit of a later epoch belongs to later lines.
    there = account.allocated + (account.pending if chain.head_epoch == dispute.epoch else 0)
    there += sum(
        each.shown
        for each in disputes
        if (each.tenant, each.provider) == (dispute.tenant, NO_ADDRESS) and each.epoch != dispute.epoch
    )
    return _clamp(sum(_unpaid(dispute, each, chain) for each in answers) - there, dispute.amount)


def most_telling(dispute: DisputeState, answers: Sequence[Shown], count: int, chain: ChainSnapshot) -> list[Shown]:
    """So many of the receipts for a dispute that names no provider, those that back the most, in their order."""
    ranked = sorted(range(len(answers)), key=lambda at: _unpaid(dispute, answers[at], chain), reverse=True)
    return [answers[at] for at in sorted(ranked[:count])]


def _unpaid(dispute: DisputeState, shown: Shown, chain: ChainSnapshot) -> int:
    """What root and receipt agree on beyond what the pair's books hold."""
    answer = shown.answer
    books = chain.books.get((dispute.tenant, answer.provider), NO_BOOKS)
    return max(0, min(answer.lines[answer.index].cumulative, answer.receipt.cumulative) - books.base)


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


def _clamp(value: int, most: int) -> int:
    return max(0, min(value, most))
