"""Takes billed usage, one record or very many, and finds what contradicts it; functions of one connection."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, select

from fedgpu_operator.adapters.ledger import live, totals
from fedgpu_operator.adapters.ledger.chaining import Field, append, raw, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, instant, lease_usage, usage_records
from fedgpu_operator.domain.books import SignedUsage, UsageRecord
from fedgpu_operator.domain.ledger import BulkResult, RefusedUsage
from fedgpu_operator.domain.money import MicroUSD, accrue
from fedgpu_operator.errors import LedgerError

CHECKPOINT = timedelta(minutes=15)
"""The longest that usage of a running lease stands in its live row alone, by the readings' own instants.

Epochs and receipts take their evidence themselves, so this only bounds what an audit cannot see between them: at the
default epoch of an hour, three rows more per lease. At a reading every 15 seconds it keeps one row of 60.
"""
_CHECKPOINT = CHECKPOINT // timedelta(microseconds=1)

MAX_INT = 2**63 - 1
"""What a column holds."""

Held = tuple[int, int, int]
"""(sequence, gpu-seconds, microseconds since 1970)."""


@dataclass
class _Lease:
    """One lease as it is held, and what a batch makes of it."""

    name: str
    price: MicroUSD
    pair: totals.PairKey
    ended: bool
    live: Held | None
    checkpoint: tuple[int, int]
    """Sequence of the newest usage checkpoint, 0 if there is none, and the instant that the next one counts from."""
    before: Sequence[Held] = ()
    """What is held up to the live row, in rising order; read only if a record comes late."""
    newest: UsageRecord | None = None
    fresh: list[UsageRecord] = field(default_factory=list)
    """The usage checkpoints that this batch adds."""

    def judge(self, facts: Held) -> str | None:
        """Why this cannot be true; empty for a new figure, None for one that is held, or older than what is billed."""
        sequence, gpu_seconds, _ = facts
        if not (0 < sequence <= MAX_INT and 0 <= gpu_seconds <= MAX_INT):
            return f"usage of {self.name}: no ledger holds {gpu_seconds} gpu-seconds at {sequence}"
        last = self.last
        if last is None or last[0] < sequence:
            return _rises(self.name, last, facts, None) or ""
        held = self.before if self.live is not None and sequence <= self.live[0] else [last]
        at = bisect_left(held, (sequence,))
        above = held[at]
        if above[0] == sequence:
            return None if above == facts else f"usage of {self.name}: {_said(facts)} contradicts {_said(above)}"
        return _rises(self.name, held[at - 1] if at else None, facts, above)

    @property
    def last(self) -> Held | None:
        """The newest figure, with those of this batch."""
        return self.live if self.newest is None else _facts(self.newest)

    def take(self, record: UsageRecord) -> None:
        """The record is the newest one now; it is a usage checkpoint too if one is due."""
        at = stamp(record.observed_at)
        if self.last is None:
            self.checkpoint = (0, at)
        self.newest = record
        if at - self.checkpoint[1] >= _CHECKPOINT:
            self.seal()

    def seal(self) -> None:
        """Make the newest figure a usage checkpoint."""
        if self.newest is not None and self.checkpoint[0] != self.newest.sequence:
            self.fresh.append(self.newest)
            self.checkpoint = (self.newest.sequence, stamp(self.newest.observed_at))


def record_usage(connection: Connection, record: UsageRecord) -> bool:
    """Take one cumulative figure; False if it changes nothing, LedgerError if it contradicts.

    It changes nothing if it is held, or older than what is billed: that one is judged by its neighbours and not kept.
    """
    lease = _leases(connection, {record.lease_name: [record]}).get(record.lease_name)
    if lease is None:
        raise LedgerError(f"no attempt was opened for lease {record.lease_name}")
    why = lease.judge(_facts(record))
    if why:
        raise LedgerError(why)
    if why is None:
        return False
    lease.take(record)
    _keep(connection, [lease])
    return True


def record_many(connection: Connection, records: Iterable[UsageRecord]) -> BulkResult:
    """Take records in any order, with any duplicates; what contradicts is left out and reported.

    The outcome does not depend on the order in which they come: they are taken by lease, sequence and figure, so of
    two that contradict each other the earlier sequence stays, and of one sequence the lower figure.
    """
    by_lease = groupby(sorted(records, key=_order), key=attrgetter("lease_name"))
    appended = known = 0
    refused: list[RefusedUsage] = []
    while batch := {lease: list(theirs) for lease, theirs in islice(by_lease, live.LEASES_AT_ONCE)}:
        leases = _leases(connection, batch)
        for name, theirs in batch.items():
            lease = leases.get(name)
            if lease is None:
                refused += [RefusedUsage(record, f"no attempt was opened for lease {name}") for record in theirs]
                continue
            for record in theirs:
                why = lease.judge(_facts(record))
                if why:
                    refused.append(RefusedUsage(record, why))
                elif why is None:
                    known += 1
                else:
                    lease.take(record)
                    appended += 1
        _keep(connection, [lease for lease in leases.values() if lease.newest is not None])
    return BulkResult(appended, known, tuple(refused))


def last_usage(connection: Connection, lease: str) -> UsageRecord | None:
    """The newest usage of a lease."""
    row = connection.execute(select(lease_usage).where(lease_usage.c.lease_name == lease)).one_or_none()
    return None if row is None else _record(row)


def usage_of(connection: Connection, lease: str) -> tuple[UsageRecord, ...]:
    """The usage checkpoints of a lease, by sequence, and its newest usage."""
    rows = connection.execute(
        select(usage_records).where(usage_records.c.lease_name == lease).order_by(usage_records.c.sequence)
    )
    held = {row.sequence: _record(row) for row in rows}
    newest = last_usage(connection, lease)
    if newest is not None:
        held[newest.sequence] = newest
    return tuple(held.values())


def _keep(connection: Connection, leases: Sequence[_Lease]) -> None:
    """Write what a batch makes of these leases: usage checkpoints, live rows, and what their pairs owe."""
    changes: defaultdict[totals.PairKey, totals.Change] = defaultdict(totals.Change)
    fresh: list[dict[str, object]] = []
    known: list[dict[str, object]] = []
    checkpoints: list[tuple[Field, ...]] = []
    for lease in leases:
        if lease.newest is None:
            continue
        if lease.ended:
            lease.seal()
        checkpoints += map(_values, lease.fresh)
        row = live.moved(_values(lease.newest), *lease.checkpoint)
        (fresh if lease.live is None else known).append(row)
        more = lease.newest.gpu_seconds - (0 if lease.live is None else lease.live[1])
        change = changes[lease.pair]
        change.gpu_seconds += more
        change.numerator += accrue(lease.price, more)
    append(connection, usage_records, checkpoints)
    live.put(connection, fresh, known)
    totals.add(connection, changes)


def _leases(connection: Connection, batch: dict[str, list[UsageRecord]]) -> dict[str, _Lease]:
    """Those of these leases that were opened, as they are held."""
    at, counted = raw(lease_usage, "observed_at"), raw(lease_usage, "checkpoint_at")
    columns = (lease_usage.c.sequence, lease_usage.c.gpu_seconds, lease_usage.c.checkpoint_sequence)
    names = (attempts.c.lease_name, *totals.PAIR, attempts.c.price, attempts.c.ended_at)
    query = (
        select(*names, *columns, at.label("at"), counted.label("counted"))
        .join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)
        .where(attempts.c.lease_name.in_(batch))
    )
    found = {}
    for row in connection.execute(query).all():
        found[row.lease_name] = _Lease(
            name=row.lease_name,
            price=MicroUSD(row.price),
            pair=(row.tenant, row.provider, row.tenant_wallet, row.provider_wallet),
            ended=row.ended_at is not None,
            live=None if row.sequence is None else (row.sequence, row.gpu_seconds, row.at),
            checkpoint=(row.checkpoint_sequence or 0, row.counted or 0),
        )
    floor = {name: lease.live for name, lease in found.items() if lease.live is not None}
    late = {name: last for name, last in floor.items() if any(record.sequence <= last[0] for record in batch[name])}
    held = _held(connection, late) if late else {}
    for name, last in late.items():
        found[name].before = sorted({*held.get(name, ()), last})
    return found


def _held(connection: Connection, leases: Collection[str]) -> dict[str, list[Held]]:
    """By lease, its usage checkpoints."""
    seen = raw(usage_records, "observed_at")
    rows = connection.execute(
        select(usage_records.c.lease_name, usage_records.c.sequence, usage_records.c.gpu_seconds, seen).where(
            usage_records.c.lease_name.in_(leases)
        )
    )
    held: dict[str, list[Held]] = defaultdict(list)
    for lease, sequence, gpu_seconds, at in rows.all():
        held[lease].append((sequence, gpu_seconds, at))
    return held


def _rises(lease: str, below: Held | None, facts: Held, above: Held | None) -> str | None:
    """Why the figure does not fit between its neighbours; None if it does."""
    if below is not None and below[1] > facts[1]:
        return f"usage of {lease} only rises: {_said(facts)} after {_said(below)}"
    if above is not None and above[1] < facts[1]:
        return f"usage of {lease} only rises: {_said(facts)} before {_said(above)}"
    return None


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
