"""What the ledger keeps as evidence: receipts, usage disputes, postings, heads and archives; values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from fedgpu_operator.domain.attempts import UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair, Receipt, SettlementSnapshot


@dataclass(frozen=True, slots=True)
class CountersignedReceipt:
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

    What is payable is paid; the rest waits here. `evidence` is JSON with what both sides saw.
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
        """Read back what `str` wrote; ValueError if it is something else."""
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

    `bound` is the escrow that the books are those of, None for a ledger that never settled. `unread` counts the rows
    that lie in archives which were not read, by chain; `rows` are without them. Of epochs, whose rows are all live, it
    counts those whose manifest, lines and covers do. `strays` are files in the archive that
    the ledger knows nothing of. Per chain the first fault is named; what follows it in that chain cannot be judged.
    """

    rows: Mapping[str, int]
    head: LedgerHead
    trial_balance: TrialBalance
    faults: tuple[LedgerFault, ...] = ()
    bound: BoundEscrow | None = None
    unread: Mapping[str, int] = field(default_factory=dict)
    strays: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults and self.trial_balance.balanced


EPOCH_CHAIN = "epochs"
"""The chain whose rows stay live; its segments carry manifests, lines and covers as well."""

ARCHIVED_CHAINS = (EPOCH_CHAIN, "postings", "receipts", "usage_records")
"""Chains with segments. Attempts stay live for good."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one chain between the heads of two epochs, as one archive run wrote them to a file.

    Positions `first` to `last` are in it; `last` is `first - 1` if the run found no new row, and `file` is empty then.
    `before` and `after` are the chain's hashes at its ends, `digest` the SHA-256 of the file's bytes, `kept_hash` the
    SHA-256 over what stays live of all rows up to `last`; all in lower-case hex. `epoch` is the ledger's number of the
    epoch whose head the segment ends with, `number` that of the run, from 1.
    """

    number: int
    chain: str
    first: int
    last: int
    before: str
    after: str
    epoch: int
    file: str
    digest: str
    kept_hash: str
    at: datetime

    @property
    def rows(self) -> int:
        """How many rows are in its file."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of a whole ledger: rows by table, the size of the file in bytes, and the audit of the copy."""

    rows: Mapping[str, int]
    size: int
    audit: LedgerAudit


@dataclass(frozen=True, slots=True)
class ArchiveWish:
    """How far to archive: only epochs numbered below `before`, only those whose period ended by `until`.

    `over` is the newest epoch of the contract whose challenge, ruling and exit time is over; None for a ledger without
    an escrow. Of the newest `whole` epochs manifests, lines and covers stay live in any case.
    """

    before: int | None = None
    until: datetime | None = None
    over: int | None = None
    whole: int = 100


@dataclass(frozen=True, slots=True)
class Archived:
    """What an archive run did, or would do: its segments, how many rows left the live ledger by table, and how many of
    those it had written before stay live because something needs them.

    `why` says what holds the next epoch back. Without a new segment and without a row to remove nothing was done.
    """

    segments: tuple[Segment, ...]
    removed: Mapping[str, int]
    kept: Mapping[str, int]
    why: str
    bytes: int = 0
    missing: tuple[str, ...] = ()
    """Files of earlier runs that are not in the folder: what is still live of their rows stays."""

    more: bool = False
    """Whether the run ended before it reached what holds it back, so as not to keep an operator waiting."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to archive."""
        return not any(self.removed.values()) and not any(segment.rows for segment in self.segments)
