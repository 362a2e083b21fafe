"""SettlementEpoch: one settlement on chain, from posting to finality and payment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from fedgpu_operator.api.base import (
    READY_COLUMN,
    Column,
    Condition,
    Conditions,
    DecimalUSD,
    HexBytes32,
    KindInfo,
    Model,
    ObservedGeneration,
    Resource,
    Rule,
    WalletAddress,
    find,
    is_true,
)
from fedgpu_operator.api.reasons import PAYS_NOTHING


class SettlementEpochSpec(Model):
    """What is settled; fixed when the epoch is made."""

    sequence: int = Field(ge=1, le=2**53, description="Number of the epoch on chain.")
    chain_id: int = Field(alias="chainID", ge=1, le=2**53, description="EIP-155 chain id.")
    contract: WalletAddress = Field(description="ComputeEscrow that it is posted to.")
    prev_root: HexBytes32 = Field(description="Root of the epoch before.")
    root: HexBytes32 = Field(description="Merkle root over the cumulative lines of all (tenant, provider) pairs.")
    manifest_hash: HexBytes32 = Field(description="keccak-256 of the canonical manifest (RFC 8785 JSON).")
    period_end: datetime = Field(description="Usage up to this instant is covered.")
    total: DecimalUSD = Field(description="Sum of the debits, USD.")
    tenants: int = Field(ge=0, le=500, description="Tenants that are debited.")
    providers: int = Field(ge=0, le=1_000_000, description="Providers that are credited.")
    leases: int = Field(default=0, ge=0, le=2**53, description="Leases with new usage in this epoch.")


class EpochTransactions(Model):
    """Transactions of this epoch."""

    post: str = Field(default="", max_length=66, description="Hash of the transaction that posted it.")
    claim: str = Field(default="", max_length=66, description="Hash of the transaction that paid the providers.")


EpochWord = Literal["Pending", "Posted", "Finalized", "Paid", "Cancelled"]


def epoch_state(conditions: Sequence[Condition]) -> EpochWord:
    """The one word for people of an epoch with these conditions."""
    if _pays_nothing(conditions):
        return "Cancelled"
    words: tuple[EpochWord, ...] = ("Paid", "Finalized", "Posted")
    return next((word for word in words if is_true(conditions, word)), "Pending")


def _pays_nothing(conditions: Sequence[Condition]) -> bool:
    posted = find(conditions, "Posted")
    return posted is not None and posted.status == "False" and posted.reason in PAYS_NOTHING


class SettlementEpochStatus(Model):
    """How far it got; read back from the chain at finalized, never inferred from a receipt alone."""

    observed_generation: ObservedGeneration = -1
    state: EpochWord = Field(default="Pending", description="One word for people, derived from the conditions.")
    transactions: EpochTransactions = Field(
        default_factory=EpochTransactions, description="Transactions of this epoch."
    )
    active_at: datetime | None = Field(default=None, description="When the challenge window ends, chain time.")
    paid: DecimalUSD = Field(default="0", description="Paid to providers under this root so far, USD.")
    conditions: Conditions

    @property
    def cancelled(self) -> bool:
        """Whether it pays nothing (more); what it covered is settled by a later epoch."""
        return _pays_nothing(self.conditions)

    @property
    def ended(self) -> bool:
        """Whether it is paid, or pays nothing any more."""
        return self.cancelled or is_true(self.conditions, "Paid")


class SettlementEpoch(Resource):
    """One settlement: period, root, manifest hash, transactions, finality."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="SettlementEpoch",
        plural="settlementepochs",
        singular="settlementepoch",
        short_name="sepoch",
        namespaced=False,
        selectable=(".status.state",),
        columns=(
            Column("State", ".status.state"),
            READY_COLUMN,
            Column("Total", ".spec.total", description="USD debited"),
            Column("Tenants", ".spec.tenants", "integer"),
            Column("Providers", ".spec.providers", "integer"),
            Column("Active-At", ".status.activeAt", description="End of the challenge window, chain time"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Root", ".spec.root", wide=True),
            Column("Post-Tx", ".status.transactions.post", wide=True),
            Column("Claim-Tx", ".status.transactions.claim", wide=True),
        ),
        rules=(
            Rule(
                "self.spec == oldSelf.spec",
                "spec: fixed when the epoch is made; a correction is a new epoch",
            ),
        ),
    )
    spec: SettlementEpochSpec = Field(description="What is settled.")
    status: SettlementEpochStatus = Field(
        default_factory=lambda: SettlementEpochStatus(conditions=[]), description="How far it got."
    )
