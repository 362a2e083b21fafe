"""Attempts and what they cost, as functions of one connection; sums of money are made in Python, exactly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Select, func, select, type_coerce, update

from fedgpu_operator.adapters.ledger.calls import Calls, from_database, from_memory, in_transaction
from fedgpu_operator.adapters.ledger.hashchain import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, lease_usage
from fedgpu_operator.adapters.ledger.usage import PairChange, PairKey, add_to_totals, chunks, seal_live, totals_of
from fedgpu_operator.domain import attempts as books
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage, PairLease, Stop
from fedgpu_operator.domain.faults import SUCCEEDED, Ending
from fedgpu_operator.domain.market import ProviderRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import LedgerError

_SECOND = 10**6
"""Microseconds, in which the ledger keeps instants."""


def open_many(
    connection: Connection, requests: Sequence[AttemptRequest], at: datetime
) -> tuple[Attempt | LedgerError, ...]:
    """For each request the attempt that it got before, else the next one of its job; in this order.

    Follow the stored terms, or end the attempt and ask with a new `request_id`; never dispatch one that comes back
    ended. A request whose job has another open attempt gets a LedgerError, which takes nothing back from the others.
    """
    found: list[Attempt | LedgerError] = []
    for request in requests:
        try:
            found.append(_open_attempt(connection, request, at))
        except LedgerError as error:
            found.append(error)
    return tuple(found)


def reenter_attempt(connection: Connection, request: AttemptRequest, number: int, at: datetime) -> Attempt:
    """An attempt that these books have forgotten, under its own number; LedgerError if it cannot follow the newest.

    A request that is known is answered as it is stored.
    """
    if (known := _known(connection, request)) is not None:
        return known
    last = _last(connection, request)
    if number <= last:
        raise LedgerError(f"attempt {number} of job {request.job_name} cannot be put back: the newest is {last}")
    return _append(connection, request, number, at)


def _open_attempt(connection: Connection, request: AttemptRequest, at: datetime) -> Attempt:
    if (known := _known(connection, request)) is not None:
        return known
    return _append(connection, request, _last(connection, request) + 1, at)


def _known(connection: Connection, request: AttemptRequest) -> Attempt | None:
    """The attempt that this request got before."""
    row = connection.execute(
        select(attempts).where(attempts.c.job_uid == request.job_uid, attempts.c.request_id == request.request_id)
    ).one_or_none()
    return None if row is None else _attempt(row)


def _last(connection: Connection, request: AttemptRequest) -> int:
    """The number of the job's newest attempt, 0 if it has none; LedgerError while that is open."""
    running = connection.execute(
        select(attempts.c.lease_name).where(attempts.c.job_uid == request.job_uid, attempts.c.ended_at.is_(None))
    ).scalar_one_or_none()
    if running is not None:
        raise LedgerError(f"attempt {running} of job {request.job_name} has not ended")
    last: int | None = connection.execute(
        select(func.max(attempts.c.attempt)).where(attempts.c.job_uid == request.job_uid)
    ).scalar_one()
    return last or 0


def _append(connection: Connection, request: AttemptRequest, number: int, at: datetime) -> Attempt:
    row: tuple[Field, ...] = (
        books.lease_name(request.job_uid, number),
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
    add_to_totals(connection, {pair_of(request): PairChange(open_attempts=1)})
    return Attempt(request, number, at)


def end_attempt(connection: Connection, lease_name: str, outcome: str, at: datetime) -> Attempt:
    """End an attempt once; the same outcome again changes nothing, another one is a LedgerError."""
    found = attempt_of(connection, lease_name)
    if not outcome:
        raise LedgerError(f"attempt {lease_name} cannot end without an outcome")
    if found.ended_at is None:
        connection.execute(
            update(attempts).where(attempts.c.lease_name == lease_name).values(ended_at=at, outcome=outcome)
        )
        seal_live(connection, lease_usage.c.lease_name == lease_name)
        add_to_totals(connection, {pair_of(found.terms): PairChange(open_attempts=-1, ended_attempts=1)})
        return attempt_of(connection, lease_name)
    if found.outcome != outcome:
        raise LedgerError(f"attempt {lease_name} ended as {found.outcome}, it cannot end as {outcome} too")
    return found


def stop_attempt(connection: Connection, lease_name: str, reason: str, at: datetime) -> Attempt:
    """Keep the decision to stop an open attempt; the first one stays, and one that has ended is left as it is."""
    found = attempt_of(connection, lease_name)
    if not reason:
        raise LedgerError(f"attempt {lease_name} cannot be stopped without a reason")
    if found.ended_at is not None or found.stop is not None:
        return found
    values = {"stop_requested_at": at, "stop_reason": reason}
    connection.execute(update(attempts).where(attempts.c.lease_name == lease_name).values(values))
    return attempt_of(connection, lease_name)


def open_attempts(connection: Connection, tenant: str | None = None) -> tuple[AttemptUsage, ...]:
    """Every attempt that has not ended, with its usage, oldest first; of one tenant if it is named."""
    query = usage_query().where(attempts.c.ended_at.is_(None))
    if tenant is not None:
        query = query.where(attempts.c.tenant == tenant)
    rows = connection.execute(query.order_by(attempts.c.created_at, attempts.c.lease_name))
    return tuple(usage_of_row(row) for row in rows)


def histories(connection: Connection, job_uids: Sequence[str]) -> dict[str, tuple[AttemptUsage, ...]]:
    """Every attempt of these jobs with its usage, oldest first."""
    found: dict[str, list[AttemptUsage]] = {}
    for part in chunks(job_uids):
        query = usage_query().where(attempts.c.job_uid.in_(part)).order_by(attempts.c.job_uid, attempts.c.attempt)
        for row in connection.execute(query):
            found.setdefault(row.job_uid, []).append(usage_of_row(row))
    return {uid: tuple(entries) for uid, entries in found.items()}


def usage_of_lease(connection: Connection, lease_name: str) -> AttemptUsage | None:
    """One attempt with its newest usage; None for a lease the ledger never opened."""
    row = connection.execute(usage_query().where(attempts.c.lease_name == lease_name)).one_or_none()
    return None if row is None else usage_of_row(row)


def first_work(connection: Connection) -> datetime | None:
    """When the first attempt in the chain was opened."""
    found: datetime | None = connection.execute(
        select(attempts.c.created_at).order_by(attempts.c.position).limit(1)
    ).scalar()
    return found


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
    seal_live(connection, lease_usage.c.lease_name.in_(theirs))
    return pair_leases(connection, pair)


def usage_query() -> Select[Any]:
    """Attempts with their newest usage, to be narrowed down."""
    return select(
        attempts,
        func.coalesce(lease_usage.c.gpu_seconds, 0).label("gpu_seconds"),
        func.coalesce(lease_usage.c.sequence, 0).label("sequence"),
    ).join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)


def pair_of(terms: AttemptRequest) -> PairKey:
    """What the books are kept by."""
    return terms.tenant, terms.provider, terms.tenant_wallet, terms.provider_wallet


def attempt_of(connection: Connection, lease_name: str) -> Attempt:
    """The attempt of a lease; LedgerError if none was opened."""
    row = connection.execute(select(attempts).where(attempts.c.lease_name == lease_name)).one_or_none()
    if row is None:
        raise LedgerError(f"no attempt was opened for lease {lease_name}")
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


def provider_records(connection: Connection, since: datetime | None = None) -> tuple[ProviderRecord, ...]:
    """One grouped query over the attempts that have ended."""
    group = (attempts.c.provider, attempts.c.product, attempts.c.outcome)
    lasted = type_coerce(attempts.c.ended_at, BigInteger) - type_coerce(attempts.c.created_at, BigInteger)
    query = select(
        *group,
        func.count().label("attempts"),
        func.sum(attempts.c.gpus).label("gpus"),
        func.sum(lasted).label("microseconds"),
    ).where(attempts.c.ended_at.is_not(None))
    if since is not None:
        query = query.where(attempts.c.ended_at >= since)
    rows = connection.execute(query.group_by(*group).order_by(*group))
    return tuple(
        ProviderRecord(
            provider=row.provider,
            product=row.product,
            outcome=row.outcome,
            attempts=row.attempts,
            gpus=int(row.gpus),
            # PostgreSQL answers a sum of 64-bit numbers as a decimal, which is exact.
            seconds=max(0, int(row.microseconds)) // _SECOND,
        )
        for row in rows
    )


def endings(connection: Connection, since: datetime, outcomes: Collection[str]) -> tuple[Ending, ...]:
    """Each failure, and the newest start of what succeeded, by offer."""
    columns = attempts.c
    failed = (
        select(columns.provider, columns.product, columns.tenant, columns.outcome, columns.created_at, columns.ended_at)
        .where(columns.ended_at >= since, columns.outcome.in_(sorted(outcomes)))
        .order_by(columns.ended_at, columns.lease_name)
    )
    worked = (
        select(columns.provider, columns.product, func.max(columns.created_at), func.max(columns.ended_at))
        .where(columns.ended_at >= since, columns.outcome == SUCCEEDED)
        .group_by(columns.provider, columns.product)
        .order_by(columns.provider, columns.product)
    )
    faults = [
        Ending(f"{provider}/{product}", tenant, outcome, began, ended)
        for provider, product, tenant, outcome, began, ended in connection.execute(failed)
    ]
    successes = [
        Ending(f"{provider}/{product}", "", SUCCEEDED, began, ended)
        for provider, product, began, ended in connection.execute(worked)
    ]
    return (*faults, *successes)


class SqlAttempts(Calls):
    """Attempts of an open ledger (ports.AttemptBook)."""

    open_many = in_transaction(open_many)
    reenter_attempt = in_transaction(reenter_attempt)
    stop_attempt = in_transaction(stop_attempt)
    end_attempt = in_transaction(end_attempt)
    open_attempts = from_memory(open_attempts)
    histories = from_database(histories)
    lease_usage = from_database(usage_of_lease)
    pair_totals = from_memory(totals_of)
    provider_records = from_database(provider_records)
    endings = from_database(endings)
