"""What the ledger keeps beside attempts and epochs: intents, receipts, disputes, postings, its audit; values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from fedgpu_operator.domain.books import SettlementSnapshot, TxState, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair, Receipt

FINAL_TX = frozenset({TxState.FINALIZED, TxState.REVERTED, TxState.REPLACED})
"""States that a transaction never leaves."""


class IntentState(StrEnum):
    """Open: may still take effect. Done: one version of it is finalized. Dead: no version of it ever will be."""

    OPEN = "Open"
    DONE = "Done"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing to do on chain, written before anything is signed for it.

    All its transactions are versions of one another: same sender, same nonce, so at most one of them can ever count.
    `to` and `data` are the call as it was first meant; IntentCall has those that took its place.
    `key` says what it is for, such as ``post:12``; `epoch` is the ledger's number. `to` is the called contract.
    """

    id: int
    key: str
    kind: str
    epoch: int | None
    sender: str
    nonce: int
    to: str
    data: bytes
    created_at: datetime
    state: IntentState = IntentState.OPEN


@dataclass(frozen=True, slots=True)
class IntentCall:
    """A call of an intent: number 0 is the one it was written with, each later one replaced the one before it.

    `why` is what stood against the one before: the words of the nodes, or the limit that it exceeded.
    """

    number: int
    to: str
    data: bytes
    why: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with both signatures, as the ledger keeps it; `at` is when the hub took it into its books."""

    receipt: Receipt
    provider_signature: bytes
    meter_signature: bytes
    at: datetime

    @property
    def pair(self) -> Pair:
        """(tenant wallet, provider wallet)."""
        return self.receipt.tenant, self.receipt.provider


class UsageDisputeState(StrEnum):
    """What became of the disputed rest of a reading."""

    OPEN = "Open"
    SUPERSEDED = "Superseded"
    """A later reading of the same lease is disputed instead: usage is cumulative, so that one includes it."""
    GRANTED = "Granted"
    """The provider's figure was found right."""
    REFUSED = "Refused"
    """The hub's figure was found right."""


@dataclass(frozen=True, slots=True)
class UsageDispute:
    """A reading that claims more than the hub holds payable; both figures are cumulative GPU-seconds of the lease.

    What is payable is paid; the rest waits here. `evidence` is canonical JSON of what both sides saw.
    """

    lease_name: str
    sequence: int
    claimed: int
    payable: int
    why: str
    evidence: str
    at: datetime
    state: UsageDisputeState = UsageDisputeState.OPEN
    note: str = ""
    ruled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RefusedUsage:
    """A record of a bulk append that contradicts another one, and why; it is in the caller's hands now."""

    record: UsageRecord
    why: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of each record of a bulk append: newer than what was billed, held or older, refused."""

    appended: int
    known: int
    refused: tuple[RefusedUsage, ...] = ()


class PostingKind(StrEnum):
    """The four things that move money in the books; each is the change of one cumulative position."""

    CHARGED = "Charged"
    """Work was metered: the tenant owes it, it is owed to the provider."""
    SET_ASIDE = "SetAside"
    """The escrow took it from the tenant's balance, for providers only; falls when it flows back."""
    PAID = "Paid"
    """The escrow paid it to the provider."""
    REFUNDED = "Refunded"
    """A closed dispute took it off what the provider is owed."""


@dataclass(frozen=True, slots=True)
class Position:
    """One cumulative figure since the beginning, of a pair; SetAside is of a tenant alone, with an empty provider."""

    kind: PostingKind
    tenant: str
    provider: str
    total: MicroUSD

    @property
    def key(self) -> PositionKey:
        """What it is a position of."""
        return self.kind, self.tenant, self.provider


PositionKey = tuple[PostingKind, str, str]
"""(kind, tenant wallet, provider wallet or "")."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One leg of an entry: `amount` is added to `account`; the two legs of an entry sum to zero."""

    entry: int
    kind: PostingKind
    tenant: str
    provider: str
    account: str
    amount: int
    at: datetime


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """The one query an auditor asks first: `total` over all postings and `unbalanced` entries must both be 0."""

    total: int
    postings: int
    unbalanced: int

    @property
    def balanced(self) -> bool:
        """Whether every entry adds up."""
        return self.total == 0 and self.unbalanced == 0


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The end of one hash chain: how many rows it has, and the hash of the last one as lower-case hex."""

    length: int
    hash: str


_HEAD = re.compile(r"([a-z_]+):([0-9]+):([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The ends of all hash chains at one moment, by table: an anchor that a later audit is held to."""

    chains: Mapping[str, ChainHead]

    def __str__(self) -> str:
        """``table:length:hash`` of each chain, by name, with commas between; `parse` reads it back."""
        return ",".join(f"{name}:{head.length}:{head.hash}" for name, head in sorted(self.chains.items()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read back what `str` wrote; ValueError where it is something else."""
        chains = {}
        for part in text.split(","):
            match = _HEAD.fullmatch(part)
            if match is None:
                raise ValueError(f"{part!r} is no head of a hash chain")
            chains[match[1]] = ChainHead(int(match[2]), match[3])
        head = cls(chains)
        if str(head) != text:
            raise ValueError("the heads are not in order, or one comes twice")
        return head


@dataclass(frozen=True, slots=True)
class SealedBooks:
    """The books of one moment, each figure of which is a usage checkpoint that these heads bind."""

    books: SettlementSnapshot
    head: LedgerHead


@dataclass(frozen=True, slots=True)
class BoundEscrow:
    """The one escrow contract, by chain and EIP-55 address, that a ledger's money is held in."""

    chain_id: int
    escrow: str

    def __str__(self) -> str:
        return f"escrow {self.escrow} on chain {self.chain_id}"


@dataclass(frozen=True, slots=True)
class LedgerFault:
    """One thing that an audit found wrong: the table, the row's key as people read it, and what is wrong with it."""

    table: str
    key: str
    why: str


@dataclass(frozen=True, slots=True)
class LedgerAudit:
    """The outcome of reading the whole ledger: rows by table, the heads found, the trial balance, and the faults.

    `bound` is the escrow that the books are those of, None for a ledger that never settled.
    Per chain the first fault is named; what follows it in that chain cannot be judged.
    """

    rows: Mapping[str, int]
    head: LedgerHead
    trial_balance: TrialBalance
    faults: tuple[LedgerFault, ...] = ()
    bound: BoundEscrow | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults and self.trial_balance.balanced
