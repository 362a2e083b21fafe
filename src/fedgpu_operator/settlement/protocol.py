"""The protocol of one settlement epoch as a table: what can be seen in each stage, what is done, what comes next; pure.

The loop in hub/ looks (chain at finalized, transactions in the ledger), finds the row, acts, and writes the next stage
down; it decides nothing beside this table. Every act may be repeated: a process killed between any two of them sees
the same row again. docs/settlement.md shows the table as a diagram, made from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fedgpu_operator.domain.settlement import EpochStage


class EpochSight(StrEnum):
    """What is seen of an epoch; in each stage the first that holds, in this order."""

    STANDS = "its root stands in the finalized chain"
    CANCELLED = "the guardian cancelled it, finally"
    REFUSED = "the contract would refuse it"
    UNSENT = "no transaction carries it"
    LOST = "its nonce went to another transaction, finally"
    FAILED = "it reverted, finally"
    FREED = "no node takes it, and its nonce was used for nothing, finally"
    NOT_TAKEN = "signed, and no node has taken it"
    IN_FLIGHT = "taken by a node, in no block"
    MINED = "in a block that is not final"
    IN_WINDOW = "its challenge window is open"
    SUPERSEDED = "another settler's root is active, and pairs are unpaid"
    PAYABLE = "pairs are unpaid"
    PAID_UP = "every pair that can be paid is paid"


class Act(StrEnum):
    """What is done about it."""

    SEND = "write the intent, sign, keep, broadcast"
    RESEND = "broadcast the kept bytes, or another version of their nonce"
    CLAIM = "claim"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class EpochStep:
    """The stage that is written down next, and what is done then."""

    stage: EpochStage
    act: Act = Act.WAIT


TABLE: Mapping[tuple[EpochStage, EpochSight], EpochStep] = {
    # Another transaction may carry the same root: a twin of this process, or an earlier life of it.
    (EpochStage.PREPARED, EpochSight.STANDS): EpochStep(EpochStage.FINALIZED),
    (EpochStage.PREPARED, EpochSight.REFUSED): EpochStep(EpochStage.ABANDONED),
    (EpochStage.PREPARED, EpochSight.UNSENT): EpochStep(EpochStage.PREPARED, Act.SEND),
    (EpochStage.PREPARED, EpochSight.LOST): EpochStep(EpochStage.PREPARED, Act.SEND),
    (EpochStage.PREPARED, EpochSight.FAILED): EpochStep(EpochStage.ABANDONED),
    (EpochStage.PREPARED, EpochSight.FREED): EpochStep(EpochStage.ABANDONED),
    # Kept bytes may be taken later, so nothing is given up; but nobody is told that they are on their way.
    (EpochStage.PREPARED, EpochSight.NOT_TAKEN): EpochStep(EpochStage.PREPARED, Act.RESEND),
    (EpochStage.PREPARED, EpochSight.IN_FLIGHT): EpochStep(EpochStage.POSTED, Act.RESEND),
    (EpochStage.PREPARED, EpochSight.MINED): EpochStep(EpochStage.POSTED),
    (EpochStage.POSTED, EpochSight.STANDS): EpochStep(EpochStage.FINALIZED),
    (EpochStage.POSTED, EpochSight.UNSENT): EpochStep(EpochStage.PREPARED, Act.SEND),
    (EpochStage.POSTED, EpochSight.LOST): EpochStep(EpochStage.PREPARED, Act.SEND),
    (EpochStage.POSTED, EpochSight.FAILED): EpochStep(EpochStage.ABANDONED),
    (EpochStage.POSTED, EpochSight.FREED): EpochStep(EpochStage.ABANDONED),
    # Called posted by a release that did not look whether any node had taken it.
    (EpochStage.POSTED, EpochSight.NOT_TAKEN): EpochStep(EpochStage.PREPARED, Act.RESEND),
    # Never mined, dropped, or taken out again by a reorg: the same bytes can happen only once.
    (EpochStage.POSTED, EpochSight.IN_FLIGHT): EpochStep(EpochStage.POSTED, Act.RESEND),
    (EpochStage.POSTED, EpochSight.MINED): EpochStep(EpochStage.POSTED),
    (EpochStage.FINALIZED, EpochSight.CANCELLED): EpochStep(EpochStage.CANCELLED),
    (EpochStage.FINALIZED, EpochSight.IN_WINDOW): EpochStep(EpochStage.FINALIZED),
    # Claims go against the active root only; who made that one may know nothing of our pairs.
    (EpochStage.FINALIZED, EpochSight.SUPERSEDED): EpochStep(EpochStage.SUPERSEDED),
    (EpochStage.FINALIZED, EpochSight.PAYABLE): EpochStep(EpochStage.FINALIZED, Act.CLAIM),
    (EpochStage.FINALIZED, EpochSight.PAID_UP): EpochStep(EpochStage.PAID),
}
"""(stage, sight) → step; a pair that is not here cannot be."""

OPEN = frozenset({EpochStage.PREPARED, EpochStage.POSTED})
"""Stages in which the chain does not show the root yet: one epoch at a time may be in them."""
LIVE = OPEN | {EpochStage.FINALIZED}
"""Stages that still need something."""
DEAD = frozenset({EpochStage.CANCELLED, EpochStage.ABANDONED, EpochStage.SUPERSEDED})
"""Stages that pay nothing: what they covered is settled by a later epoch."""


def step(stage: EpochStage, sight: EpochSight) -> EpochStep:
    """The row of the table; ValueError for a sight that the stage cannot have."""
    found = TABLE.get((stage, sight))
    if found is None:
        raise ValueError(f"an epoch that is {stage} cannot be seen as: {sight}")
    return found


def next_stages() -> dict[EpochStage, frozenset[EpochStage]]:
    """Which stage may follow which, as the ledger enforces it."""
    return {
        stage: frozenset(row.stage for (before, _), row in TABLE.items() if before is stage and row.stage is not stage)
        for stage in EpochStage
    }


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    return "\n".join(["stateDiagram-v2", "    [*] --> Prepared: an epoch is due", *_arrows()]) + "\n"


def _arrows() -> Iterator[str]:
    for (stage, sight), row in TABLE.items():
        act = "" if row.act is Act.WAIT else f" / {row.act}"
        yield f"    {stage} --> {row.stage}: {sight}{act}"
    for stage in (EpochStage.PAID, *sorted(DEAD)):
        yield f"    {stage} --> [*]"
