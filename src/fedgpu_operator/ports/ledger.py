"""The books, one Protocol per subject: attempts, usage, receipts, epochs, transactions and past prices.

Code takes the narrowest one that it needs. Every method raises LedgerError if a call contradicts what the ledger holds
or the database fails, and nothing else. Instants carry a time zone. Every write may be repeated: the same again changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from fedgpu_operator.domain.attempts import (
    Attempt,
    AttemptRequest,
    AttemptUsage,
    PairLease,
    PairTotal,
    SignedUsage,
    UsageRecord,
)
from fedgpu_operator.domain.faults import Ending
from fedgpu_operator.domain.ledger import (
    CountersignedReceipt,
    LedgerHead,
    Position,
    Posting,
    SealedBooks,
    UsageDispute,
    UsageDisputeState,
)
from fedgpu_operator.domain.market import PriceBucket, PricePoint, ProviderRecord
from fedgpu_operator.domain.settlement import (
    Coverage,
    Epoch,
    EpochDraft,
    EpochHeader,
    EpochStage,
    Pair,
    Receipt,
    SettlementSnapshot,
)
from fedgpu_operator.domain.transactions import ChainTx, Intent, IntentCall, IntentState, TxState
from fedgpu_operator.errors import LedgerError


class AttemptBook(Protocol):
    """Attempts with what they used, how they ended, and what the pairs owe for them."""

    async def open_many(self, requests: Sequence[AttemptRequest], at: datetime) -> tuple[Attempt | LedgerError, ...]:
        """For each request the next attempt of its job, or the one that it got before; in order, in one transaction.

        Follow the terms that come back, and never dispatch an attempt that comes back ended. A request that is refused,
        as while another attempt of its job is open, gets its LedgerError and takes nothing back from the others.
        """
        ...

    async def reenter_attempt(self, request: AttemptRequest, number: int, at: datetime) -> Attempt:
        """Put back an attempt that the ledger has lost, under its own number."""
        ...

    async def stop_attempt(self, lease_name: str, reason: str, at: datetime) -> Attempt:
        """Keep the decision to stop; the first one stays, and an attempt that has ended is left as it is."""
        ...

    async def end_attempt(self, lease_name: str, outcome: str, at: datetime) -> Attempt:
        """End the attempt for good; LedgerError if it ended with another outcome."""
        ...

    async def open_attempts(self, tenant: str | None = None) -> tuple[AttemptUsage, ...]:
        """Every attempt that has not ended, with its newest usage, oldest first; of one tenant if it is named."""
        ...

    async def histories(self, job_uids: Sequence[str]) -> dict[str, tuple[AttemptUsage, ...]]:
        """Every attempt of these jobs with its newest usage, oldest first; jobs without any are left out."""
        ...

    async def lease_usage(self, lease_name: str) -> AttemptUsage | None:
        """One attempt with its newest usage; None for a lease that the ledger never opened."""
        ...

    async def pair_totals(self, tenant: str | None = None) -> tuple[PairTotal, ...]:
        """What each tenant owes each provider since the beginning; of one tenant if it is named."""
        ...

    async def provider_records(self, since: datetime | None = None) -> tuple[ProviderRecord, ...]:
        """How attempts ended, by provider, product and outcome: all, or those that ended since then."""
        ...

    async def endings(self, since: datetime, outcomes: Collection[str]) -> tuple[Ending, ...]:
        """Attempts that ended so since then, and by offer the newest start of what succeeded."""
        ...


class UsageBook(Protocol):
    """Billed usage of leases, and what of a reading is in dispute."""

    async def record_usage(
        self,
        lease_name: str,
        sequence: int,
        gpu_seconds: int,
        observed_at: datetime,
        *,
        signed: SignedUsage | None = None,
    ) -> bool:
        """Keep cumulative billed usage; False if it is held, or older than the newest sequence, which counts."""
        ...

    async def last_usage(self, lease_name: str) -> UsageRecord | None:
        """The newest usage of the lease."""
        ...

    async def dispute_usage(self, dispute: UsageDispute) -> bool:
        """Keep the disputed rest of a reading; False if it is held. An earlier open one is superseded."""
        ...

    async def rule_usage_dispute(
        self, lease_name: str, sequence: int, state: UsageDisputeState, note: str, at: datetime
    ) -> UsageDispute:
        """Close an open dispute of a reading as Granted or Refused, for good."""
        ...

    async def usage_disputes(
        self, *, lease_name: str | None = None, tenant: str | None = None, open_only: bool = False
    ) -> tuple[UsageDispute, ...]:
        """Oldest first; `tenant` is a namespace."""
        ...


class ReceiptBook(Protocol):
    """Receipts that provider and meter signed, and the figures they are made of."""

    async def seal_pair(self, pair: Pair) -> tuple[PairLease, ...]:
        """Every lease between these two wallets, by name, each figure of which the hash chain holds from now on."""
        ...

    async def append_receipt(
        self, receipt: Receipt, provider_signature: bytes, meter_signature: bytes, at: datetime
    ) -> bool:
        """Append a receipt; False if it is held. Neither cumulative nor period end of a pair falls."""
        ...

    async def receipts(
        self, *, tenant: str | None = None, provider: str | None = None, newest_only: bool = True
    ) -> tuple[CountersignedReceipt, ...]:
        """Receipts by pair of wallets, the newest of each or all of them."""
        ...


class EpochBook(Protocol):
    """Settlement epochs, what they are made of, and the double entries of what they moved."""

    async def first_work(self) -> datetime | None:
        """When the first attempt of all was opened."""
        ...

    async def work_to_settle(self) -> bool:
        """Whether work between two wallets is billed, at a price, beyond what live epochs cover."""
        ...

    async def settlement_snapshot(self) -> SettlementSnapshot:
        """One consistent read of all pairs and of the leases that no live epoch covers to the end."""
        ...

    async def head(self) -> LedgerHead:
        """The ends of the hash chains now: kept with an epoch, they bind everything before it."""
        ...

    async def seal(self) -> SealedBooks:
        """`settlement_snapshot`, each figure of which the hash chain holds, and the heads that bind it."""
        ...

    async def store_epoch(self, draft: EpochDraft, at: datetime) -> Epoch:
        """Keep an epoch before it is posted; LedgerError while another one is Prepared or Posted."""
        ...

    async def mark_epoch(
        self,
        number: int,
        stage: EpochStage,
        *,
        chain_epoch: int | None = None,
        post_tx: str | None = None,
        skipped: Collection[str] = (),
    ) -> Epoch:
        """Move an epoch along its stages; leases of `skipped` tenant wallets are no longer covered by it."""
        ...

    async def epoch(self, number: int) -> Epoch | None:
        """One epoch by the ledger's number."""
        ...

    async def epochs(self, limit: int = 100) -> tuple[Epoch, ...]:
        """Newest first."""
        ...

    async def epoch_headers(self, limit: int = 100) -> tuple[EpochHeader, ...]:
        """Newest first, without manifests, lines and covers."""
        ...

    async def coverages(self, lease_names: Collection[str]) -> dict[str, Coverage]:
        """How far each of these leases is settled; LedgerError if one of them was never opened."""
        ...

    async def archived_until(self) -> int:
        """The number of the newest epoch that is archived; 0 without any."""
        ...

    async def post(
        self, positions: Sequence[Position], at: datetime, *, block: int | None = None
    ) -> tuple[Posting, ...]:
        """Append what changed since the last positions as double entries; those of an older block change nothing."""
        ...


class TransactionBook(Protocol):
    """What is to be done on chain, and the signed transactions that carry it."""

    async def open_intent(
        self,
        key: str,
        kind: str,
        epoch: int | None,
        sender: str,
        nonce: int,
        to: str,
        data: bytes,
        at: datetime,
    ) -> Intent:
        """Write down what is to be done before it is signed; the sender's open intent of that key stands as it is."""
        ...

    async def amend_intent(self, intent: int, to: str, data: bytes, why: str, at: datetime) -> IntentCall:
        """Write down the call that takes the place of an open intent's newest one, at the same nonce."""
        ...

    async def close_intent(self, intent: int, state: IntentState) -> Intent:
        """Done once a version is finalized; Dead only if every version is final and none is."""
        ...

    async def intents(self, *, sender: str | None = None, open_only: bool = False) -> tuple[Intent, ...]:
        """Oldest first."""
        ...

    async def intent_calls(self, intent: int) -> tuple[IntentCall, ...]:
        """The calls of an intent by number: the one it was written with is 0."""
        ...

    async def store_tx(self, tx: ChainTx, at: datetime) -> None:
        """Keep signed bytes before they are broadcast."""
        ...

    async def mark_tx(
        self, tx_hash: str, state: TxState, block_number: int | None = None, at: datetime | None = None
    ) -> None:
        """Note where a transaction stands; `at` of the first Broadcast is kept as when a node took it."""
        ...

    async def transactions(
        self, *, epoch: int | None = None, intent: int | None = None, pending_only: bool = False
    ) -> tuple[ChainTx, ...]:
        """Oldest first."""
        ...


class PriceHistory(Protocol):
    """Market prices of the past; no money of anybody's, so they are forgotten."""

    async def record_prices(self, points: Sequence[PricePoint]) -> int:
        """Keep market prices, rolled up by minute, hour and day; how many there were."""
        ...

    async def forget_prices(self, now: datetime) -> int:
        """Drop prices that are older than their kind is kept; how many."""
        ...

    async def price_history(
        self, since: datetime, *, span: int = 3600, product: str | None = None, region: str | None = None
    ) -> tuple[PriceBucket, ...]:
        """Prices by product, region and time, in buckets of 60, 3,600 or 86,400 seconds."""
        ...


class Ledger(AttemptBook, UsageBook, ReceiptBook, EpochBook, TransactionBook, PriceHistory, Protocol):
    """All the books in one database, and the connection that writes to it."""

    @property
    def session(self) -> int:
        """Rises whenever the connection that writes was made again: it may lead to an older copy then."""
        ...

    @property
    def silent(self) -> bool:
        """Whether the database does not answer: until it does, every call fails immediately."""
        ...

    def compared(self, session: int) -> None:
        """The ledger of that session is as new as the world, or its gaps are known: it may be written again."""
        ...

    async def close(self) -> None:
        """Close the database."""
        ...
