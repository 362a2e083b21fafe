"""Billed usage: what is taken and refused, the live row of each lease, its checkpoints, and what each pair owes.

Functions of one connection; sums of money are made in Python, exactly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, bindparam, case, insert, select, update

from fedgpu_operator.adapters.ledger.calls import Calls, from_database, from_memory, in_transaction
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, Field, append, genesis, raw, row_hash, stamp
from fedgpu_operator.adapters.ledger.schema import (
    attempts,
    instant,
    lease_usage,
    pair_totals,
    usage_disputes,
    usage_records,
)
from fedgpu_operator.domain.attempts import PairTotal, SignedUsage, UsageRecord
from fedgpu_operator.domain.ledger import BulkResult, RefusedUsage, UsageDispute, UsageDisputeState
from fedgpu_operator.domain.money import MicroUSD, accrue
from fedgpu_operator.errors import LedgerError

T = TypeVar("T")

READING = COLUMNS[usage_records.name]
"""What live row and usage checkpoint have in common, in the order of the chain."""
AT = READING.index("observed_at")
MOVING = (*READING[1:], "checkpoint_sequence", "checkpoint_at", "hash", "unsealed")
"""Columns of a live row that a reading or a usage checkpoint sets; `uncovered` follows from them."""
KEYS_AT_ONCE = 500
"""Leases, or keys of another table, in one query: far below the number of parameters that any engine takes."""


# ---------------------------------------------------------------- live rows and their checkpoints


def live_hash(reading: Sequence[Any], checkpoint_at: int) -> bytes:
    """The hash of a live row: over its reading (READING) and the instant from which its next usage checkpoint counts.

    It chains to nothing, since the row moves; it is what makes an altered row show before its next usage checkpoint.
    """
    return row_hash(genesis(lease_usage.name), lease_usage.name, reading[1], [*reading, checkpoint_at])


def live_row(reading: Sequence[Any], checkpoint_sequence: int, checkpoint_at: int) -> dict[str, object]:
    """A live row's columns at this reading, but for what epochs cover of it."""
    values: dict[str, object] = dict(zip(READING, reading, strict=True))
    return values | {
        "observed_at": instant(reading[AT]),
        "checkpoint_sequence": checkpoint_sequence,
        "checkpoint_at": instant(checkpoint_at),
        "hash": live_hash(reading, checkpoint_at),
        "unsealed": int(reading[1] != checkpoint_sequence),
    }


def put_live(connection: Connection, fresh: Sequence[dict[str, object]], known: Sequence[dict[str, object]]) -> None:
    """Insert the first live rows of leases, and move those of others; as `live_row` makes them."""
    if fresh:
        connection.execute(insert(lease_usage), [{**row, "uncovered": int(row["gpu_seconds"] != 0)} for row in fresh])
    if known:
        # `uncovered` is what the new figure and the old cover make it: the statement sees the old row.
        values = {name: bindparam(name, type_=lease_usage.c[name].type) for name in MOVING}
        above = case((bindparam("gpu_seconds", type_=BigInteger) > lease_usage.c.covered_gpu_seconds, 1), else_=0)
        statement = update(lease_usage).where(lease_usage.c.lease_name == bindparam("of_lease"))
        connection.execute(
            statement.values({**values, "uncovered": above}), [{**row, "of_lease": row["lease_name"]} for row in known]
        )


def seal_live(connection: Connection, *which: ColumnElement[bool]) -> int:
    """Append a usage checkpoint for each live row that is newer than its last one, by lease; how many there were.

    `which` narrows down the leases.
    """
    columns = [raw(lease_usage, name) for name in READING]
    unsealed = select(*columns).where(lease_usage.c.unsealed == 1, *which).order_by(lease_usage.c.lease_name)
    rows = [tuple(row) for row in connection.execute(unsealed)]
    append(connection, usage_records, rows)
    put_live(connection, (), [live_row(row, row[1], row[AT]) for row in rows])
    return len(rows)


def chunks(keys: Iterable[T]) -> list[list[T]]:
    """Leases, or keys of another table, by as many as one query takes."""
    names = list(keys)
    return [names[begin : begin + KEYS_AT_ONCE] for begin in range(0, len(names), KEYS_AT_ONCE)]


# ---------------------------------------------------------------- what each pair owes

PAIR = (attempts.c.tenant, attempts.c.provider, attempts.c.tenant_wallet, attempts.c.provider_wallet)
"""What the books are kept by, as columns of an attempt."""
TOTALS_KEY = tuple(pair_totals.c[column.name] for column in PAIR)
TOTALS_SUMS = ("numerator", "gpu_seconds", "open_attempts", "ended_attempts")
FEW_PAIRS = 32
"""Pairs that are looked up one by one; of more, the whole table is read once."""

PairKey = tuple[str, str, str, str]
"""(tenant, provider, tenant wallet, provider wallet)."""


@dataclass(slots=True)
class PairChange:
    """What is added to a pair's totals: µUSD·s/h, GPU-seconds, attempts that are open, and attempts that have ended."""

    numerator: int = 0
    gpu_seconds: int = 0
    open_attempts: int = 0
    ended_attempts: int = 0


def add_to_totals(connection: Connection, changes: Mapping[PairKey, PairChange]) -> None:
    """Bring the totals of these pairs along."""
    held = _held_totals(connection, changes)
    fresh: list[dict[str, object]] = []
    known: list[dict[str, object]] = []
    for pair, change in changes.items():
        before = held.get(pair)
        names = dict(zip((column.name for column in TOTALS_KEY), pair, strict=True))
        after = _sums(change) if before is None else _sums(change, before)
        if before is None:
            fresh.append({**names, **after})
        else:
            known.append({**{f"of_{name}": value for name, value in names.items()}, **after})
    if fresh:
        connection.execute(insert(pair_totals), fresh)
    if known:
        this = (column == bindparam(f"of_{column.name}") for column in TOTALS_KEY)
        after_all = {name: bindparam(name, type_=pair_totals.c[name].type) for name in TOTALS_SUMS}
        connection.execute(update(pair_totals).where(*this).values(after_all), known)


def totals_of(connection: Connection, tenant: str | None = None) -> tuple[PairTotal, ...]:
    """Totals by tenant, provider and their wallets, sorted; of one tenant if it is named."""
    query = select(pair_totals).order_by(*TOTALS_KEY)
    if tenant is not None:
        query = query.where(pair_totals.c.tenant == tenant)
    return tuple(total_of_row(row) for row in connection.execute(query))


def total_of_row(row: Row[Any]) -> PairTotal:
    """A row of the table; ValueError if a sum of it is not a number, which no ledger writes."""
    return PairTotal(
        tenant=row.tenant,
        provider=row.provider,
        gpu_seconds=int(row.gpu_seconds),
        numerator=int(row.numerator),
        open_attempts=row.open_attempts,
        ended_attempts=row.ended_attempts,
        tenant_wallet=row.tenant_wallet,
        provider_wallet=row.provider_wallet,
    )


def _held_totals(connection: Connection, pairs: Iterable[PairKey]) -> dict[PairKey, Row[Any]]:
    wanted = list(pairs)
    query = select(pair_totals)
    rows: Sequence[Row[Any]]
    if len(wanted) > FEW_PAIRS:
        rows = connection.execute(query).all()
    else:
        rows = [
            row
            for pair in wanted
            for row in connection.execute(
                query.where(*(column == value for column, value in zip(TOTALS_KEY, pair, strict=True)))
            )
        ]
    return {(row.tenant, row.provider, row.tenant_wallet, row.provider_wallet): row for row in rows}


def _sums(change: PairChange, before: Row[Any] | None = None) -> dict[str, object]:
    sums = {name: getattr(change, name) + (0 if before is None else int(getattr(before, name))) for name in TOTALS_SUMS}
    return sums | {name: str(sums[name]) for name in ("numerator", "gpu_seconds")}


# ---------------------------------------------------------------- what is taken, and what contradicts

CHECKPOINT = timedelta(minutes=15)
"""The longest that usage of a running lease stands in its live row alone, by the readings' own instants.

Epochs and receipts take their evidence themselves, so this only bounds what an audit cannot see between them: at the
default epoch of an hour, three rows more per lease. At a reading every 15 seconds it keeps one row of 60.
"""
_CHECKPOINT = CHECKPOINT // timedelta(microseconds=1)

OPEN = UsageDisputeState.OPEN.value

MAX_INT = 2**63 - 1
"""What a column holds."""

Figures = tuple[int, int, int]
"""(sequence, gpu-seconds, microseconds since 1970)."""


@dataclass
class _Lease:
    """One lease as it is held, and what a batch makes of it."""

    name: str
    price: MicroUSD
    pair: PairKey
    ended: bool
    live: Figures | None
    checkpoint: tuple[int, int]
    """Sequence of the newest usage checkpoint, 0 if there is none, and the instant that the next one counts from."""
    before: Sequence[Figures] = ()
    """What is held up to the live row, in rising order; read only if a record comes late."""
    newest: UsageRecord | None = None
    fresh: list[UsageRecord] = field(default_factory=list)
    """The usage checkpoints that this batch adds."""

    def judge(self, facts: Figures) -> str | None:
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
            return (
                None if above == facts else f"usage of {self.name}: {_described(facts)} contradicts {_described(above)}"
            )
        return _rises(self.name, held[at - 1] if at else None, facts, above)

    @property
    def last(self) -> Figures | None:
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


def record_usage(
    connection: Connection,
    lease_name: str,
    sequence: int,
    gpu_seconds: int,
    observed_at: datetime,
    *,
    signed: SignedUsage | None = None,
) -> bool:
    """Keep cumulative billed usage as the lease's newest; False if it changes nothing.

    It changes nothing if this very record is held, however it was signed, or if its sequence is below the newest: it
    bills nothing then and is not kept. A usage checkpoint is made of it if one is due (CHECKPOINT) or the attempt has
    ended; usage of an ended attempt is taken, since a member that was cut off reports late. Raises LedgerError if the
    same sequence, as far as it is held, has other figures, or a later one has the smaller figure.
    """
    record = UsageRecord(lease_name, sequence, gpu_seconds, observed_at, signed)
    lease = _leases(connection, {lease_name: [record]}).get(lease_name)
    if lease is None:
        raise LedgerError(f"no attempt was opened for lease {lease_name}")
    why = lease.judge(_facts(record))
    if why:
        raise LedgerError(why)
    if why is None:
        return False
    lease.take(record)
    _keep(connection, [lease])
    return True


def record_many(connection: Connection, records: Sequence[UsageRecord]) -> BulkResult:
    """Take records in any order, with any duplicates; what contradicts is left out and reported.

    The outcome does not depend on the order in which they come: they are taken by lease, sequence and figure, so of
    two that contradict each other the earlier sequence stays, and of one sequence the lower figure.
    """
    in_order = sorted(records, key=lambda record: (record.lease_name, *_facts(record)))
    by_lease = groupby(in_order, key=attrgetter("lease_name"))
    appended = known = 0
    refused: list[RefusedUsage] = []
    while batch := {lease: list(theirs) for lease, theirs in islice(by_lease, KEYS_AT_ONCE)}:
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


def last_usage(connection: Connection, lease_name: str) -> UsageRecord | None:
    """The newest usage of a lease."""
    row = connection.execute(select(lease_usage).where(lease_usage.c.lease_name == lease_name)).one_or_none()
    return None if row is None else _record(row)


def _keep(connection: Connection, leases: Sequence[_Lease]) -> None:
    """Write what a batch makes of these leases: usage checkpoints, live rows, and what their pairs owe."""
    changes: defaultdict[PairKey, PairChange] = defaultdict(PairChange)
    fresh: list[dict[str, object]] = []
    known: list[dict[str, object]] = []
    checkpoints: list[tuple[Field, ...]] = []
    for lease in leases:
        if lease.newest is None:
            continue
        if lease.ended:
            lease.seal()
        checkpoints += map(_values, lease.fresh)
        row = live_row(_values(lease.newest), *lease.checkpoint)
        (fresh if lease.live is None else known).append(row)
        more = lease.newest.gpu_seconds - (0 if lease.live is None else lease.live[1])
        change = changes[lease.pair]
        change.gpu_seconds += more
        change.numerator += accrue(lease.price, more)
    append(connection, usage_records, checkpoints)
    put_live(connection, fresh, known)
    add_to_totals(connection, changes)


def _leases(connection: Connection, batch: dict[str, list[UsageRecord]]) -> dict[str, _Lease]:
    """Those of these leases that were opened, as they are held."""
    at, counted = raw(lease_usage, "observed_at"), raw(lease_usage, "checkpoint_at")
    columns = (lease_usage.c.sequence, lease_usage.c.gpu_seconds, lease_usage.c.checkpoint_sequence)
    names = (attempts.c.lease_name, *PAIR, attempts.c.price, attempts.c.ended_at)
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


def _held(connection: Connection, leases: Collection[str]) -> dict[str, list[Figures]]:
    """By lease, its usage checkpoints."""
    seen = raw(usage_records, "observed_at")
    rows = connection.execute(
        select(usage_records.c.lease_name, usage_records.c.sequence, usage_records.c.gpu_seconds, seen).where(
            usage_records.c.lease_name.in_(leases)
        )
    )
    held: dict[str, list[Figures]] = defaultdict(list)
    for lease, sequence, gpu_seconds, at in rows.all():
        held[lease].append((sequence, gpu_seconds, at))
    return held


def _rises(lease: str, below: Figures | None, facts: Figures, above: Figures | None) -> str | None:
    """Why the figure does not fit between its neighbours; None if it does."""
    if below is not None and below[1] > facts[1]:
        return f"usage of {lease} only rises: {_described(facts)} after {_described(below)}"
    if above is not None and above[1] < facts[1]:
        return f"usage of {lease} only rises: {_described(facts)} before {_described(above)}"
    return None


def _facts(record: UsageRecord) -> Figures:
    return record.sequence, record.gpu_seconds, stamp(record.observed_at)


def _described(facts: Figures) -> str:
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


# ---------------------------------------------------------------- what of a reading is in dispute


def dispute_usage(connection: Connection, dispute: UsageDispute) -> bool:
    """Keep a dispute; False if it is held already, LedgerError if it is held with other figures or is an old one.

    An open dispute of an earlier reading of the lease is superseded: usage is cumulative.
    """
    opened = select(attempts.c.attempt).where(attempts.c.lease_name == dispute.lease_name)
    if connection.execute(opened).one_or_none() is None:
        raise LedgerError(f"no attempt was opened for lease {dispute.lease_name}")
    held = {d.sequence: d for d in disputes_of(connection, lease_name=dispute.lease_name)}
    same = held.get(dispute.sequence)
    if same is not None:
        if (same.claimed, same.payable, same.why) == (dispute.claimed, dispute.payable, dispute.why):
            return False
        raise LedgerError(f"reading {dispute.sequence} of {dispute.lease_name} is disputed with other figures")
    if held and max(held) > dispute.sequence:
        raise LedgerError(f"a later reading than {dispute.sequence} of {dispute.lease_name} is disputed already")
    connection.execute(
        update(usage_disputes)
        .where(usage_disputes.c.lease_name == dispute.lease_name, usage_disputes.c.state == OPEN)
        .values(state=UsageDisputeState.SUPERSEDED.value, ruled_at=dispute.at)
    )
    connection.execute(
        insert(usage_disputes).values(
            lease_name=dispute.lease_name,
            sequence=dispute.sequence,
            claimed=dispute.claimed,
            payable=dispute.payable,
            why=dispute.why,
            evidence=dispute.evidence,
            at=dispute.at,
            state=OPEN,
        )
    )
    return True


def rule_usage_dispute(
    connection: Connection, lease_name: str, sequence: int, state: UsageDisputeState, note: str, at: datetime
) -> UsageDispute:
    """Close an open dispute as Granted or Refused; the same ruling again changes nothing."""
    found = [d for d in disputes_of(connection, lease_name=lease_name) if d.sequence == sequence]
    if not found:
        raise LedgerError(f"reading {sequence} of {lease_name} is not disputed")
    dispute = found[0]
    if dispute.state is state:
        return dispute
    if dispute.state is not UsageDisputeState.OPEN:
        raise LedgerError(f"the dispute of reading {sequence} of {lease_name} is {dispute.state} for good")
    if state not in (UsageDisputeState.GRANTED, UsageDisputeState.REFUSED):
        raise LedgerError(f"a usage dispute is ruled Granted or Refused, not {state}")
    connection.execute(
        update(usage_disputes)
        .where(usage_disputes.c.lease_name == lease_name, usage_disputes.c.sequence == sequence)
        .values(state=state.value, note=note, ruled_at=at)
    )
    return replace(dispute, state=state, note=note, ruled_at=at)


def disputes_of(
    connection: Connection, *, lease_name: str | None = None, tenant: str | None = None, open_only: bool = False
) -> tuple[UsageDispute, ...]:
    """Disputes, oldest first; of one lease or one tenant's namespace where it is named."""
    query = select(usage_disputes).order_by(usage_disputes.c.at, usage_disputes.c.lease_name, usage_disputes.c.sequence)
    if lease_name is not None:
        query = query.where(usage_disputes.c.lease_name == lease_name)
    if tenant is not None:
        theirs = select(attempts.c.lease_name).where(attempts.c.tenant == tenant)
        query = query.where(usage_disputes.c.lease_name.in_(theirs))
    if open_only:
        query = query.where(usage_disputes.c.state == OPEN)
    return tuple(
        UsageDispute(
            lease_name=row.lease_name,
            sequence=row.sequence,
            claimed=row.claimed,
            payable=row.payable,
            why=row.why,
            evidence=row.evidence,
            at=row.at,
            state=UsageDisputeState(row.state),
            note=row.note,
            ruled_at=row.ruled_at,
        )
        for row in connection.execute(query)
    )


# ---------------------------------------------------------------- as methods of a ledger


class SqlUsage(Calls):
    """Billed usage of an open ledger, and disputes over it (ports.UsageBook)."""

    record_usage = in_transaction(record_usage)
    record_many = in_transaction(record_many)
    last_usage = from_database(last_usage)
    dispute_usage = in_transaction(dispute_usage)
    rule_usage_dispute = in_transaction(rule_usage_dispute)
    usage_disputes = from_memory(disputes_of)
