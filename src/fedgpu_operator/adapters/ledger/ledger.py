"""The ledger as the operator sees it: every call is a coroutine, every write goes through one thread, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from fedgpu_operator.adapters.ledger import attempts, epochs, transactions
from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.domain.books import (
    Attempt,
    AttemptRequest,
    ChainTx,
    Coverage,
    Epoch,
    EpochDraft,
    EpochStage,
    LeaseUsage,
    PairTotal,
    SettlementSnapshot,
    TxState,
    UsageRecord,
)
from fedgpu_operator.domain.money import MicroUSD

P = ParamSpec("P")
T = TypeVar("T")


class SqlLedger:
    """The books of one hub in one file.

    A write that returned is on disk. Every method raises LedgerError where the append contradicts what is held or the
    database fails; instants must carry a time zone. A cancelled call may still have written: all writes may
    be repeated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    @classmethod
    async def open(cls, location: str | Path) -> Self:
        """Open or create the ledger at a path or ``sqlite:///`` URL.

        Raises ConfigurationError for a ledger in memory, another engine, a newer schema or a foreign file.
        """
        return cls(await asyncio.to_thread(Database.open, location))

    async def close(self) -> None:
        """Wait for the write in progress and close the file."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open_attempt(self, request: AttemptRequest, at: datetime) -> Attempt:
        """The attempt of this request: as stored when (job_uid, request_id) is known, else the job's next one.

        Follow the stored terms, or end it and ask with a new `request_id`; never dispatch one that comes back
        ended. Raises LedgerError while another attempt of the job is open.
        """
        return await self._write(attempts.open_attempt, request, at)

    async def current_attempt(self, job_uid: str) -> Attempt | None:
        """The job's open attempt."""
        return await self._read(attempts.current_attempt, job_uid)

    async def attempts(self, job_uid: str) -> tuple[Attempt, ...]:
        """All attempts of a job, oldest first."""
        return await self._read(attempts.attempts_of, job_uid)

    async def open_attempts(self) -> tuple[LeaseUsage, ...]:
        """Every attempt that has not ended, with its newest usage, oldest first."""
        return await self._read(attempts.open_attempts)

    async def end_attempt(self, lease_name: str, outcome: str, at: datetime) -> Attempt:
        """End an attempt; again with the same outcome is no change, with another one a LedgerError."""
        return await self._write(attempts.end_attempt, lease_name, outcome, at)

    async def record_usage(self, lease_name: str, sequence: int, gpu_seconds: int, observed_at: datetime) -> bool:
        """Append cumulative billed usage; False where this very record is held already.

        Raises LedgerError where the sequence or the figure falls, or the same sequence says something else.
        Usage of an ended attempt is taken: a member that was cut off reports late.
        """
        return await self._write(attempts.record_usage, lease_name, sequence, gpu_seconds, observed_at)

    async def last_usage(self, lease_name: str) -> UsageRecord | None:
        """The newest record of a lease."""
        return await self._read(attempts.last_usage, lease_name)

    async def lease_usage(self, lease_name: str) -> LeaseUsage | None:
        """One attempt with its newest usage and cost; None for an unknown lease."""
        return await self._read(attempts.lease_usage, lease_name)

    async def cost_of(self, lease_name: str) -> MicroUSD:
        """What one lease costs alone, in µUSD; 0 for an unknown one."""
        usage = await self.lease_usage(lease_name)
        return usage.cost if usage else MicroUSD(0)

    async def spent(self, job_uid: str) -> MicroUSD:
        """What all attempts of a job cost together, in µUSD, rounded down once."""
        return await self._read(attempts.spent, job_uid)

    async def pair_totals(self, tenant: str | None = None) -> tuple[PairTotal, ...]:
        """Totals by (tenant, provider), sorted; of one tenant where it is named."""
        return await self._read(attempts.pair_totals, tenant)

    async def history(
        self, *, tenant: str | None = None, job_uid: str | None = None, limit: int = 100
    ) -> tuple[LeaseUsage, ...]:
        """Attempts with their usage, newest first."""
        return await self._read(attempts.history, tenant, job_uid, limit)

    async def settlement_snapshot(self) -> SettlementSnapshot:
        """What is owed and what no live epoch covers yet, of one moment."""
        return await self._read(epochs.settlement_snapshot)

    async def coverage(self, lease_name: str) -> Coverage:
        """How far one lease is settled."""
        return await self._read(epochs.coverage, lease_name)

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
        return await self._read(epochs.epoch, number)

    async def epochs(self, limit: int = 100) -> tuple[Epoch, ...]:
        """The last epochs, newest first."""
        return await self._read(epochs.epochs_newest, limit)

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

    async def mark_tx(self, tx_hash: str, state: TxState, block_number: int | None = None) -> None:
        """Say where a transaction stands; LedgerError once it has a final state."""
        await self._write(transactions.mark_tx, tx_hash, state, block_number)

    async def transactions(self, *, epoch: int | None = None, pending_only: bool = False) -> tuple[ChainTx, ...]:
        """Transactions, oldest first."""
        return await self._read(transactions.transactions, epoch, pending_only)

    async def _write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(self._database.write, lambda connection: work(connection, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    async def _read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(self._database.read, lambda connection: work(connection, *args, **kwargs))

    def _close(self) -> None:
        self._writer.shutdown(wait=True)
        self._database.close()
