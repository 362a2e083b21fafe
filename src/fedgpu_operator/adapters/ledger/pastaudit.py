"""The audit's part on archives: what the ledger records of its segments, what stays live of them, and their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from fedgpu_operator.adapters.ledger import archiving, segments
from fedgpu_operator.adapters.ledger.chaining import COLUMNS, genesis, raw
from fedgpu_operator.adapters.ledger.live import READING
from fedgpu_operator.adapters.ledger.schema import (
    archived_segments,
    epoch_leases,
    epoch_lines,
    epochs,
    lease_usage,
    metadata,
    opening_balances,
    postings,
    usage_records,
)
from fedgpu_operator.domain.ledger import EPOCH_CHAIN, LedgerFault, Segment

LEASES_AT_ONCE = 500

Judge = Callable[[int, bytes], str]
"""What is wrong with a chain's hash at a position by the heads that epochs were stored with; empty if nothing is."""


@dataclass
class Past:
    """What an audit found of the archives: where the live part of each chain begins, and what is wrong."""

    starts: dict[str, tuple[int, bytes]]
    """By chain: the last archived position and its hash."""
    epoch: int = 0
    """Manifests, lines and covers of epochs before this one are archived."""
    unread: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    faults: list[LedgerFault] = field(default_factory=list)
    strays: tuple[str, ...] = ()


def judge(connection: Connection, folder: Path | None, promised: dict[str, Judge]) -> Past:
    """Judge all segments; with a `folder` their files too. Of a chain the first fault alone is named."""
    by_chain: dict[str, list[Segment]] = defaultdict(list)
    for segment in archiving.archived(connection):
        by_chain[segment.chain].append(segment)
    found = Past({chain: _start(theirs) for chain, theirs in by_chain.items()})
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


def _start(theirs: Sequence[Segment]) -> tuple[int, bytes]:
    return theirs[-1].last, bytes.fromhex(theirs[-1].after)


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
    if archiving.hash_of_kept(connection, newest).hex() != newest.kept_hash:
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
        texts = archiving.kept_texts(self._connection, segment, position >= segment.first)
        return {segments.position_of(text): text for text in texts}

    def _take(self, segment: Segment, row: segments.SegmentRow) -> None:
        """What is read of a row beyond its place in the chain."""
        if self._chain == postings.name:
            self._add(row)
        elif self._chain == EPOCH_CHAIN:
            self._compare_covers(segment, row)
        elif self._chain == usage_records.name:
            self._readings[str(row.fields[0])] = row.fields
            if len(self._readings) >= LEASES_AT_ONCE:
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
                return [LedgerFault(opening_balances.name, _key(key), "is not what the archived postings come to")]
        return []


def _key(parts: Iterable[Any]) -> str:
    return " ".join(str(part) for part in parts)
