"""An epoch of the ledger as a SettlementEpoch: what it is, and how far the finalized chain shows it; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fedgpu_operator.api.base import READY, Finding, JSONObject, merge, standing
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.api.settlementepoch import (
    EpochTransactions,
    SettlementEpoch,
    SettlementEpochSpec,
    SettlementEpochStatus,
    epoch_state,
)
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.settlement import ChainSnapshot, Epoch, EpochPlan, EpochStage, EpochState
from fedgpu_operator.domain.transactions import ChainTx
from fedgpu_operator.errors import Refusal
from fedgpu_operator.ports import ResourceType

EPOCHS: Final = ResourceType.of(SettlementEpoch.info)


_DEAD: Final = {
    EpochStage.ABANDONED: ConditionReason.NOT_ACCEPTED,
    EpochStage.CANCELLED: ConditionReason.CANCELLED_BY_GUARDIAN,
    EpochStage.SUPERSEDED: ConditionReason.SUPERSEDED_BY_ANOTHER_SETTLER,
}
"""Why an epoch pays nothing, as its conditions say it."""


@dataclass(frozen=True, slots=True)
class EpochBlocker:
    """What stands against an epoch's next transaction: the nodes' own words with their class, or the contract's."""

    refusal: Refusal | None
    why: str


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """All that a SettlementEpoch is made from; `state` is the contract's epoch at finalized, once it has a number.

    `held` is why the transaction that it needs next is not on its way, None where nothing stands against it.
    """

    epoch: Epoch
    plan: EpochPlan
    chain: ChainSnapshot
    state: EpochState | None
    txs: tuple[ChainTx, ...]
    held: EpochBlocker | None = None


def names_of(epoch: Epoch) -> tuple[str, str]:
    """What the object of an epoch may be called, the usual name first.

    A ledger that began again numbers its epochs again; the older object then stays what it was.
    """
    return f"epoch-{epoch.number}", f"epoch-{epoch.number}-{epoch.draft.manifest_hash[2:10]}"


def epoch_object(name: str, facts: EpochFacts) -> JSONObject:
    """The object of an epoch, without a status."""
    plan, draft = facts.plan, facts.epoch.draft
    spec = SettlementEpochSpec(
        sequence=facts.epoch.number,
        chain_id=plan.chain_id,
        contract=plan.escrow,
        prev_root=plan.prev_root,
        root=plan.root,
        manifest_hash=plan.manifest_hash,
        period_end=draft.period_end,
        total=format_usd(draft.total),
        tenants=len(plan.debits),
        providers=len({leaf.provider for leaf in plan.leaves}),
        leases=len(draft.covers),
    )
    return {"apiVersion": EPOCHS.api_version, "kind": EPOCHS.kind, "metadata": {"name": name}, "spec": spec.to_wire()}


def epoch_status(known: SettlementEpoch, facts: EpochFacts, now: datetime) -> SettlementEpochStatus:
    """The status that follows from the facts; pure."""
    by_kind = {tx.kind: tx.tx_hash for tx in facts.txs}
    active_at = _active_at(facts)
    before = _paid_before(facts)
    books = facts.chain.books
    paid = sum(min(books[pair].paid + books[pair].deducted, total) for pair, total in facts.plan.pairs.items())
    generation, found = known.metadata.generation, tuple(_findings(facts))
    found = (*found, *_readiness(facts.epoch.stage, found))
    conditions = merge(known.status.conditions, found, generation=generation, now=now)
    return SettlementEpochStatus(
        observed_generation=generation,
        state=epoch_state(conditions),
        transactions=EpochTransactions(post=by_kind.get("post", ""), claim=by_kind.get("claim", "")),
        active_at=active_at or known.status.active_at,
        paid=format_usd(max(0, paid - before)),
        conditions=conditions,
    )


def _readiness(stage: EpochStage, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """`Ready` once it is paid; until then the first step that is still to come says why not."""
    of = next((each for each in found if each.status != "True"), found[-1])
    return standing(Finding(READY, of.status, of.reason), of.message, stalled=stage in _DEAD)


def _active_at(facts: EpochFacts) -> datetime | None:
    """When claims open by the chain's time: its settlement clock stood still while the contract was paused."""
    if facts.state is None or not facts.state.active_at:
        return None
    return datetime.fromtimestamp(facts.state.active_at + facts.chain.timestamp - facts.chain.clock, UTC)


def _paid_before(facts: EpochFacts) -> int:
    """What the pairs had been paid under earlier roots: all that the new total exceeds the debits by."""
    return sum(facts.plan.pairs.values()) - facts.plan.total


def _findings(facts: EpochFacts) -> Iterator[Finding]:
    stage = facts.epoch.stage
    if stage in _DEAD:
        why = _DEAD[stage]
        text = "this epoch pays nothing (more); its usage is settled by a later one"
        yield from (Finding(kind, "False", why, text) for kind in ("Posted", "Finalized", "Paid"))
        return
    posted = stage is not EpochStage.PREPARED
    if not posted and facts.held is not None:
        yield Finding("Posted", "False", *_held(facts.held))
    else:
        yield Finding(
            "Posted", "True" if posted else "False", ConditionReason.BROADCAST if posted else ConditionReason.NOT_SENT
        )
    final = stage in (EpochStage.FINALIZED, EpochStage.PAID)
    yield Finding(
        "Finalized",
        "True" if final else "False",
        ConditionReason.FINALIZED if final else ConditionReason.AWAITING_FINALITY,
        "the finalized chain shows this root" if final else "the root is not in a finalized block yet",
    )
    if stage is EpochStage.PAID:
        if facts.state is not None and facts.state.total < facts.epoch.draft.total:
            text = "some debits did not fit any more; what was taken is paid, the rest is settled by a later epoch"
            yield Finding("Paid", "True", ConditionReason.PAID_IN_PART, text)
        else:
            yield Finding("Paid", "True", ConditionReason.PAID, "every line is paid, read back at finalized")
    elif final and facts.state is not None and facts.chain.clock < facts.state.active_at:
        ends = _active_at(facts)
        yield Finding(
            "Paid", "False", ConditionReason.CHALLENGE_WINDOW, f"claims open at {ends:%Y-%m-%dT%H:%M:%SZ} chain time"
        )
    elif final and facts.held is not None:
        yield Finding("Paid", "False", *_held(facts.held))
    else:
        yield Finding("Paid", "False", ConditionReason.AWAITING_CLAIM if final else ConditionReason.AWAITING_FINALITY)


def _held(held: EpochBlocker) -> tuple[str, str]:
    """Reason and message: the class of the refusal, and the words of who refuses."""
    if held.refusal is None:
        return ConditionReason.REFUSED, f"the contract refuses the transaction: {held.why}"
    reason = ConditionReason.NOT_TAKEN if held.refusal is Refusal.OTHER else held.refusal.value
    return reason, f"no node takes the transaction: {held.why}"
