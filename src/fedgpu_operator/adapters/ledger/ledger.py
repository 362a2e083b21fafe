"""The ledger as the operator sees it: what can be asked of it and appended to it, one method per statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

from fedgpu_operator.adapters.ledger import (
    archiving,
    attempts,
    audit,
    binding,
    chaining,
    epochs,
    intents,
    journal,
    receipts,
    totals,
    transactions,
    usage,
)
from fedgpu_operator.adapters.ledger.batches import BatchCalls
from fedgpu_operator.adapters.ledger.records import MarketCalls
from fedgpu_operator.domain.books import (
    Attempt,
    AttemptRequest,
    AttemptUsage,
    ChainTx,
    Coverage,
    Epoch,
    EpochDraft,
    EpochHeader,
    EpochStage,
    PairLease,
    PairTotal,
    SettlementSnapshot,
    SignedUsage,
    TxState,
    UsageRecord,
)
from fedgpu_operator.domain.ledger import (
    BoundEscrow,
    BulkResult,
    CountersignedReceipt,
    Intent,
    IntentCall,
    IntentState,
    LedgerAudit,
    LedgerHead,
    Position,
    Posting,
    SealedBooks,
    Segment,
    TrialBalance,
    UsageDispute,
    UsageDisputeState,
)
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair, Receipt
from fedgpu_operator.errors import ConfigurationError


class SqlLedger(BatchCalls, MarketCalls):
    """The books of one hub, in an SQLite file or a PostgreSQL database.

    A write that returned is kept for good. Every method raises LedgerError where the append contradicts what is held
    or the database fails; instants must carry a time zone. A cancelled call may still have written: all writes may be
    repeated.
    """

    async def bind(self, chain_id: int, escrow: str) -> None:
        """Tie the books to one escrow, by its EIP-55 address, before anything is settled in it; again is no change.

        All figures count from the first epoch in one contract: another one would be made to pay all work again.
        Raises ConfigurationError where the books are those of another escrow.
        """
        wanted = BoundEscrow(chain_id, escrow)
        held = await self._write(binding.bind, wanted)
        if held != wanted:
            raise ConfigurationError(
                f"the ledger holds the books of {held}, but configured is {wanted}, which would be made to pay all "
                "work again: set FEDGPU_CHAIN_ID and FEDGPU_ESCROW_ADDRESS back, or, once all epochs there are paid, "
                "name a new ledger with FEDGPU_LEDGER; books cannot be moved from one escrow to another yet"
            )

    async def bound(self) -> BoundEscrow | None:
        """The escrow whose books these are; None before anything is settled."""
        return await self._look(binding.bound)

    async def open_attempt(self, request: AttemptRequest, at: datetime) -> Attempt:
        """The attempt of this request: as stored when (job_uid, request_id) is known, else the job's next one.

        Follow the stored terms, or end it and ask with a new `request_id`; never dispatch one that comes back
        ended. Raises LedgerError while another attempt of the job is open.
        """
        return await self._write(attempts.open_attempt, request, at)

    async def reenter_attempt(self, request: AttemptRequest, number: int, at: datetime) -> Attempt:
        """Put back an attempt that the ledger has forgotten, under its own number and open since `at`.

        The same again changes nothing. Raises LedgerError while another attempt of the job is open, and for a number
        that is not above the newest: attempts are chained in their order.
        """
        return await self._write(attempts.reenter_attempt, request, number, at)

    async def current_attempt(self, job_uid: str) -> Attempt | None:
        """The job's open attempt."""
        return await self._look(attempts.current_attempt, job_uid)

    async def attempts(self, job_uid: str) -> tuple[Attempt, ...]:
        """All attempts of a job, oldest first."""
        return await self._look(attempts.attempts_of, job_uid)

    async def open_attempts(self, tenant: str | None = None) -> tuple[AttemptUsage, ...]:
        """Every attempt that has not ended, with its newest usage, oldest first; of one tenant if it is named."""
        return await self._read(attempts.open_attempts, tenant)

    async def end_attempt(self, lease_name: str, outcome: str, at: datetime) -> Attempt:
        """End an attempt; again with the same outcome is no change, with another one a LedgerError."""
        return await self._write(attempts.end_attempt, lease_name, outcome, at)

    async def stop_attempt(self, lease_name: str, reason: str, at: datetime) -> Attempt:
        """Keep the decision to stop an attempt. The first one stays; an attempt that has ended is left as it is."""
        return await self._write(attempts.stop_attempt, lease_name, reason, at)

    async def record_usage(
        self,
        lease_name: str,
        sequence: int,
        gpu_seconds: int,
        observed_at: datetime,
        *,
        signed: SignedUsage | None = None,
    ) -> bool:
        """Keep cumulative billed usage as the lease's newest; False if it changes nothing.

        That is: this very record is held, however it was signed, or it comes late, with a sequence below the newest: it
        bills nothing and is not kept. A usage checkpoint is made of it if one is due (usage.CHECKPOINT) or the attempt
        has ended; usage of an ended attempt is taken, since a member that was cut off reports late. Raises LedgerError
        if the same sequence, as far as it is held, has other figures, or a later one has the smaller figure.
        """
        record = UsageRecord(lease_name, sequence, gpu_seconds, observed_at, signed)
        return await self._write(usage.record_usage, record)

    async def record_many(self, records: Iterable[UsageRecord]) -> BulkResult:
        """`record_usage` of many, in any order, with any duplicates, in one transaction; other writes wait for it.

        What contradicts is left out and reported; which of two that is does not depend on their order.
        """
        # A write may be run twice, and an iterator yields once.
        return await self._write(usage.record_many, tuple(records))

    async def last_usage(self, lease_name: str) -> UsageRecord | None:
        """The newest usage of a lease."""
        return await self._look(usage.last_usage, lease_name)

    async def usage(self, lease_name: str) -> tuple[UsageRecord, ...]:
        """The usage checkpoints of a lease, by sequence, and then its newest usage."""
        return await self._look(usage.usage_of, lease_name)

    async def dispute_usage(self, dispute: UsageDispute) -> bool:
        """Keep the disputed rest of a reading; False where it is held already. An earlier open one is superseded."""
        return await self._write(receipts.dispute_usage, dispute)

    async def rule_usage_dispute(
        self, lease_name: str, sequence: int, state: UsageDisputeState, note: str, at: datetime
    ) -> UsageDispute:
        """Close an open dispute as Granted or Refused, for good."""
        return await self._write(receipts.rule_usage_dispute, lease_name, sequence, state, note, at)

    async def usage_disputes(
        self, *, lease_name: str | None = None, tenant: str | None = None, open_only: bool = False
    ) -> tuple[UsageDispute, ...]:
        """Disputes, oldest first; of one lease or one tenant's namespace where it is named."""
        return await self._read(receipts.disputes_of, lease_name, tenant, open_only=open_only)

    async def append_receipt(
        self, receipt: Receipt, provider_signature: bytes, meter_signature: bytes, at: datetime
    ) -> bool:
        """Append a receipt; False where the same statement is held already.

        Raises LedgerError where cumulative or period end of the pair falls, or the same two name another usage root.
        """
        signed = CountersignedReceipt(receipt, provider_signature, meter_signature, at)
        return await self._write(receipts.append_receipt, signed)

    async def receipts(
        self, *, tenant: str | None = None, provider: str | None = None, newest_only: bool = True
    ) -> tuple[CountersignedReceipt, ...]:
        """Receipts by tenant wallet, provider wallet and time; the newest of each pair, or all of them."""
        if not newest_only:
            return await self._look(receipts.receipts_of, tenant, provider, newest_only=False)
        return await self._read(receipts.receipts_of, tenant, provider, newest_only=True)

    async def lease_usage(self, lease_name: str) -> AttemptUsage | None:
        """One attempt with its newest usage and cost; None for an unknown lease."""
        return await self._look(attempts.usage_of_lease, lease_name)

    async def cost_of(self, lease_name: str) -> MicroUSD:
        """What one lease costs alone, in µUSD; 0 for an unknown one."""
        usage = await self.lease_usage(lease_name)
        return usage.cost if usage else MicroUSD(0)

    async def spent(self, job_uid: str) -> MicroUSD:
        """What all attempts of a job cost together, in µUSD, rounded down once."""
        return await self._look(attempts.spent, job_uid)

    async def pair_totals(self, tenant: str | None = None) -> tuple[PairTotal, ...]:
        """Totals by (tenant, provider), sorted; of one tenant where it is named."""
        return await self._read(totals.totals_of, tenant)

    async def history(
        self, *, tenant: str | None = None, job_uid: str | None = None, limit: int = 100
    ) -> tuple[AttemptUsage, ...]:
        """Attempts with their usage, newest first."""
        return await self._look(attempts.history, tenant, job_uid, limit)

    async def pair_leases(self, pair: Pair) -> tuple[PairLease, ...]:
        """Every lease between two wallets, by name."""
        return await self._look(attempts.pair_leases, pair)

    async def seal_pair(self, pair: Pair) -> tuple[PairLease, ...]:
        """`pair_leases`, after a usage checkpoint was made of each figure: the evidence of a receipt over them."""
        return await self._write(attempts.seal_pair, pair)

    async def first_work(self) -> datetime | None:
        """When the first attempt of all was opened; None before there was any."""
        return await self._read(attempts.first_work)

    async def settlement_snapshot(self) -> SettlementSnapshot:
        """What is owed and what no live epoch covers yet, of one moment."""
        return await self._read(epochs.settlement_snapshot)

    async def seal(self) -> SealedBooks:
        """`settlement_snapshot` and `head`, after a usage checkpoint was made of each newer figure, in one transaction.

        An epoch is made of this, so that the heads in its manifest bind what it pays.
        """
        return await self._write(epochs.seal)

    async def coverage(self, lease_name: str) -> Coverage:
        """How far one lease is settled; LedgerError for a lease that was never opened."""
        return (await self.coverages((lease_name,)))[lease_name]

    async def coverages(self, lease_names: Collection[str]) -> dict[str, Coverage]:
        """How far each of these leases is settled, in few queries; LedgerError if one of them was never opened."""
        return await self._look(epochs.coverages, tuple(lease_names))

    async def store_epoch(self, draft: EpochDraft, at: datetime) -> Epoch:
        """Keep a prepared epoch with its lines and covers, all or nothing; the same manifest gives the same epoch.

        Raises LedgerError while another epoch is Prepared or Posted, or where a cover exceeds what is billed.
        """
        return await self._write(epochs.store_epoch, draft, at)

    async def open_epoch(self) -> Epoch | None:
        """The one epoch that is Prepared or Posted."""
        return await self._read(epochs.open_epoch)

    async def epoch(self, number: int) -> Epoch | None:
        """One epoch by the ledger's number."""
        return await self._look(epochs.epoch, number)

    async def epoch_with_manifest(self, manifest_hash: str) -> Epoch | None:
        """The newest epoch whose manifest has that hash, a ``0x…`` string in lower case."""
        return await self._look(epochs.epoch_with_manifest, manifest_hash)

    async def epochs(self, limit: int = 100) -> tuple[Epoch, ...]:
        """The last epochs, newest first."""
        return await self._read(epochs.epochs_newest, limit)

    async def epoch_headers(self, limit: int = 100) -> tuple[EpochHeader, ...]:
        """The last epochs without manifest, lines and covers, newest first."""
        return await self._read(epochs.headers_newest, limit)

    async def mark_epoch(
        self,
        number: int,
        stage: EpochStage,
        *,
        chain_epoch: int | None = None,
        post_tx: str | None = None,
        skipped: Collection[str] = (),
    ) -> Epoch:
        """Move an epoch along its stages; `skipped` tenant wallets are no longer covered by it.

        Raises LedgerError for a step that `epochs.NEXT_STAGES` does not know.
        """
        return await self._write(epochs.mark_epoch, number, stage, chain_epoch, post_tx, skipped)

    async def store_tx(self, tx: ChainTx, at: datetime) -> None:
        """Keep a transaction before it is sent."""
        await self._write(transactions.store_tx, tx, at)

    async def mark_tx(
        self, tx_hash: str, state: TxState, block_number: int | None = None, at: datetime | None = None
    ) -> None:
        """Say where a transaction stands; LedgerError once it has a final state.

        `at` of the first Broadcast is kept: it is when a node took it.
        """
        await self._write(transactions.mark_tx, tx_hash, state, block_number, at)

    async def transactions(
        self, *, epoch: int | None = None, intent: int | None = None, pending_only: bool = False
    ) -> tuple[ChainTx, ...]:
        """Transactions, oldest first."""
        return await self._read(transactions.transactions, epoch, intent, pending_only)

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
        """Write down what is to be done on chain before it is signed; or the sender's open intent of that key.

        Follow the terms that come back. Raises LedgerError while the sender has another open intent.
        """
        return await self._write(intents.open_intent, Intent(0, key, kind, epoch, sender, nonce, to, data, at))

    async def amend_intent(self, intent: int, to: str, data: bytes, why: str, at: datetime) -> IntentCall:
        """Write down the call that takes the place of an open intent's newest one, before it is signed.

        The same as the newest changes nothing. Raises LedgerError for an intent that is closed.
        """
        return await self._write(intents.amend_intent, intent, to, data, why, at)

    async def intent_calls(self, intent: int) -> tuple[IntentCall, ...]:
        """The calls of an intent: the one it was written with, then those that took its place."""
        return await self._read(intents.calls_of, intent)

    async def close_intent(self, intent: int, state: IntentState) -> Intent:
        """Close an intent: Done where a version of it is Finalized, Dead where none can be mined any more.

        Raises LedgerError where its versions say otherwise.
        """
        return await self._write(intents.close_intent, intent, state)

    async def intents(self, *, sender: str | None = None, open_only: bool = False) -> tuple[Intent, ...]:
        """Intents, oldest first."""
        return await self._read(intents.intents, sender, open_only=open_only)

    async def post(
        self, positions: Iterable[Position], at: datetime, *, block: int | None = None
    ) -> tuple[Posting, ...]:
        """Append the double entries that lead from the last positions to these (settlement.journal); none, if none do.

        Positions of an older finalized block than the newest posted change nothing. Raises LedgerError where what was
        charged, paid or refunded has fallen.
        """
        return await self._write(journal.post, tuple(positions), at, block)

    async def trial_balance(self) -> TrialBalance:
        """Whether all that was ever posted sums to zero, and each entry by itself."""
        return await self._look(journal.trial_balance)

    async def balances(self) -> dict[str, int]:
        """The balance of each account, in µUSD, by name."""
        return await self._read(journal.balances)

    async def postings(self, *, account: str | None = None, limit: int = 100) -> tuple[Posting, ...]:
        """The last postings, newest first."""
        return await self._look(journal.postings_newest, account, limit)

    async def head(self) -> LedgerHead:
        """The ends of the hash chains now; kept with an epoch, they bind everything that came before it."""
        return await self._read(chaining.head)

    async def verify(self, archive: Path | None = None) -> LedgerAudit:
        """Read everything, and name the first row of each chain that was altered, taken out, put in or moved.

        What is archived is read from the folder `archive`; without one it is counted as unread.
        """
        return await self._look(audit.verify, archive)

    async def archived_until(self) -> int:
        """The number of the newest epoch that is archived; 0 for none."""
        return await self._look(archiving.archived_until)

    async def segments(self) -> tuple[Segment, ...]:
        """The segments of the chains that are archived, by run and chain."""
        return await self._look(archiving.archived)
