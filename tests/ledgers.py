"""Short ways to ask a ledger about one attempt or lease, and to see rows that the product only reads in an audit."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.attempts import usage_of_row, usage_query
from fedgpu_operator.adapters.ledger.calls import from_database
from fedgpu_operator.adapters.ledger.schema import attempts, lease_usage, postings, usage_records
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage, UsageRecord
from fedgpu_operator.domain.ledger import Posting, PostingKind
from fedgpu_operator.domain.settlement import Coverage
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.ports import AttemptBook, EpochBook


async def open_attempt(ledger: AttemptBook, request: AttemptRequest, at: datetime) -> Attempt:
    """The attempt of one request; raises the LedgerError that it gets."""
    (opened,) = await ledger.open_many((request,), at)
    if isinstance(opened, LedgerError):
        raise opened
    return opened


async def attempts_of(ledger: AttemptBook, job_uid: str) -> tuple[Attempt, ...]:
    """All attempts of a job, oldest first."""
    return tuple(each.attempt for each in (await ledger.histories((job_uid,))).get(job_uid, ()))


async def current_attempt(ledger: AttemptBook, job_uid: str) -> Attempt | None:
    """The job's open attempt."""
    return next((each for each in await attempts_of(ledger, job_uid) if each.ended_at is None), None)


async def coverage_of(ledger: EpochBook, lease_name: str) -> Coverage:
    """How far one lease is settled."""
    return (await ledger.coverages((lease_name,)))[lease_name]


async def whole_history(ledger: SqlLedger) -> tuple[AttemptUsage, ...]:
    """Every attempt with its newest usage, oldest first."""
    return await from_database(_whole_history)(ledger)


async def readings_of(ledger: SqlLedger, lease_name: str) -> tuple[UsageRecord, ...]:
    """The usage checkpoints of a lease by sequence, and then its newest usage; without what was signed."""
    return await from_database(_readings_of)(ledger, lease_name)


async def postings_of(ledger: SqlLedger, account: str | None = None) -> tuple[Posting, ...]:
    """The live postings, newest first; of one account if it is named."""
    return await from_database(_postings_of)(ledger, account)


def _whole_history(connection: Connection) -> tuple[AttemptUsage, ...]:
    rows = connection.execute(usage_query().order_by(attempts.c.created_at, attempts.c.lease_name))
    return tuple(usage_of_row(row) for row in rows)


def _readings_of(connection: Connection, lease_name: str) -> tuple[UsageRecord, ...]:
    found: dict[int, UsageRecord] = {}
    for table in (usage_records, lease_usage):
        c = table.c
        query = select(c.sequence, c.gpu_seconds, c.observed_at).where(c.lease_name == lease_name).order_by(c.sequence)
        for sequence, gpu_seconds, observed_at in connection.execute(query):
            found[sequence] = UsageRecord(lease_name, sequence, gpu_seconds, observed_at)
    return tuple(found.values())


def _postings_of(connection: Connection, account: str | None) -> tuple[Posting, ...]:
    query = select(postings).order_by(postings.c.entry.desc(), postings.c.leg.desc())
    if account is not None:
        query = query.where(postings.c.account == account)
    return tuple(
        Posting(
            entry=row.entry,
            kind=PostingKind(row.kind),
            tenant=row.tenant_wallet,
            provider=row.provider_wallet,
            account=row.account,
            amount=row.amount,
            at=row.at,
        )
        for row in connection.execute(query)
    )
