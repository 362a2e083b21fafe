"""Archives a ledger: writes segments of the chains to files, reads them back, and only then removes their rows.

Every boundary is the head that an epoch was stored over, so a segment ends in a hash that the epoch's manifest names.
It runs next to the operator: rows below a boundary never change, and no figure that is read of the books changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)

from fedgpu_operator.adapters.ledger import segments
from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.adapters.ledger.epochs import DEAD_STAGES, parts_of
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, ROWS_AT_ONCE, canonical, genesis, raw
from fedgpu_operator.adapters.ledger.schema import (
    archived_segments,
    attempts,
    chain_intents,
    epoch_leases,
    epoch_lines,
    epochs,
    lease_usage,
    metadata,
    opening_balances,
    postings,
    receipts,
    usage_disputes,
    usage_records,
)
from fedgpu_operator.domain.ledger import (
    ARCHIVED_CHAINS,
    EPOCH_CHAIN,
    Archived,
    ArchiveWish,
    ChainHead,
    LedgerHead,
    Segment,
    UsageDisputeState,
)
from fedgpu_operator.domain.settlement import EpochStage
from fedgpu_operator.domain.transactions import IntentState
from fedgpu_operator.errors import ConfigurationError, LedgerError

ROWS_TOGETHER = 25_000
"""Rows after which a run ends at the next epoch: an operator's writes wait while they are removed, for some seconds."""
OVER = frozenset({EpochStage.PAID.value, *DEAD_STAGES})
"""Stages in which nothing more happens to an epoch."""

EFFECTIVE = and_(epoch_leases.c.skipped == 0, epochs.c.stage.not_in(DEAD_STAGES))
"""Covers that count, of `epoch_leases` joined with `epochs`."""


def archive(
    location: str,
    folder: Path,
    wish: ArchiveWish,
    at: datetime,
    note: segments.Note = segments.silent,
    *,
    dry_run: bool = False,
) -> Archived:
    """Archive the ledger at `location` into a folder as far as wished and nothing needs it any more.

    Repeating it goes on from where the last run ended. After a death before the rows were removed the next run writes
    the same files again. Raises ConfigurationError if the folder does not exist or another run has the ledger, and
    LedgerError if rows are not those of their chain, in which case nothing is removed.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"folder not found: {folder}")
    database = Database.open(location, read_only=True) if dry_run else Database.for_archiving(location)
    try:
        if dry_run:
            return database.snapshot(lambda connection: _plan(connection, folder, wish, at, most=None))
        done = _one_run(database, folder, wish, at, note)
        # A run that ended early, for the operator's sake, is followed by the next one.
        while done.more:
            done = _joined(done, _one_run(database, folder, wish, at, note))
        return done
    finally:
        database.close()


def _one_run(database: Database, folder: Path, wish: ArchiveWish, at: datetime, note: segments.Note) -> Archived:
    plan = database.snapshot(lambda connection: _plan(connection, folder, wish, at, most=ROWS_TOGETHER))
    if plan.nothing:
        return plan
    written = database.snapshot(lambda connection: _write(connection, folder, plan, note))
    for segment in written:
        _read_back(folder, segment)
    cleared = database.once(lambda connection: _remove(connection, replace(plan, segments=written), at))
    return replace(cleared, bytes=sum((folder / each.file).stat().st_size for each in written if each.file))


def _joined(first: Archived, then: Archived) -> Archived:
    """What two runs, one after the other, did together."""
    removed = {name: count + then.removed.get(name, 0) for name, count in first.removed.items()}
    return replace(
        then,
        segments=first.segments + tuple(each for each in then.segments if not then.nothing),
        removed=removed,
        bytes=first.bytes + then.bytes,
        missing=tuple(sorted({*first.missing, *then.missing})),
    )


def archived(connection: Connection) -> tuple[Segment, ...]:
    """Every segment, by run and chain."""
    rows = connection.execute(select(archived_segments).order_by(archived_segments.c.number, archived_segments.c.chain))
    return tuple(
        Segment(
            number=row.number,
            chain=row.chain,
            first=row.first_position,
            last=row.last_position,
            before=row.hash_before.hex(),
            after=row.hash_after.hex(),
            epoch=row.epoch,
            file=row.file,
            digest=row.digest.hex(),
            kept_hash=row.kept_hash.hex(),
            at=row.at,
        )
        for row in rows
    )


def newest(all_segments: tuple[Segment, ...]) -> dict[str, Segment]:
    """The last segment of each chain."""
    return {segment.chain: segment for segment in all_segments}


# ---------------------------------------------------------------- how far


def _plan(connection: Connection, folder: Path, wish: ArchiveWish, at: datetime, *, most: int | None) -> Archived:
    before = archived(connection)
    last = newest(before)
    boundary, why = _boundary(connection, wish, most, last)
    parts_wish = replace(wish, before=_first_whole(connection, wish))
    parts_boundary, _ = _boundary(connection, parts_wish, most, last)
    number = 1 + max((segment.number for segment in before), default=0)
    found = []
    for chain in ARCHIVED_CHAINS:
        limit = parts_boundary if chain == EPOCH_CHAIN else boundary
        found.append(_segment(number, chain, last.get(chain), limit, at))
    missing = _missing(connection, folder, before, tuple(found))
    plan = Archived(tuple(found), {}, {}, why, missing=missing, more=why == MORE)
    removable = {table.name: _removable(table, plan.segments, before, missing) for table in _TABLES}
    return replace(plan, removed=_counts(connection, removable), kept=_left(connection, removable, plan.segments))


@dataclass(frozen=True, slots=True)
class _Boundary:
    epoch: int
    head: LedgerHead


MORE = "the rest is left to the next run"


def _boundary(
    connection: Connection, wish: ArchiveWish, most: int | None, last: Mapping[str, Segment]
) -> tuple[_Boundary | None, str]:
    """The newest epoch whose head can end a segment, and what holds the one after it back.

    With `most`, the first one at which at least so many rows lie beyond the last segments.
    """
    begun = {chain: segment.last for chain, segment in last.items()}
    columns = (epochs.c.number, epochs.c.stage, epochs.c.period_end, epochs.c.chain_epoch, epochs.c.ledger_head)
    intents = select(chain_intents.c.epoch).where(chain_intents.c.state == IntentState.OPEN.value)
    busy = set(connection.execute(intents.where(chain_intents.c.epoch.is_not(None))).scalars())
    found: _Boundary | None = None
    rows = connection.execute(select(*columns).order_by(epochs.c.number)).all()
    for row in rows:
        why = _needed(row, wish, busy)
        if why:
            return found, why
        if row.stage == EpochStage.PAID.value and row.ledger_head:
            found = _Boundary(row.number, LedgerHead.parse(row.ledger_head))
            if most is not None and _rows_beyond(found.head, begun) >= most:
                return found, MORE
    return found, "" if rows else "the ledger has no epochs: a segment ends where an epoch was stored"


def _rows_beyond(head: LedgerHead, begun: Mapping[str, int]) -> int:
    return sum(end.length - begun.get(chain, 0) for chain, end in head.chains.items() if chain in ARCHIVED_CHAINS[1:])


def _needed(row: Any, wish: ArchiveWish, busy: set[int]) -> str:
    """Why an epoch, and with it all that was appended since the one before, is still needed; empty if it is not."""
    if wish.before is not None and row.number >= wish.before:
        return f"epoch {row.number} is not before epoch {wish.before}"
    if wish.until is not None and row.period_end > wish.until:
        return f"the period of epoch {row.number} ended after {wish.until.isoformat(timespec='seconds')}"
    if row.stage not in OVER:
        return f"epoch {row.number} is {row.stage}: it is not paid yet"
    if row.number in busy:
        return f"epoch {row.number} has an open intent"
    if wish.over is not None and row.chain_epoch is not None and row.chain_epoch > wish.over:
        return f"epoch {row.number}: its challenge, ruling and exit time is not over"
    return ""


def _first_whole(connection: Connection, wish: ArchiveWish) -> int:
    """The first of the newest epochs whose parts stay live: a pass of the operator reads so many."""
    numbers = connection.execute(select(epochs.c.number).order_by(epochs.c.number.desc()).limit(wish.whole)).scalars()
    first = min(numbers, default=1)
    # The parts of the boundary's own epoch stay as well.
    return min(first + 1, wish.before) if wish.before is not None else first + 1


def _segment(number: int, chain: str, last: Segment | None, limit: _Boundary | None, at: datetime) -> Segment:
    """The next segment of a chain; without rows unless a boundary lies beyond the last one."""
    start = ChainHead(last.last, last.after) if last else ChainHead(0, genesis(chain).hex())
    end, epoch = start, last.epoch if last else 0
    if limit is not None and limit.epoch > epoch:
        end, epoch = limit.head.chains.get(chain, start), limit.epoch
    if end.length < start.length:
        raise LedgerError(f"epoch {epoch} was stored over fewer rows of {chain} than are archived: verify the ledger")
    file = segments.name_of(chain, start.length + 1, end.length) if end.length > start.length else ""
    return Segment(number, chain, start.length + 1, end.length, start.hash, end.hash, epoch, file, "", "", at)


# ---------------------------------------------------------------- what may go

_TABLES: tuple[Table, ...] = (usage_records, postings, receipts, epoch_lines, epoch_leases, epochs)
"""Tables that an archive run removes rows from; of `epochs` only the manifests."""

_CHAIN_OF = {epoch_lines.name: EPOCH_CHAIN, epoch_leases.name: EPOCH_CHAIN}


def _missing(
    connection: Connection, folder: Path, before: tuple[Segment, ...], found: tuple[Segment, ...]
) -> tuple[str, ...]:
    """Files of earlier segments that are not in the folder as they were written, though rows of theirs could go."""
    all_of = {table: _removable(table, found, before, ()) for table in _TABLES}

    def could_go(segment: Segment) -> bool:
        tables = [table for table in _TABLES if _CHAIN_OF.get(table.name, table.name) == segment.chain]
        return any(
            connection.execute(
                select(exists().where(_within(table, segment), all_of[table]).select_from(table))
            ).scalar_one()
            for table in tables
        )

    return tuple(each.file for each in before if each.rows and could_go(each) and not segments.holds(folder, each))


def _within(table: Table, segment: Segment) -> ColumnElement[bool]:
    """Rows of the table that are in the segment."""
    if segment.chain != EPOCH_CHAIN or table is epochs:
        return table.c.position.between(segment.first, segment.last)
    numbers = select(epochs.c.number).where(epochs.c.position.between(segment.first, segment.last))
    return table.c.epoch.in_(numbers)


def _removable(
    table: Table, found: tuple[Segment, ...], before: tuple[Segment, ...], missing: tuple[str, ...]
) -> ColumnElement[bool]:
    """Which rows of the table go: in a segment, needed by nothing, and in a file that is there."""
    chain = _CHAIN_OF.get(table.name, table.name)
    segment = newest(found)[chain]
    gone = [each for each in before if each.chain == chain and each.file in missing]
    held = or_(false(), *(_within(table, each) for each in gone))
    if chain != EPOCH_CHAIN:
        return and_(table.c.position <= segment.last, ~held, ~kept(table))
    number = epochs.c.number if table is epochs else table.c.epoch
    return and_(number < segment.epoch, ~held, ~kept(table, segment.epoch))


def kept(table: Table, epoch: int = 0) -> ColumnElement[bool]:
    """Rows that something still needs, though a file holds them; `epoch` is the one whose head is the boundary."""
    if table is usage_records:
        running = select(attempts.c.lease_name).where(attempts.c.ended_at.is_(None))
        disputed = select(usage_disputes.c.lease_name).where(usage_disputes.c.state == UsageDisputeState.OPEN.value)
        # The newest of each lease is what its live row is held to, however late it is moved again.
        last = select(lease_usage.c.lease_name, lease_usage.c.checkpoint_sequence)
        newest = tuple_(table.c.lease_name, table.c.sequence).in_(last)
        return or_(table.c.lease_name.in_(running), table.c.lease_name.in_(disputed), newest)
    if table is receipts:
        theirs = receipts.alias()
        last = select(func.max(theirs.c.position)).group_by(theirs.c.tenant_wallet, theirs.c.provider_wallet)
        return table.c.position.in_(last)
    if table is epoch_leases:
        # How far a lease is covered without the epochs after the boundary, which may still come to nothing.
        covers, stages = epoch_leases.alias(), epochs.alias()
        last = (
            select(covers.c.lease_name, func.max(covers.c.epoch))
            .join(stages, stages.c.number == covers.c.epoch)
            .where(covers.c.skipped == 0, stages.c.stage.not_in(DEAD_STAGES), covers.c.epoch <= epoch)
            .group_by(covers.c.lease_name)
        )
        return tuple_(table.c.lease_name, table.c.epoch).in_(last)
    if table is epochs:
        return func.length(table.c.manifest) == 0
    return false()


def _counts(connection: Connection, removable: Mapping[str, ColumnElement[bool]]) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(metadata.tables[name]).where(condition)).scalar_one()
        for name, condition in removable.items()
    }


def _left(
    connection: Connection, removable: Mapping[str, ColumnElement[bool]], found: tuple[Segment, ...]
) -> dict[str, int]:
    """Rows below the boundaries that stay live, by table."""
    last = newest(found)
    left = {}
    for table in (usage_records, receipts, epoch_leases):
        chain = _CHAIN_OF.get(table.name, table.name)
        below = table.c.epoch < last[chain].epoch if chain == EPOCH_CHAIN else table.c.position <= last[chain].last
        query = select(func.count()).select_from(table).where(below, ~removable[table.name])
        left[table.name] = connection.execute(query).scalar_one()
    return left


# ---------------------------------------------------------------- files first


def _write(connection: Connection, folder: Path, plan: Archived, note: segments.Note) -> tuple[Segment, ...]:
    written = []
    for segment in plan.segments:
        if segment.rows:
            lines = _noted(_lines(connection, segment), segment, note)
            segment = replace(segment, digest=segments.write(folder, segment, lines))
        written.append(segment)
    return tuple(written)


def _noted(lines: Iterator[bytes], segment: Segment, note: segments.Note) -> Iterator[bytes]:
    for done, line in enumerate(lines):
        if done % ROWS_AT_ONCE == 0:
            note(segment.chain, min(done, segment.rows), segment.rows)
        yield line


def _lines(connection: Connection, segment: Segment) -> Iterator[bytes]:
    """The canonical texts of a segment's rows; LedgerError at one that is not the row that the chain was made with."""
    table = metadata.tables[segment.chain]
    query = (
        select(table.c.position, table.c.hash, *_raw(table))
        .where(table.c.position.between(segment.first, segment.last))
        .order_by(table.c.position)
    )
    last, place = bytes.fromhex(segment.before), segment.first - 1
    with connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)) as result:
        for position, stored, *fields in result:
            text = canonical(segment.chain, position, fields)
            last, place = sha256(last + text).digest(), place + 1
            if (position, stored) != (place, last):
                raise LedgerError(f"{segment.chain}, position {place}, is not sound: run `fedgpu ledger verify`")
            yield text
            if segment.chain == EPOCH_CHAIN:
                yield segments.parts_text(fields[0], _parts(connection, fields[0]))
    if (place, last.hex()) != (segment.last, segment.after):
        raise LedgerError(
            f"{segment.chain} is not what epoch {segment.epoch} was stored over: run `fedgpu ledger verify`"
        )


def _raw(table: Table) -> list[ColumnElement[Any]]:
    """The columns that the table's chain binds, as they are stored."""
    return [raw(table, name) for name in COLUMNS[table.name]]


def _parts(connection: Connection, number: int) -> segments.Parts:
    manifest = connection.execute(select(epochs.c.manifest).where(epochs.c.number == number)).scalar_one()
    lines, covers = parts_of(connection, number)
    skipped = select(epoch_leases.c.lease_name).where(epoch_leases.c.epoch == number, epoch_leases.c.skipped != 0)
    return segments.Parts(
        manifest,
        (
            sorted(
                [line.tenant, line.provider, line.tenant_wallet, line.provider_wallet, str(line.cumulative)]
                for line in lines
            ),
            sorted([cover.lease_name, str(cover.gpu_seconds)] for cover in covers),
        ),
        tuple(sorted(connection.execute(skipped).scalars())),
    )


def _read_back(folder: Path, segment: Segment) -> None:
    """Read a file from the disk and judge all of it; LedgerError unless it is the segment."""
    if not segment.rows:
        return
    try:
        for _ in segments.rows_of(folder, segment):
            pass
    except segments.SegmentError as error:
        raise LedgerError(f"nothing was removed: {error.key} {error.why}".replace("  ", " ")) from error


# ---------------------------------------------------------------- then the rows


def _remove(connection: Connection, plan: Archived, at: datetime) -> Archived:
    """Record the segments and remove what they hold, in the transaction of `connection`."""
    before = archived(connection)
    number = plan.segments[0].number
    if max((segment.number for segment in before), default=0) != number - 1:
        raise LedgerError("the ledger was archived by somebody else meanwhile: run it again")
    removable = {table.name: _removable(table, plan.segments, before, plan.missing) for table in _TABLES}
    left = _left(connection, removable, plan.segments)
    _open_balances(connection, newest(plan.segments)[postings.name])
    hashes = {each.chain: _kept_hash(connection, each, removable) for each in plan.segments}
    connection.execute(
        insert(archived_segments),
        [
            {
                "number": each.number,
                "chain": each.chain,
                "first_position": each.first,
                "last_position": each.last,
                "hash_before": bytes.fromhex(each.before),
                "hash_after": bytes.fromhex(each.after),
                "epoch": each.epoch,
                "file": each.file,
                "digest": bytes.fromhex(each.digest),
                "kept_hash": hashes[each.chain],
                "at": at,
            }
            for each in plan.segments
        ],
    )
    removed = {}
    for table in _TABLES:
        if table is epochs:
            statement: Any = update(epochs).where(removable[table.name]).values(manifest=b"")
        else:
            statement = delete(table).where(removable[table.name])
        removed[table.name] = connection.execute(statement).rowcount
    recorded = tuple(replace(each, kept_hash=hashes[each.chain].hex()) for each in plan.segments)
    return replace(plan, segments=recorded, removed=removed, kept=left)


def _open_balances(connection: Connection, segment: Segment) -> None:
    """Carry the sums of a segment's postings forward, by position and leg, with the last entry and block of each."""
    key = (postings.c.kind, postings.c.tenant_wallet, postings.c.provider_wallet, postings.c.leg, postings.c.account)
    sums = connection.execute(
        select(*key, func.sum(postings.c.amount), func.max(postings.c.entry), func.max(postings.c.block))
        .where(postings.c.position.between(segment.first, segment.last))
        .group_by(*key)
    ).all()
    balances = opening_balances.c
    for kind, tenant, provider, leg, account, amount, entry, block in sums:
        this = (balances.kind == kind, balances.tenant_wallet == tenant, balances.provider_wallet == provider)
        row = connection.execute(select(opening_balances).where(*this, balances.leg == leg)).one_or_none()
        values: dict[str, object] = {"entry": entry, "segment": segment.number}
        if row is None:
            names = {"kind": kind, "tenant_wallet": tenant, "provider_wallet": provider, "leg": leg}
            fresh = names | values | {"account": account, "amount": int(amount), "block": block}
            connection.execute(insert(opening_balances).values(fresh))
            continue
        values |= {"amount": row.amount + int(amount), "block": max(filter(None, (row.block, block)), default=block)}
        connection.execute(update(opening_balances).where(*this, balances.leg == leg).values(values))


def _kept_hash(connection: Connection, segment: Segment, removable: Mapping[str, ColumnElement[bool]]) -> bytes:
    """SHA-256 over what stays live of all rows up to the boundary."""
    table = {EPOCH_CHAIN: epoch_leases}.get(segment.chain, metadata.tables[segment.chain])
    return hash_of_kept(connection, segment, ~removable[table.name])


def hash_of_kept(connection: Connection, segment: Segment, stays: ColumnElement[bool] | None = None) -> bytes:
    """The same as the ledger is: of rows up to the boundary, of openings, or of covers of archived epochs.

    Each row is hashed as a line of its own: its text as a chain has it, by position or by key.
    """
    digest = sha256()
    for text in kept_texts(connection, segment, true() if stays is None else stays):
        digest.update(text + b"\n")
    return digest.digest()


def kept_texts(connection: Connection, segment: Segment, stays: ColumnElement[bool] | None = None) -> Iterator[bytes]:
    """The lines that `hash_of_kept` is over."""
    stays = true() if stays is None else stays
    if segment.chain == postings.name:
        o = opening_balances.c
        columns = (o.kind, o.tenant_wallet, o.provider_wallet, o.leg, o.account, o.amount, o.entry, o.block)
        sums = select(*columns).order_by(o.kind, o.tenant_wallet, o.provider_wallet, o.leg)
        for number, each in enumerate(connection.execute(sums).all(), start=1):
            yield canonical(opening_balances.name, number, each)
        return
    if segment.chain == EPOCH_CHAIN:
        c = epoch_leases.c
        covers = select(c.lease_name, c.epoch, c.gpu_seconds).where(c.epoch < segment.epoch, stays)
        for number, row in enumerate(connection.execute(covers.order_by(c.lease_name, c.epoch)).all(), start=1):
            yield canonical(epoch_leases.name, number, row)
        return
    table = metadata.tables[segment.chain]
    rows = select(table.c.position, *_raw(table)).where(table.c.position <= segment.last, stays)
    for position, *fields in connection.execute(rows.order_by(table.c.position)):
        yield canonical(segment.chain, position, fields)
