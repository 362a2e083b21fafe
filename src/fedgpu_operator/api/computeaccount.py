"""ComputeAccount: the wallet a namespace pays from, and how it stands on the chain."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from fedgpu_operator.api.base import (
    READY_COLUMN,
    Column,
    Conditions,
    DecimalUSD,
    KindInfo,
    Model,
    ObservedGeneration,
    Resource,
    Rule,
    Status,
    WalletAddress,
    WalletProof,
)


class ComputeAccountSpec(Model):
    """Who pays."""

    wallet: WalletAddress = Field(description="The tenant's account on the chain, whose escrow balance is spent.")
    proof: WalletProof | None = Field(
        default=None,
        description="The wallet's own signature that this namespace on this hub may spend from it; nothing is "
        "reserved before it is there. Made by `fedgpu account prove`.",
    )
    max_per_job: DecimalUSD | None = Field(
        default=None, description="Most that one job may cost, USD; applies as a budget of every job."
    )


class Expiring(Model):
    """Money that running work may still count on for a while, and new work no more."""

    amount: DecimalUSD = Field(description="USD.")
    until: datetime = Field(description="Until when: its notice ends so much later that all work before is debited.")


AccountState = Literal["Pending", "Funded", "Unfunded", "Unknown"]


def account_state(funded: Status) -> AccountState:
    """The one word for people of an account with that status of `Funded`."""
    words: dict[Status, AccountState] = {"True": "Funded", "False": "Unfunded", "Unknown": "Unknown"}
    return words[funded]


class ComputeAccountStatus(Model):
    """How the account stands; written by the hub alone, balances as of finalized chain state."""

    observed_generation: ObservedGeneration = -1
    state: AccountState = Field(default="Pending", description="One word for people, derived from the conditions.")
    balance: DecimalUSD = Field(default="0", description="Free escrow balance on chain, USD.")
    allocated: DecimalUSD = Field(default="0", description="Allocated to posted epochs and not yet claimed, USD.")
    pending: DecimalUSD = Field(default="0", description="Debited by an epoch in its challenge window, USD.")
    epoch_limit: DecimalUSD = Field(default="0", description="Most that one epoch may debit, set on chain, USD.")
    committed: DecimalUSD = Field(default="0", description="Reserved for running leases up to their run limit, USD.")
    accrued: DecimalUSD = Field(default="0", description="Metered and not yet debited on chain, USD.")
    settled: DecimalUSD = Field(default="0", description="Paid to providers on chain, USD.")
    secured: DecimalUSD = Field(
        default="0",
        description="Part of all charges ever that needs no further debit, USD: paid, set aside, disputed or refunded.",
    )
    pending_withdrawal: Expiring | None = Field(
        default=None, description="An announced withdrawal; it is taken off the balance already."
    )
    former_limit: Expiring | None = Field(
        default=None, description="The limit before an announced lower one, which epochLimit shows already."
    )
    available: DecimalUSD = Field(default="0", description="What new work can still reserve, USD.")
    burn_per_hour: DecimalUSD = Field(default="0", description="What running leases cost together now, USD per hour.")
    funded_until: datetime | None = Field(
        default=None,
        description="When the money ends at the present burn; unset where it covers all running leases to their limit.",
    )
    observed_block: int = Field(default=0, ge=0, le=2**53, description="Finalized block that the balances are of.")
    observed_at: datetime | None = Field(default=None, description="When that block was read.")
    conditions: Conditions


class ComputeAccount(Resource):
    """The wallet that a namespace's jobs are paid from; the account must be named `default`."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ComputeAccount",
        plural="computeaccounts",
        singular="computeaccount",
        short_name="cacct",
        namespaced=True,
        selectable=(".status.state", ".spec.wallet"),
        columns=(
            Column("State", ".status.state"),
            READY_COLUMN,
            Column("Balance", ".status.balance", description="USD"),
            Column("Available", ".status.available", description="USD"),
            Column("Accrued", ".status.accrued", description="USD"),
            Column("Settled", ".status.settled", description="USD"),
            Column("Funded-Until", ".status.fundedUntil", description="Empty: all that runs is covered to its end"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Wallet", ".spec.wallet", wide=True),
            Column("Committed", ".status.committed", wide=True),
            Column("Allocated", ".status.allocated", wide=True),
            Column("Epoch-Limit", ".status.epochLimit", wide=True),
            Column("Block", ".status.observedBlock", "integer", wide=True),
        ),
        rules=(
            Rule(
                "self.metadata.name == 'default'",
                "metadata.name: a namespace has one account and it is named default",
            ),
            Rule(
                "self.spec.wallet == oldSelf.spec.wallet",
                "spec.wallet: cannot change, since receipts name it; use a new namespace for a new wallet",
            ),
        ),
    )
    spec: ComputeAccountSpec = Field(description="Who pays.")
    status: ComputeAccountStatus = Field(
        default_factory=lambda: ComputeAccountStatus(conditions=[]), description="How the account stands."
    )
