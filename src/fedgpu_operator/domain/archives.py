"""Archives and copies of the ledger as values: sealed segments, what an archive run did, what a copy holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fedgpu_operator.domain.ledger import LedgerAudit

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

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to archive."""
        return not any(self.removed.values()) and not any(segment.rows for segment in self.segments)
