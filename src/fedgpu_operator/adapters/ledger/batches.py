"""What the ledger does for many jobs at once: one transaction, one query."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from fedgpu_operator.adapters.ledger.attempts import open_attempt, usage_of_row, usage_query
from fedgpu_operator.adapters.ledger.calls import Calls
from fedgpu_operator.adapters.ledger.schema import attempts
from fedgpu_operator.domain.books import Attempt, AttemptRequest, AttemptUsage
from fedgpu_operator.errors import LedgerError

JOBS_AT_ONCE = 500
"""In one query; an engine takes only so many parameters."""


class BatchCalls(Calls):
    """The part of the ledger that takes many jobs at once."""

    async def open_many(self, requests: Sequence[AttemptRequest], at: datetime) -> tuple[Attempt | LedgerError, ...]:
        """`open_attempt` for each, in this order and in one transaction: many jobs wait for one commit."""
        return await self._write(open_many, requests, at)

    async def histories(self, job_uids: Sequence[str]) -> dict[str, tuple[AttemptUsage, ...]]:
        """Every attempt of these jobs with its newest usage, oldest first; jobs without any are left out."""
        return await self._look(histories, job_uids)


def open_many(
    connection: Connection, requests: Sequence[AttemptRequest], at: datetime
) -> tuple[Attempt | LedgerError, ...]:
    """What `open_attempt` says to each, in this order; the refusal of one writes nothing and takes nothing back."""
    found: list[Attempt | LedgerError] = []
    for request in requests:
        try:
            found.append(open_attempt(connection, request, at))
        except LedgerError as error:
            found.append(error)
    return tuple(found)


def histories(connection: Connection, job_uids: Sequence[str]) -> dict[str, tuple[AttemptUsage, ...]]:
    """Every attempt of these jobs with its usage, oldest first."""
    found: dict[str, list[AttemptUsage]] = {}
    for begin in range(0, len(job_uids), JOBS_AT_ONCE):
        part = job_uids[begin : begin + JOBS_AT_ONCE]
        query = usage_query().where(attempts.c.job_uid.in_(part)).order_by(attempts.c.job_uid, attempts.c.attempt)
        for row in connection.execute(query):
            found.setdefault(row.job_uid, []).append(usage_of_row(row))
    return {uid: tuple(entries) for uid, entries in found.items()}
