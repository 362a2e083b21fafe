"""Appends billed usage, one record or very many, and finds what contradicts it; functions of one connection."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, select, type_coerce

from fedgpu_operator.adapters.ledger.attempts import attempt_of
from fedgpu_operator.adapters.ledger.chaining import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, instant, microseconds, usage_records
from fedgpu_operator.domain.books import SignedUsage, UsageRecord
from fedgpu_operator.domain.ledger import BulkResult, RefusedUsage
from fedgpu_operator.errors import LedgerError

LEASES_AT_ONCE = 500
"""Leases whose records are read together: far below the number of parameters that any engine takes."""

MAX_INT = 2**63 - 1
"""What a column holds."""

Held = tuple[int, int, int]
"""(sequence, gpu-seconds, microseconds since 1970)."""


def record_usage(connection: Connection, record: UsageRecord) -> bool:
    """Append one cumulative figure; False where this very record was there already, LedgerError where it contradicts.

    A record that comes late fits between its neighbours in sequence, or contradicts one of them.
    """
    attempt_of(connection, record.lease_name)
    why = _Books(record.lease_name, _around(connection, record)).judge(_facts(record))
    if why:
        raise LedgerError(why)
    if why is None:
        return False
    append(connection, usage_records, [_values(record)])
    return True


def record_many(connection: Connection, records: Iterable[UsageRecord]) -> BulkResult:
    """Append records in any order, with any duplicates; what contradicts is left out and reported.

    The outcome does not depend on the order in which they come: they are taken by lease, sequence and figure, so of
    two that contradict each other the earlier sequence stays, and of one sequence the lower figure.
    """
    by_lease = groupby(sorted(records, key=_order), key=attrgetter("lease_name"))
    appended = known = 0
    refused: list[RefusedUsage] = []
    while batch := {lease: list(theirs) for lease, theirs in islice(by_lease, LEASES_AT_ONCE)}:
        opened, held = _opened(connection, batch), _held(connection, batch)
        fresh: list[UsageRecord] = []
        for lease, theirs in batch.items():
            if lease not in opened:
                refused += [RefusedUsage(record, f"no attempt was opened for lease {lease}") for record in theirs]
                continue
            taken, contradicting = _Books(lease, held[lease]).take(theirs)
            fresh += taken
            refused += contradicting
            known += len(theirs) - len(taken) - len(contradicting)
        append(connection, usage_records, map(_values, fresh))
        appended += len(fresh)
    return BulkResult(appended, known, tuple(refused))


def last_usage(connection: Connection, lease: str) -> UsageRecord | None:
    """The newest record of a lease."""
    row = connection.execute(
        select(usage_records)
        .where(usage_records.c.lease_name == lease)
        .order_by(usage_records.c.sequence.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _record(row)


def usage_of(connection: Connection, lease: str) -> tuple[UsageRecord, ...]:
    """All records of a lease, by sequence."""
    rows = connection.execute(
        select(usage_records).where(usage_records.c.lease_name == lease).order_by(usage_records.c.sequence)
    )
    return tuple(_record(row) for row in rows)


class _Books:
    """What is held of one lease, in rising order, and what may join it."""

    def __init__(self, lease: str, held: Iterable[Held]) -> None:
        self._lease, self._held = lease, sorted(held)

    def take(self, records: Iterable[UsageRecord]) -> tuple[list[UsageRecord], list[RefusedUsage]]:
        """Judge records one after the other: those that are new, and those that contradict."""
        taken, refused = [], []
        for record in records:
            facts = _facts(record)
            why = self.judge(facts)
            if why:
                refused.append(RefusedUsage(record, why))
            elif why is not None:
                insort(self._held, facts)
                taken.append(record)
        return taken, refused

    def judge(self, facts: Held) -> str | None:
        """Why this cannot be true beside what is held; empty where it can, None where this very record is held."""
        sequence, gpu_seconds, _ = facts
        if not (0 < sequence <= MAX_INT and 0 <= gpu_seconds <= MAX_INT):
            return f"usage of {self._lease}: no ledger holds {gpu_seconds} gpu-seconds at {sequence}"
        at = bisect_left(self._held, (sequence,))
        below = self._held[at - 1] if at else None
        above = self._held[at] if at < len(self._held) else None
        if above is not None and above[0] == sequence:
            return None if above == facts else f"usage of {self._lease}: {_said(facts)} contradicts {_said(above)}"
        if below is not None and below[1] > gpu_seconds:
            return f"usage of {self._lease} only rises: {_said(facts)} after {_said(below)}"
        if above is not None and above[1] < gpu_seconds:
            return f"usage of {self._lease} only rises: {_said(facts)} before {_said(above)}"
        return ""


def _around(connection: Connection, record: UsageRecord) -> list[Held]:
    """The record of that sequence and its two neighbours, where they are held: three index seeks."""
    lease, sequence = usage_records.c.lease_name, usage_records.c.sequence
    query = select(sequence, usage_records.c.gpu_seconds, usage_records.c.observed_at).where(lease == record.lease_name)
    if not 0 < record.sequence <= MAX_INT:
        return []
    rows = [
        *connection.execute(query.where(sequence <= record.sequence).order_by(sequence.desc()).limit(2)),
        *connection.execute(query.where(sequence > record.sequence).order_by(sequence).limit(1)),
    ]
    return [(row.sequence, row.gpu_seconds, microseconds(row.observed_at)) for row in rows]


def _opened(connection: Connection, leases: Collection[str]) -> set[str]:
    return set(connection.execute(select(attempts.c.lease_name).where(attempts.c.lease_name.in_(leases))).scalars())


def _held(connection: Connection, leases: Collection[str]) -> dict[str, list[Held]]:
    """By lease, all that is held of it."""
    seen = type_coerce(usage_records.c.observed_at, BigInteger)
    rows = connection.execute(
        select(usage_records.c.lease_name, usage_records.c.sequence, usage_records.c.gpu_seconds, seen).where(
            usage_records.c.lease_name.in_(leases)
        )
    )
    held: dict[str, list[Held]] = defaultdict(list)
    for lease, sequence, gpu_seconds, at in rows.all():
        held[lease].append((sequence, gpu_seconds, at))
    return held


def _order(record: UsageRecord) -> tuple[str, int, int, int]:
    return record.lease_name, *_facts(record)


def _facts(record: UsageRecord) -> Held:
    return record.sequence, record.gpu_seconds, stamp(record.observed_at)


def _said(facts: Held) -> str:
    sequence, gpu_seconds, at = facts
    return f"{gpu_seconds} gpu-seconds at {sequence}, seen at {instant(at).isoformat()},"


def _values(record: UsageRecord) -> tuple[Field, ...]:
    facts = (record.lease_name, record.sequence, record.gpu_seconds, stamp(record.observed_at))
    signed = record.signed
    if signed is None:
        return (*facts, None, None, None, None, "", None)
    proof = (signed.sequence, signed.gpu_seconds, signed.observed_at, signed.usage_hash, signed.signer)
    return (*facts, *proof, signed.signature)


def _record(row: Row[Any]) -> UsageRecord:
    signed = None
    if row.signature is not None:
        signed = SignedUsage(
            row.signed_sequence, row.signed_gpu_seconds, row.signed_at, row.usage_hash, row.signer, row.signature
        )
    return UsageRecord(row.lease_name, row.sequence, row.gpu_seconds, row.observed_at, signed)
