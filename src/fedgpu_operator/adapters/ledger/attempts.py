"""Attempts and what they cost, as functions of one connection; sums of money are made in Python, exactly."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from fedgpu_operator.adapters.ledger import live, totals
from fedgpu_operator.adapters.ledger.chaining import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, lease_usage
from fedgpu_operator.domain.books import Attempt, AttemptRequest, AttemptUsage, PairLease, Stop, lease_name
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.metering import receipt_cumulative


def open_attempt(connection: Connection, request: AttemptRequest, at: datetime) -> Attempt:
    """The attempt that this request got before, else the job's next one; LedgerError while another is open."""
    known = connection.execute(
        select(attempts).where(attempts.c.job_uid == request.job_uid, attempts.c.request_id == request.request_id)
    ).one_or_none()
    if known is not None:
        return _attempt(known)
    return _append(connection, request, _last(connection, request) + 1, at)


def reenter_attempt(connection: Connection, request: AttemptRequest, number: int, at: datetime) -> Attempt:
    """An attempt that these books have forgotten, under its own number; LedgerError where it cannot follow the newest.

    A request that is known is answered as it is stored.
    """
    known = connection.execute(
        select(attempts).where(attempts.c.job_uid == request.job_uid, attempts.c.request_id == request.request_id)
    ).one_or_none()
    if known is not None:
        return _attempt(known)
    last = _last(connection, request)
    if number <= last:
        raise LedgerError(f"attempt {number} of job {request.job_name} cannot be put back: the newest is {last}")
    return _append(connection, request, number, at)


def _last(connection: Connection, request: AttemptRequest) -> int:
    """The number of the job's newest attempt, 0 if it has none; LedgerError while that is open."""
    running = current_attempt(connection, request.job_uid)
    if running is not None:
        raise LedgerError(f"attempt {running.lease_name} of job {request.job_name} has not ended")
    last: int | None = connection.execute(
        select(func.max(attempts.c.attempt)).where(attempts.c.job_uid == request.job_uid)
    ).scalar_one()
    return last or 0


def _append(connection: Connection, request: AttemptRequest, number: int, at: datetime) -> Attempt:
    row: tuple[Field, ...] = (
        lease_name(request.job_uid, number),
        request.job_uid,
        number,
        request.request_id,
        request.tenant,
        request.job_name,
        request.provider,
        request.product,
        request.price,
        request.gpus,
        request.run_limit,
        request.tenant_wallet,
        request.provider_wallet,
        stamp(at),
    )
    append(connection, attempts, [row])
    totals.add(connection, {pair_of(request): totals.Change(open_attempts=1)})
    return Attempt(request, number, at)


def current_attempt(connection: Connection, job_uid: str) -> Attempt | None:
    """The job's open attempt, None where there is none."""
    row = connection.execute(
        select(attempts).where(attempts.c.job_uid == job_uid, attempts.c.ended_at.is_(None))
    ).one_or_none()
    return None if row is None else _attempt(row)


def attempts_of(connection: Connection, job_uid: str) -> tuple[Attempt, ...]:
    """All attempts of a job, oldest first."""
    rows = connection.execute(select(attempts).where(attempts.c.job_uid == job_uid).order_by(attempts.c.attempt))
    return tuple(_attempt(row) for row in rows)


def end_attempt(connection: Connection, lease: str, outcome: str, at: datetime) -> Attempt:
    """End an attempt once; the same outcome again changes nothing, another one is a LedgerError."""
    found = attempt_of(connection, lease)
    if not outcome:
        raise LedgerError(f"attempt {lease} cannot end without an outcome")
    if found.ended_at is None:
        connection.execute(update(attempts).where(attempts.c.lease_name == lease).values(ended_at=at, outcome=outcome))
        live.seal(connection, lease_usage.c.lease_name == lease)
        totals.add(connection, {pair_of(found.terms): totals.Change(open_attempts=-1, ended_attempts=1)})
        return attempt_of(connection, lease)
    if found.outcome != outcome:
        raise LedgerError(f"attempt {lease} ended as {found.outcome}, it cannot end as {outcome} too")
    return found


def stop_attempt(connection: Connection, lease: str, reason: str, at: datetime) -> Attempt:
    """Keep the decision to stop an open attempt; the first one stays, and one that has ended is left as it is."""
    found = attempt_of(connection, lease)
    if not reason:
        raise LedgerError(f"attempt {lease} cannot be stopped without a reason")
    if found.ended_at is not None or found.stop is not None:
        return found
    values = {"stop_requested_at": at, "stop_reason": reason}
    connection.execute(update(attempts).where(attempts.c.lease_name == lease).values(values))
    return attempt_of(connection, lease)


def usage_of_lease(connection: Connection, lease: str) -> AttemptUsage | None:
    """One attempt with its newest usage; None for a lease the ledger never opened."""
    row = connection.execute(usage_query().where(attempts.c.lease_name == lease)).one_or_none()
    return None if row is None else usage_of_row(row)


def history(connection: Connection, tenant: str | None, job_uid: str | None, limit: int) -> tuple[AttemptUsage, ...]:
    """Attempts with their usage, newest first."""
    query = usage_query().order_by(attempts.c.created_at.desc(), attempts.c.lease_name.desc()).limit(limit)
    if tenant is not None:
        query = query.where(attempts.c.tenant == tenant)
    if job_uid is not None:
        query = query.where(attempts.c.job_uid == job_uid)
    return tuple(usage_of_row(row) for row in connection.execute(query))


def open_attempts(connection: Connection, tenant: str | None) -> tuple[AttemptUsage, ...]:
    """Every attempt that has not ended, with its usage, oldest first; of one tenant if it is named."""
    query = usage_query().where(attempts.c.ended_at.is_(None))
    if tenant is not None:
        query = query.where(attempts.c.tenant == tenant)
    rows = connection.execute(query.order_by(attempts.c.created_at, attempts.c.lease_name))
    return tuple(usage_of_row(row) for row in rows)


def spent(connection: Connection, job_uid: str) -> MicroUSD:
    """What all attempts of a job cost together, in µUSD, rounded down once."""
    rows = connection.execute(usage_query().where(attempts.c.job_uid == job_uid))
    return receipt_cumulative(usage_of_row(row).numerator for row in rows)


def pair_leases(connection: Connection, pair: Pair) -> tuple[PairLease, ...]:
    """Every lease between two wallets with its newest usage, by name."""
    rows = connection.execute(
        select(
            attempts.c.lease_name,
            attempts.c.price,
            attempts.c.ended_at,
            lease_usage.c.gpu_seconds,
            lease_usage.c.observed_at,
        )
        .join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)
        .where(attempts.c.tenant_wallet == pair[0], attempts.c.provider_wallet == pair[1])
        .order_by(attempts.c.lease_name)
    )
    return tuple(
        PairLease(row.lease_name, MicroUSD(row.price), row.gpu_seconds or 0, row.observed_at, row.ended_at is None)
        for row in rows
    )


def seal_pair(connection: Connection, pair: Pair) -> tuple[PairLease, ...]:
    """`pair_leases`, each figure of which is a usage checkpoint from now on."""
    theirs = select(attempts.c.lease_name).where(
        attempts.c.tenant_wallet == pair[0], attempts.c.provider_wallet == pair[1]
    )
    live.seal(connection, lease_usage.c.lease_name.in_(theirs))
    return pair_leases(connection, pair)


def usage_query() -> Select[Any]:
    """Attempts with their newest usage, to be narrowed down."""
    return select(
        attempts,
        func.coalesce(lease_usage.c.gpu_seconds, 0).label("gpu_seconds"),
        func.coalesce(lease_usage.c.sequence, 0).label("sequence"),
    ).join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)


def pair_of(terms: AttemptRequest) -> totals.PairKey:
    """What the books are kept by."""
    return terms.tenant, terms.provider, terms.tenant_wallet, terms.provider_wallet


def attempt_of(connection: Connection, lease: str) -> Attempt:
    """The attempt of a lease; LedgerError where none was opened."""
    row = connection.execute(select(attempts).where(attempts.c.lease_name == lease)).one_or_none()
    if row is None:
        raise LedgerError(f"no attempt was opened for lease {lease}")
    return _attempt(row)


def usage_of_row(row: Row[Any]) -> AttemptUsage:
    """A row of `usage_query`."""
    return AttemptUsage(_attempt(row), row.gpu_seconds, row.sequence)


def _attempt(row: Row[Any]) -> Attempt:
    terms = AttemptRequest(
        job_uid=row.job_uid,
        request_id=row.request_id,
        tenant=row.tenant,
        job_name=row.job_name,
        provider=row.provider,
        product=row.product,
        price=MicroUSD(row.price),
        gpus=row.gpus,
        run_limit=row.run_limit,
        tenant_wallet=row.tenant_wallet,
        provider_wallet=row.provider_wallet,
    )
    stop = None if row.stop_requested_at is None else Stop(row.stop_reason, row.stop_requested_at)
    return Attempt(terms, row.attempt, row.created_at, row.ended_at, row.outcome, stop)


def first_work(connection: Connection) -> datetime | None:
    """When the first attempt in the chain was opened."""
    found: datetime | None = connection.execute(
        select(attempts.c.created_at).order_by(attempts.c.position).limit(1)
    ).scalar()
    return found
