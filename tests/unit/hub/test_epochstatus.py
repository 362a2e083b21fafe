"""A SettlementEpoch's status follows from the ledger's stage and the finalized chain, stage by stage."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from eth_utils.address import to_checksum_address
from tests.unit.hub.world import condition

from fedgpu_operator.api.settlementepoch import SettlementEpoch, SettlementEpochStatus, epoch_state
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    ZERO_HASH,
    ChainSnapshot,
    Epoch,
    EpochDraft,
    EpochStage,
    EpochState,
    PairState,
)
from fedgpu_operator.domain.transactions import ChainTx
from fedgpu_operator.hub.views.epochs import EpochFacts, epoch_status
from fedgpu_operator.settlement import build_epoch

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TENANT, OWNER = (str(to_checksum_address("0x" + pair * 20)) for pair in ("aa", "bb"))
ESCROW = str(to_checksum_address("0x" + "e5" * 20))
PLAN = build_epoch(
    chain_id=1,
    escrow=ESCROW,
    seq=0,
    prev_root=ZERO_HASH,
    period_end=0,
    pairs={(TENANT, OWNER): MicroUSD(5_000_000)},
    debits={TENANT: MicroUSD(2_000_000)},
)
"""The pair owes 5 USD in all, of which 3 were paid under earlier roots."""
OPENS = 1_800_000_000


def facts(stage: EpochStage, *, paid: int = 3_000_000, chain_time: int = OPENS - 1) -> EpochFacts:
    draft = EpochDraft(0, ZERO_HASH, PLAN.root, PLAN.manifest, PLAN.manifest_hash, NOW, PLAN.total, (), ())
    on_chain = stage in (EpochStage.FINALIZED, EpochStage.PAID)
    chain = ChainSnapshot(
        chain_id=1,
        escrow=ESCROW,
        block_number=7,
        block_hash="0x",
        timestamp=chain_time,
        seq=1,
        last_epoch=1,
        head_epoch=1,
        head_root=PLAN.root,
        active_epoch=0,
        active_at=OPENS,
        accounts={},
        books={(TENANT, OWNER): PairState(MicroUSD(paid))},
        clock=chain_time,
    )
    return EpochFacts(
        Epoch(1, draft, stage, NOW, 1 if on_chain else None),
        PLAN,
        chain,
        EpochState(1, PLAN.root, OPENS, 0, PLAN.total, 0, False) if on_chain else None,
        (ChainTx("0xaa", "post", 1, None, OWNER), ChainTx("0xbb", "claim", 1, None, OWNER)),
    )


def known() -> SettlementEpoch:
    spec = {
        "sequence": 1,
        "chainID": 1,
        "contract": ESCROW,
        "prevRoot": ZERO_HASH,
        "root": PLAN.root,
        "manifestHash": PLAN.manifest_hash,
        "periodEnd": "2026-01-01T12:00:00Z",
        "total": "2.00",
        "tenants": 1,
        "providers": 1,
    }
    return SettlementEpoch.parse({"metadata": {"name": "epoch-1", "generation": 1}, "spec": spec})


@pytest.mark.parametrize(
    ("given", "state", "paid", "words"),
    [
        (
            facts(EpochStage.PREPARED),
            "Pending",
            "0.00",
            ["False NotSent", "False AwaitingFinality", "False AwaitingFinality"],
        ),
        (
            facts(EpochStage.POSTED),
            "Posted",
            "0.00",
            ["True Broadcast", "False AwaitingFinality", "False AwaitingFinality"],
        ),
        (
            facts(EpochStage.FINALIZED),
            "Finalized",
            "0.00",
            ["True Broadcast", "True Finalized", "False ChallengeWindow"],
        ),
        (
            facts(EpochStage.FINALIZED, paid=4_000_000, chain_time=OPENS),
            "Finalized",
            "1.00",
            ["True Broadcast", "True Finalized", "False AwaitingClaim"],
        ),
        (
            facts(EpochStage.PAID, paid=9_000_000, chain_time=OPENS),
            "Paid",
            "2.00",
            ["True Broadcast", "True Finalized", "True Paid"],
        ),
        (facts(EpochStage.CANCELLED), "Cancelled", "0.00", ["False CancelledByGuardian"] * 3),
        (facts(EpochStage.SUPERSEDED), "Cancelled", "0.00", ["False SupersededByAnotherSettler"] * 3),
        (facts(EpochStage.ABANDONED), "Cancelled", "0.00", ["False NotAccepted"] * 3),
    ],
)
def test_stage_by_stage(given: EpochFacts, state: str, paid: str, words: list[str]) -> None:
    status = epoch_status(known(), given, NOW)
    assert (status.state, status.paid) == (state, paid)
    steps, readiness = status.conditions[:3], [c.type for c in status.conditions[3:]]
    assert [c.type for c in steps] == ["Posted", "Finalized", "Paid"]
    assert [f"{c.status} {c.reason}" for c in steps] == words
    abnormal = {"Paid": [], "Cancelled": ["Stalled"]}.get(state, ["Reconciling"])
    assert readiness == ["Ready", *abnormal]
    assert (status.transactions.post, status.transactions.claim) == ("0xaa", "0xbb")
    assert (status.active_at is not None) == (given.state is not None)


@pytest.mark.parametrize("stage", EpochStage)
def test_it_pays_nothing_by_its_steps_whatever_is_shown_of_them(stage: EpochStage) -> None:
    """What is deleted and what is missing is decided by them, not by what tools and people read."""
    status = epoch_status(known(), facts(stage, chain_time=OPENS), NOW)
    steps = [each for each in status.conditions if each.type in ("Posted", "Finalized", "Paid")]
    dead = stage in (EpochStage.ABANDONED, EpochStage.CANCELLED, EpochStage.SUPERSEDED)
    for shown in (status, status.model_copy(update={"conditions": steps})):
        assert shown.cancelled == dead
        assert shown.ended == (dead or stage is EpochStage.PAID)
        assert epoch_state(shown.conditions) == status.state


def test_an_epoch_that_is_stalled_for_another_reason_is_not_cancelled() -> None:
    """A transaction that no node takes may still be sent."""
    steps = [condition("Posted", "False", "InsufficientFunds", NOW), condition("Stalled", "True", "SettlerEmpty", NOW)]
    status = SettlementEpochStatus.model_validate({"conditions": steps})
    assert (status.cancelled, status.ended, epoch_state(status.conditions)) == (False, False, "Pending")
