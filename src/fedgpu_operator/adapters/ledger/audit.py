"""Reads the whole ledger and its archives, and finds any row that was altered, removed, inserted or moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak
from sqlalchemy import ColumnElement, Connection, Table, exists, func, select, true

from fedgpu_operator.adapters.ledger import archives, segments
from fedgpu_operator.adapters.ledger.epochs import bound, live_covers, named_in, parts_hash, parts_of
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, ROWS_AT_ONCE, genesis, head, raw, row_hash
from fedgpu_operator.adapters.ledger.journal import trial_balance
from fedgpu_operator.adapters.ledger.schema import (
    CHAINED,
    archived_segments,
    attempts,
    epoch_leases,
    epoch_lines,
    epochs,
    lease_usage,
    metadata,
    opening_balances,
    pair_totals,
    postings,
    usage_records,
)
from fedgpu_operator.adapters.ledger.usage import (
    KEYS_AT_ONCE,
    PAIR,
    READING,
    TOTALS_KEY,
    TOTALS_SUMS,
    PairChange,
    PairKey,
    live_hash,
)
from fedgpu_operator.domain.ledger import (
    EPOCH_CHAIN,
    BoundEscrow,
    ChainHead,
    LedgerAudit,
    LedgerFault,
    LedgerHead,
    Segment,
)
from fedgpu_operator.domain.money import MicroUSD, accrue

Judge = Callable[[int, bytes], str]
"""What is wrong with a chain's hash at a position by the heads that epochs were stored with; empty if nothing is."""


@dataclass
class ArchiveFindings:
    """What an audit found of the archives: where the live part of each chain begins, and what is wrong."""

    starts: dict[str, tuple[int, bytes]]
    """By chain: the last archived position and its hash."""
    epoch: int = 0
    """Manifests, lines and covers of epochs before this one are archived."""
    unread: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    faults: list[LedgerFault] = field(default_factory=list)
    strays: tuple[str, ...] = ()


def judge_archives(connection: Connection, folder: Path | None, promised: dict[str, Judge]) -> ArchiveFindings:
    """Judge all segments; with a `folder` their files too. Of a chain the first fault alone is named."""
    by_chain: dict[str, list[Segment]] = defaultdict(list)
    for segment in archives.archived(connection):
        by_chain[segment.chain].append(segment)
    found = ArchiveFindings(
        {chain: (theirs[-1].last, bytes.fromhex(theirs[-1].after)) for chain, theirs in by_chain.items()}
    )
    if EPOCH_CHAIN in by_chain:
        found.epoch = by_chain[EPOCH_CHAIN][-1].epoch
    for chain, theirs in by_chain.items():
        faults = _records(connection, theirs, promised.get(chain, _anything))
        rows = sum(segment.rows for segment in theirs)
        if folder is None and rows:
            found.unread[chain] = rows
        elif folder is not None and not faults:
            faults = _Files(connection, folder, theirs, promised.get(chain, _anything)).judge()
            found.read[chain] = rows
        found.faults += faults
    if folder is not None:
        known = {segment.file for theirs in by_chain.values() for segment in theirs}
        found.strays = tuple(sorted(path.name for path in folder.glob("*.jsonl.gz") if path.name not in known))
    return found


def parts_left(connection: Connection, number: int) -> bool:
    """Whether an archived epoch still has its manifest or lines, so that it can be judged as if it were not."""
    lines = select(func.count()).select_from(epoch_lines).where(epoch_lines.c.epoch == number)
    manifest = select(func.length(epochs.c.manifest)).where(epochs.c.number == number)
    return bool(connection.execute(lines).scalar_one() or connection.execute(manifest).scalar_one())


def _anything(_position: int, _hash: bytes) -> str:
    return ""


def _records(connection: Connection, theirs: Sequence[Segment], promised: Judge) -> list[LedgerFault]:
    """What is wrong with the records of a chain's segments: they follow one another and end in heads of epochs."""
    last, hash_, number = 0, genesis(theirs[0].chain).hex(), 0
    for segment in theirs:
        key = f"{segment.number} {segment.chain}"
        if (segment.first, segment.before, segment.number) != (last + 1, hash_, number + 1):
            return [LedgerFault(archived_segments.name, key, "does not begin where the segment before it ended")]
        last, hash_, number = segment.last, segment.after, segment.number
        if segment.rows and not _ends_in_a_head(connection, segment):
            why = f"does not end in the head that epoch {segment.epoch} was stored over"
            return [LedgerFault(archived_segments.name, key, why)]
        if why := promised(segment.last, bytes.fromhex(segment.after)):
            return [LedgerFault(archived_segments.name, key, why)]
    newest = theirs[-1]
    if archives.hash_of_kept(connection, newest).hex() != newest.kept_hash:
        why = f"what stays live of rows up to position {newest.last} is not what the archive left"
        return [LedgerFault(_kept_table(newest.chain), "archived rows", why)]
    return []


def _ends_in_a_head(connection: Connection, segment: Segment) -> bool:
    head = connection.execute(select(epochs.c.ledger_head).where(epochs.c.number == segment.epoch)).scalar()
    return f"{segment.chain}:{segment.last}:{segment.after}" in (head or "").split(",")


def _kept_table(chain: str) -> str:
    return {EPOCH_CHAIN: epoch_leases.name, postings.name: opening_balances.name}.get(chain, chain)


class _Files:
    """The files of one chain, read from its first row on and held to what is live."""

    def __init__(self, connection: Connection, folder: Path, theirs: Sequence[Segment], promised: Judge) -> None:
        self._connection, self._folder, self._theirs, self._promised = connection, folder, theirs, promised
        self._chain = theirs[0].chain
        self._sums: dict[tuple[str | None, ...], list[int]] = {}
        self._readings: dict[str, tuple[str | None, ...]] = {}

    def judge(self) -> list[LedgerFault]:
        """The first fault of the chain."""
        for segment in self._theirs:
            if not segment.rows:
                continue
            try:
                self._read(segment)
            except segments.SegmentError as error:
                return [LedgerFault(self._chain, error.key or f"segment {segment.number}", error.why)]
        return self._at_the_end()

    def _read(self, segment: Segment) -> None:
        kept = self._kept(segment)
        for row in segments.rows_of(self._folder, segment):
            if why := self._promised(row.position, row.hash):
                raise segments.SegmentError(f"{why}, in file {segment.file}", f"position {row.position}")
            live = kept.pop(row.position, None)
            if live is not None and live != row.text:
                raise segments.SegmentError(f"is another row than in file {segment.file}", f"position {row.position}")
            self._take(segment, row)
        if self._readings:
            self._compare_readings()

    def _kept(self, segment: Segment) -> dict[int, bytes]:
        """The rows of the segment that are still live, by position."""
        if self._chain in (EPOCH_CHAIN, postings.name):
            return {}
        position = metadata.tables[self._chain].c.position
        texts = archives.kept_texts(self._connection, segment, position >= segment.first)
        return {segments.position_of(text): text for text in texts}

    def _take(self, segment: Segment, row: segments.SegmentRow) -> None:
        """What is read of a row beyond its place in the chain."""
        if self._chain == postings.name:
            self._add(row)
        elif self._chain == EPOCH_CHAIN:
            self._compare_covers(segment, row)
        elif self._chain == usage_records.name:
            self._readings[str(row.fields[0])] = row.fields
            if len(self._readings) >= KEYS_AT_ONCE:
                self._compare_readings()

    def _add(self, row: segments.SegmentRow) -> None:
        fields = dict(zip(COLUMNS[postings.name], row.fields, strict=True))
        key = tuple(fields[name] for name in ("kind", "tenant_wallet", "provider_wallet", "leg", "account"))
        amount, entry = int(fields["amount"] or 0), int(fields["entry"] or 0)
        known = self._sums.setdefault(key, [0, 0])
        known[0], known[1] = known[0] + amount, max(known[1], entry)

    def _compare_covers(self, segment: Segment, row: segments.SegmentRow) -> None:
        number = str(segments.field_of(self._chain, row.fields, "number"))
        live = self._connection.execute(
            select(epoch_leases.c.lease_name, epoch_leases.c.gpu_seconds).where(epoch_leases.c.epoch == int(number))
        )
        covers = dict(row.parts.texts[1]) if row.parts else {}
        if any(covers.get(lease) != str(figure) for lease, figure in live):
            raise segments.SegmentError(f"has other covers than in file {segment.file}", number)

    def _compare_readings(self) -> None:
        """A usage checkpoint in a file and the live row of its lease are one history."""
        query = select(
            lease_usage.c.checkpoint_sequence, lease_usage.c.unsealed, *(raw(lease_usage, name) for name in READING)
        )
        rows = self._connection.execute(query.where(lease_usage.c.lease_name.in_(self._readings)))
        live = {reading[0]: (checkpoint, unsealed, reading) for checkpoint, unsealed, *reading in rows}
        for lease, fields in self._readings.items():
            if lease not in live:
                raise segments.SegmentError("is in an archive, and its live row is missing", lease)
            _, sequence, gpu_seconds = fields[:3]
            checkpoint, unsealed, reading = live[lease]
            below = reading[1] < int(sequence or 0) or reading[2] < int(gpu_seconds or 0)
            same = checkpoint != int(sequence or 0) or unsealed or segments.fields_of(reading) == fields
            if below or not same:
                raise segments.SegmentError("has another live row than its usage checkpoint in an archive", lease)
        self._readings.clear()

    def _at_the_end(self) -> list[LedgerFault]:
        if self._chain != postings.name:
            return []
        o = opening_balances.c
        rows = self._connection.execute(
            select(o.kind, o.tenant_wallet, o.provider_wallet, o.leg, o.account, o.amount, o.entry)
        )
        live: dict[tuple[str | None, ...], list[int]] = {
            (kind, tenant, provider, str(leg), account): [amount, entry]
            for kind, tenant, provider, leg, account, amount, entry in rows
        }
        for key in sorted(live.keys() | self._sums.keys(), key=repr):
            if live.get(key) != self._sums.get(key):
                return [
                    LedgerFault(
                        opening_balances.name, " ".join(map(str, key)), "is not what the archived postings come to"
                    )
                ]
        return []


MOST_NAMED = 20
"""Faults that are named of one table without a chain."""

KEYS = {table.name: tuple(column.name for column in table.primary_key) for table in CHAINED}

Promises = dict[int, list[tuple[int, str]]]
"""By length of a chain: the epochs that were stored over that head, each with the hash it names."""

Anchors = dict[str, Promises]
"""Promises by chain."""


@dataclass
class _Walk:
    """One chain as it was read: how far it is sound, and what ends that."""

    length: int
    hash: bytes
    faults: list[LedgerFault] = field(default_factory=list)


def verify(connection: Connection, archive: Path | None = None) -> LedgerAudit:
    """Judge every chain against its rows, its head and the heads that epochs were stored with; then what follows.

    That is: live rows from their usage checkpoints and from the covers of the epochs, totals of pairs from attempts and
    live rows, and the trial balance. Of a chain the first fault alone is named: every later row of it is a consequence.
    What is archived is read from the folder `archive`; without one a chain is judged from where its archived part ends.
    """
    found = head(connection)
    anchors, unreadable = _anchors(connection)
    past = judge_archives(connection, archive, {name: partial(_promise, theirs) for name, theirs in anchors.items()})
    walks = {table.name: _walk(connection, table, found, anchors, past) for table in CHAINED}
    faults = past.faults + [fault for walk in walks.values() for fault in walk.faults]
    escrow = bound(connection)
    faults += unreadable + _epoch_faults(connection, escrow, past.epoch)
    balance = trial_balance(connection)
    if not balance.balanced:
        why = f"{balance.unbalanced} entries do not sum to zero, all postings together to {balance.total}"
        faults.append(LedgerFault("postings", "trial balance", why))
    # The rows of epochs are all live; unread are the manifests, lines and covers of so many.
    unread = {name: count for name, count in past.unread.items() if name != epochs.name}
    rows = {name: walk.length - unread.get(name, 0) for name, walk in walks.items()}
    for table, judged in (
        (lease_usage, _live_faults(connection)),
        (pair_totals, _total_faults(connection)),
    ):
        rows[table.name] = connection.execute(select(func.count()).select_from(table)).scalar_one()
        faults += judged
    return LedgerAudit(rows, found, balance, tuple(faults), escrow, past.unread, past.strays)


def _walk(connection: Connection, table: Table, found: LedgerHead, anchors: Anchors, past: ArchiveFindings) -> _Walk:
    """Follow one chain from its first live row to its head, or to the first fault."""
    name = table.name
    # The rows of archived epochs stay live: their chain is read from its beginning.
    start = (0, genesis(name)) if table is epochs else past.starts.get(name, (0, genesis(name)))
    walk = _Walk(*start)
    promised = anchors.get(name, {})
    bound = [raw(table, column) for column in COLUMNS[name]]
    query = select(table.c.position, table.c.hash, *bound).where(_after(table, start[0])).order_by(table.c.position)
    with connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)) as result:
        for rows in result.partitions(ROWS_AT_ONCE):
            for position, stored, *fields in rows:
                _step(walk, name, position, stored, fields, promised)
                if walk.faults:
                    return walk
    walk.faults += _at_the_end(name, walk, found.chains.get(name), promised)
    return walk


def _after(table: Table, archived: int) -> ColumnElement[bool]:
    """Rows after the archived ones; what stays live of those is judged with the archives."""
    return table.c.position > archived if archived else true()


def _promise(promised: Promises, position: int, found: bytes) -> str:
    """Why the chain's hash at a position cannot be right, by the epochs that were stored over it."""
    for epoch, promise in promised.get(position, ()):
        if promise != found.hex():
            return f"is not what epoch {epoch} was stored over: history up to here was rewritten"
    return ""


def _step(walk: _Walk, name: str, position: int, stored: bytes, fields: Sequence[Any], promised: Promises) -> None:
    """Judge one row, and go on to it or note what is wrong with it."""
    if position != walk.length + 1:
        walk.faults.append(_gap(name, position, walk.length + 1))
        return
    expected = _hash(walk.hash, name, position, fields)
    if expected != stored:
        walk.faults.append(LedgerFault(name, _key(name, fields), "was altered, or stands where another row stood"))
        return
    walk.length, walk.hash = position, expected
    if why := _promise(promised, position, expected):
        walk.faults.append(LedgerFault(name, _key(name, fields), why))


def _key(name: str, fields: Sequence[Any]) -> str:
    return " ".join(str(fields[COLUMNS[name].index(column)]) for column in KEYS[name])


def _hash(before: bytes, name: str, position: int, fields: Sequence[Any]) -> bytes:
    """The hash that the row should have; of nothing where a column holds what no ledger writes."""
    try:
        return row_hash(before, name, position, fields)
    except TypeError:
        return b""


def _gap(name: str, position: object, expected: int) -> LedgerFault:
    if isinstance(position, int) and position > expected:
        missing = f"position {expected}" if position == expected + 1 else f"positions {expected} to {position - 1}"
        return LedgerFault(name, missing, "is missing: a row was taken out, or moved")
    return LedgerFault(name, f"position {position}", f"stands where position {expected} should")


def _at_the_end(name: str, walk: _Walk, end: ChainHead | None, promised: Promises) -> list[LedgerFault]:
    if end is None:
        return [LedgerFault("chain_heads", name, "is missing")]
    if walk.length < end.length:
        missing = f"positions {walk.length + 1} to {end.length}"
        return [LedgerFault(name, missing, "are missing at the end of the chain")]
    if (walk.length, walk.hash.hex()) != (end.length, end.hash):
        return [LedgerFault("chain_heads", name, f"is not the end of the chain, which has {walk.length} rows")]
    beyond = {length: names for length, names in promised.items() if length > walk.length or length < 1}
    return [
        LedgerFault(name, f"position {length}", f"is missing: epoch {epoch} was stored over it")
        for length, names in sorted(beyond.items())[:1]
        for epoch, promise in names[:1]
        if length > 0 or promise != genesis(name).hex()
    ]


def _anchors(connection: Connection) -> tuple[Anchors, list[LedgerFault]]:
    """The heads that epochs were stored with, and a fault for each that cannot be read."""
    anchors: Anchors = {}
    faults = []
    rows = connection.execute(select(epochs.c.number, epochs.c.ledger_head).where(epochs.c.ledger_head != ""))
    for number, text in rows:
        try:
            stored = LedgerHead.parse(text)
        except ValueError as error:
            faults.append(LedgerFault("epochs", str(number), f"has no readable ledger head: {error}"))
            continue
        for name, end in stored.chains.items():
            anchors.setdefault(name, {}).setdefault(end.length, []).append((number, end.hash))
    return anchors, faults


def _epoch_faults(connection: Connection, escrow: BoundEscrow | None, archived: int) -> list[LedgerFault]:
    """Epochs whose manifest, lines or covers are not those that their row names, or which another escrow holds.

    Those before the epoch `archived` have them in an archive.
    """
    faults = []
    numbers = connection.execute(select(epochs.c.number).order_by(epochs.c.number)).scalars().all()
    for number in numbers:
        if number < archived and not parts_left(connection, number):
            continue
        row = connection.execute(select(epochs).where(epochs.c.number == number)).one()
        if "0x" + keccak(row.manifest).hex() != row.manifest_hash:
            faults.append(LedgerFault("epochs", str(number), "holds another manifest than its hash names"))
        named = named_in(row.manifest)
        if escrow is not None and named not in (None, escrow):
            faults.append(LedgerFault("epochs", str(number), f"is of {named}, the ledger is bound to {escrow}"))
        if parts_hash(*parts_of(connection, number)) != row.parts_hash:
            faults.append(LedgerFault("epochs", str(number), "has other lines or covers than it was stored with"))
    return faults


def _live_faults(connection: Connection) -> list[LedgerFault]:
    """Live rows that are not what their usage checkpoints, their own hash and the epochs' covers make them.

    The newest usage checkpoint of a lease stays live, whatever is archived.
    """
    covers = live_covers(connection)
    newest = (
        select(usage_records.c.lease_name, func.max(usage_records.c.sequence).label("sequence"))
        .group_by(usage_records.c.lease_name)
        .subquery()
    )
    reading = [raw(lease_usage, name) for name in READING]
    checkpoint = [raw(usage_records, name).label(f"kept_{name}") for name in READING]
    moving = [lease_usage.c[name] for name in ("checkpoint_sequence", "hash", "unsealed", "uncovered")]
    cover = [lease_usage.c.epoch, lease_usage.c.covered_gpu_seconds]
    counted = raw(lease_usage, "checkpoint_at").label("checkpoint_at")
    query = (
        select(*reading, *checkpoint, *moving, *cover, counted, attempts.c.ended_at)
        .join(attempts, attempts.c.lease_name == lease_usage.c.lease_name, isouter=True)
        .join(newest, newest.c.lease_name == lease_usage.c.lease_name, isouter=True)
        .join(
            usage_records,
            (usage_records.c.lease_name == newest.c.lease_name) & (usage_records.c.sequence == newest.c.sequence),
            isouter=True,
        )
        .order_by(lease_usage.c.lease_name)
    )
    faults = []
    with connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)) as rows:
        for row in rows:
            why = _live_fault(row, covers.get(row[0], (None, 0)))
            if why:
                faults.append(LedgerFault(lease_usage.name, str(row[0]), why))
            if len(faults) >= MOST_NAMED:
                return faults
    # Not NOT IN: PostgreSQL compares every row with every other there once the list outgrows its work_mem.
    lost = (
        select(usage_records.c.lease_name)
        .where(~exists().where(lease_usage.c.lease_name == usage_records.c.lease_name))
        .order_by(usage_records.c.lease_name)
        .distinct()
        .limit(MOST_NAMED)
    )
    return faults + [
        LedgerFault(lease_usage.name, lease, "is missing, though there are usage checkpoints of it")
        for lease in connection.execute(lost).scalars()
    ]


def _live_fault(row: Any, cover: tuple[int | None, int]) -> str:
    """What is wrong with a row of the query above: a live row with its newest checkpoint; empty if nothing is."""
    width = len(READING)
    reading, kept = tuple(row[:width]), tuple(row[width : 2 * width])
    sequence, gpu_seconds = reading[1], reading[2]
    try:
        sound = live_hash(reading, row.checkpoint_at) == row.hash
    except TypeError:
        sound = False
    flags = (int(sequence > row.checkpoint_sequence), int(gpu_seconds > row.covered_gpu_seconds))
    if not sound or (row.unsealed, row.uncovered) != flags:
        return "was altered"
    if row.checkpoint_sequence != (kept[1] or 0):
        return f"names {row.checkpoint_sequence} as its newest usage checkpoint, which is {kept[1] or 0}"
    if kept[1] is not None and (sequence < kept[1] or gpu_seconds < kept[2]):
        return f"is below its newest usage checkpoint of {kept[2]} gpu-seconds at {kept[1]}"
    if kept[1] == sequence and kept != reading:
        return f"is not what its usage checkpoint at {sequence} holds"
    if row.ended_at is not None and row.unsealed:
        return "has ended without a usage checkpoint"
    if (row.epoch, row.covered_gpu_seconds) != cover:
        return f"is noted as covered to {row.covered_gpu_seconds} by epoch {row.epoch}, by the epochs to {cover[1]}"
    return ""


def _total_faults(connection: Connection) -> list[LedgerFault]:
    """Pairs whose totals are not what their attempts and live rows come to."""
    owed: defaultdict[PairKey, PairChange] = defaultdict(PairChange)
    query = select(
        *PAIR, attempts.c.price, attempts.c.ended_at, func.coalesce(lease_usage.c.gpu_seconds, 0).label("used")
    ).join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)
    with connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)) as rows:
        for row in rows:
            change = owed[row.tenant, row.provider, row.tenant_wallet, row.provider_wallet]
            change.gpu_seconds += row.used
            change.numerator += accrue(MicroUSD(row.price), row.used)
            change.open_attempts += row.ended_at is None
            change.ended_attempts += row.ended_at is not None
    held = {
        tuple(row[: len(TOTALS_KEY)]): tuple(map(str, row[len(TOTALS_KEY) :])) for row in connection.execute(_TOTALS)
    }
    right = {pair: tuple(str(getattr(change, name)) for name in TOTALS_SUMS) for pair, change in owed.items()}
    return [
        LedgerFault(pair_totals.name, " ".join(filter(None, pair)), "is not what its attempts and their usage come to")
        for pair in sorted({*held, *right})
        if held.get(pair) != right.get(pair)
    ][:MOST_NAMED]


_TOTALS = select(*TOTALS_KEY, *(pair_totals.c[name] for name in TOTALS_SUMS))
