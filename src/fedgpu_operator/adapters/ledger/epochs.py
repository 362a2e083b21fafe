"""Settlement epochs, what they cover, and the escrow whose books these are; functions of one connection."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    Table,
    bindparam,
    case,
    exists,
    func,
    insert,
    select,
    update,
)

from fedgpu_operator.adapters.ledger.attempts import first_work
from fedgpu_operator.adapters.ledger.calls import Calls, from_database, from_memory, in_transaction
from fedgpu_operator.adapters.ledger.hashchain import Field, append, head, stamp
from fedgpu_operator.adapters.ledger.journal import post
from fedgpu_operator.adapters.ledger.schema import (
    archived_segments,
    attempts,
    bound_escrows,
    chain_intents,
    epoch_leases,
    epoch_lines,
    epochs,
    lease_usage,
    postings,
    receipts,
)
from fedgpu_operator.adapters.ledger.usage import PAIR, chunks, seal_live, totals_of
from fedgpu_operator.domain.attempts import UncoveredLease
from fedgpu_operator.domain.ledger import EPOCH_CHAIN, BoundEscrow, SealedBooks
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    Coverage,
    Epoch,
    EpochDraft,
    EpochHeader,
    EpochLine,
    EpochStage,
    LeaseCover,
    SettlementSnapshot,
)
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement import protocol

OPEN_STAGES = tuple(sorted(protocol.OPEN))
DEAD_STAGES = tuple(sorted(protocol.DEAD))
NEXT_STAGES = protocol.next_stages()


def settlement_snapshot(connection: Connection) -> SettlementSnapshot:
    """Every pair that owes something and every lease not covered to its end, of one moment."""
    rows = connection.execute(
        select(
            attempts.c.lease_name,
            *PAIR,
            attempts.c.price,
            lease_usage.c.gpu_seconds,
            lease_usage.c.covered_gpu_seconds,
        )
        .join(attempts, attempts.c.lease_name == lease_usage.c.lease_name)
        .where(lease_usage.c.uncovered == 1)
        .order_by(attempts.c.created_at, attempts.c.lease_name)
    )
    uncovered = tuple(
        UncoveredLease(
            lease_name=row.lease_name,
            tenant=row.tenant,
            provider=row.provider,
            price=MicroUSD(row.price),
            gpu_seconds=row.gpu_seconds,
            covered_gpu_seconds=row.covered_gpu_seconds,
            tenant_wallet=row.tenant_wallet,
            provider_wallet=row.provider_wallet,
        )
        for row in rows
    )
    pairs = tuple(pair for pair in totals_of(connection, None) if pair.numerator > 0)
    return SettlementSnapshot(pairs, uncovered)


def work_to_settle(connection: Connection) -> bool:
    """Whether any lease between two wallets is billed, at a price, beyond what live epochs cover."""
    owing = (
        select(lease_usage.c.lease_name)
        .join(attempts, attempts.c.lease_name == lease_usage.c.lease_name)
        .where(
            lease_usage.c.uncovered == 1,
            attempts.c.price > 0,
            attempts.c.tenant_wallet != "",
            attempts.c.provider_wallet != "",
        )
    )
    return connection.execute(owing.limit(1)).first() is not None


def seal(connection: Connection) -> SealedBooks:
    """Make a usage checkpoint of every newer live row; the books at those figures, and the heads that bind them."""
    seal_live(connection)
    return SealedBooks(settlement_snapshot(connection), head(connection))


def coverages(connection: Connection, lease_names: Collection[str]) -> dict[str, Coverage]:
    """How far each of these leases is settled, in the given order; LedgerError for one the ledger never opened."""
    found: dict[str, Coverage] = {}
    for part in chunks(lease_names):
        rows = connection.execute(
            select(
                attempts.c.lease_name,
                func.coalesce(lease_usage.c.gpu_seconds, 0),
                func.coalesce(lease_usage.c.covered_gpu_seconds, 0),
                lease_usage.c.epoch,
                epochs.c.stage,
            )
            .join(lease_usage, lease_usage.c.lease_name == attempts.c.lease_name, isouter=True)
            .join(epochs, epochs.c.number == lease_usage.c.epoch, isouter=True)
            .where(attempts.c.lease_name.in_(part))
        )
        for lease, used, covered, number, stage in rows:
            found[lease] = Coverage(lease, used, covered, number, None if stage is None else EpochStage(stage))
    for lease in lease_names:
        if lease not in found:
            raise LedgerError(f"no attempt was opened for lease {lease}")
    return {lease: found[lease] for lease in lease_names}


def store_epoch(connection: Connection, draft: EpochDraft, at: datetime) -> Epoch:
    """Keep an epoch with its lines and covers, all or nothing; the same manifest again gives the same epoch."""
    again = connection.execute(
        select(epochs.c.number).where(epochs.c.manifest_hash == draft.manifest_hash, epochs.c.stage.not_in(DEAD_STAGES))
    ).scalar_one_or_none()
    if again is not None:
        return _stored(connection, again)
    waiting = connection.execute(
        select(epochs.c.number, epochs.c.stage).where(epochs.c.stage.in_(OPEN_STAGES))
    ).one_or_none()
    if waiting is not None:
        raise LedgerError(f"epoch {waiting.number} is still {waiting.stage}: one epoch at a time")
    # Not a sequence of the database: those skip a number for each transaction that was given up.
    number: int = connection.execute(select(func.coalesce(func.max(epochs.c.number), 0) + 1)).scalar_one()
    row: tuple[Field, ...] = (
        number,
        draft.seq,
        draft.prev_root,
        draft.root,
        draft.manifest_hash,
        stamp(draft.period_end),
        draft.total,
        stamp(at),
        draft.ledger_head,
        parts_hash(draft.lines, draft.covers),
    )
    append(connection, epochs, [row], manifest=draft.manifest, stage=EpochStage.PREPARED.value)
    _store_parts(connection, number, draft)
    return _stored(connection, number)


def epoch(connection: Connection, number: int) -> Epoch | None:
    """One epoch with its lines and covers."""
    return next(iter(_read(connection, select(epochs).where(epochs.c.number == number))), None)


def epoch_with_manifest(connection: Connection, manifest_hash: str) -> Epoch | None:
    """The newest epoch whose manifest has that hash."""
    number = connection.execute(
        select(func.max(epochs.c.number)).where(epochs.c.manifest_hash == manifest_hash)
    ).scalar_one()
    return None if number is None else epoch(connection, number)


def epochs_newest(connection: Connection, limit: int = 100) -> tuple[Epoch, ...]:
    """The last epochs, newest first, in three queries."""
    return _read(connection, select(epochs).order_by(epochs.c.number.desc()).limit(limit))


def headers_newest(connection: Connection, limit: int = 100) -> tuple[EpochHeader, ...]:
    """The last epochs without manifest, lines and covers, newest first."""
    columns = [column for column in epochs.c if column.name != "manifest"]
    return tuple(
        EpochHeader(
            number=row.number,
            seq=row.seq,
            root=row.root,
            manifest_hash=row.manifest_hash,
            stage=EpochStage(row.stage),
            created_at=row.created_at,
            chain_epoch=row.chain_epoch,
            post_tx=row.post_tx,
        )
        for row in connection.execute(select(*columns).order_by(epochs.c.number.desc()).limit(limit))
    )


def parts_of(connection: Connection, number: int) -> tuple[tuple[EpochLine, ...], tuple[LeaseCover, ...]]:
    """The lines and the covers of an epoch."""
    lines, covers = _parts(connection, [number])
    return lines[number], covers[number]


def parts_hash(lines: Iterable[EpochLine], covers: Iterable[LeaseCover]) -> bytes:
    """SHA-256 over the JSON of an epoch's lines and covers, each sorted, so that the chain over epochs binds them."""
    rows: list[list[str]] = [
        [line.tenant, line.provider, line.tenant_wallet, line.provider_wallet, str(line.cumulative)] for line in lines
    ]
    leases = [[cover.lease_name, str(cover.gpu_seconds)] for cover in covers]
    text = json.dumps([sorted(rows), sorted(leases)], ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode()).digest()


def mark_epoch(
    connection: Connection,
    number: int,
    stage: EpochStage,
    *,
    chain_epoch: int | None = None,
    post_tx: str | None = None,
    skipped: Collection[str] = (),
) -> Epoch:
    """Move an epoch along; its transaction and chain number are kept with it where given.

    `skipped` are tenant wallets that the chain took nothing from: their leases are no longer covered by it.
    """
    found = _stored(connection, number)
    if stage is not found.stage and stage not in NEXT_STAGES[found.stage]:
        raise LedgerError(f"epoch {number} is {found.stage}, it cannot become {stage}")
    values: dict[str, object] = {"stage": stage}
    if chain_epoch is not None:
        values["chain_epoch"] = chain_epoch
    if post_tx is not None:
        values["post_tx"] = post_tx
    connection.execute(update(epochs).where(epochs.c.number == number).values(values))
    if skipped:
        theirs = select(attempts.c.lease_name).where(attempts.c.tenant_wallet.in_(skipped))
        connection.execute(
            update(epoch_leases)
            .where(epoch_leases.c.epoch == number, epoch_leases.c.lease_name.in_(theirs))
            .values(skipped=1)
        )
    if skipped or (stage in protocol.DEAD and stage is not found.stage):
        _cover_again(connection, number)
    return _stored(connection, number)


def live_covers(connection: Connection, *which: ColumnElement[bool]) -> dict[str, tuple[int, int]]:
    """By lease: the newest live epoch that covers it, and how far, from what the epochs were stored with."""
    rows = connection.execute(
        select(epoch_leases.c.lease_name, epoch_leases.c.epoch, epoch_leases.c.gpu_seconds)
        .join(epochs, epochs.c.number == epoch_leases.c.epoch)
        .where(epoch_leases.c.skipped == 0, epochs.c.stage.not_in(DEAD_STAGES), *which)
        .order_by(epoch_leases.c.epoch)
    )
    return {lease: (number, gpu_seconds) for lease, number, gpu_seconds in rows}


def _cover_again(connection: Connection, number: int) -> None:
    """Take back what this epoch covers no more: its leases are covered as far as an earlier or a later one does."""
    theirs = select(epoch_leases.c.lease_name).where(epoch_leases.c.epoch == number)
    left = live_covers(connection, epoch_leases.c.lease_name.in_(theirs))
    leases = connection.execute(theirs).scalars().all()
    _cover(connection, [(lease, *left.get(lease, (None, 0))) for lease in leases])


def _cover(connection: Connection, covers: Iterable[tuple[str, int | None, int]]) -> None:
    """Note on the live rows of these leases which epoch covers them, and how far."""
    rows = [{"of_lease": lease, "by": number, "up_to": gpu_seconds} for lease, number, gpu_seconds in covers]
    if rows:
        up_to = bindparam("up_to", type_=BigInteger)
        connection.execute(
            update(lease_usage)
            .where(lease_usage.c.lease_name == bindparam("of_lease"))
            .values(
                epoch=bindparam("by", type_=Integer),
                covered_gpu_seconds=up_to,
                uncovered=case((lease_usage.c.gpu_seconds > up_to, 1), else_=0),
            ),
            rows,
        )


def _read(connection: Connection, query: Select[Any]) -> tuple[Epoch, ...]:
    """Epochs, rows of the table, with their lines and covers."""
    rows = connection.execute(query).all()
    lines, covers = _parts(connection, [row.number for row in rows])
    return tuple(_epoch(row, lines[row.number], covers[row.number]) for row in rows)


def _epoch(row: Row[Any], lines: tuple[EpochLine, ...], covers: tuple[LeaseCover, ...]) -> Epoch:
    draft = EpochDraft(
        seq=row.seq,
        prev_root=row.prev_root,
        root=row.root,
        manifest=row.manifest,
        manifest_hash=row.manifest_hash,
        period_end=row.period_end,
        total=MicroUSD(row.total),
        lines=lines,
        covers=covers,
        ledger_head=row.ledger_head,
    )
    return Epoch(row.number, draft, EpochStage(row.stage), row.created_at, row.chain_epoch, row.post_tx)


def _parts(
    connection: Connection, numbers: Collection[int]
) -> tuple[dict[int, tuple[EpochLine, ...]], dict[int, tuple[LeaseCover, ...]]]:
    """By epoch: its lines by pair, and its covers by lease."""
    lines: dict[int, list[EpochLine]] = {number: [] for number in numbers}
    covers: dict[int, list[LeaseCover]] = {number: [] for number in numbers}
    for part in chunks(numbers):
        for each in connection.execute(
            select(epoch_lines)
            .where(epoch_lines.c.epoch.in_(part))
            .order_by(epoch_lines.c.tenant, epoch_lines.c.provider)
        ):
            wallets = (each.tenant_wallet, each.provider_wallet)
            lines[each.epoch].append(EpochLine(each.tenant, each.provider, *wallets, MicroUSD(each.cumulative)))
        for cover in connection.execute(
            select(epoch_leases).where(epoch_leases.c.epoch.in_(part)).order_by(epoch_leases.c.lease_name)
        ):
            covers[cover.epoch].append(LeaseCover(cover.lease_name, cover.gpu_seconds))
    return (
        {number: tuple(found) for number, found in lines.items()},
        {number: tuple(found) for number, found in covers.items()},
    )


def _store_parts(connection: Connection, number: int, draft: EpochDraft) -> None:
    states = coverages(connection, [cover.lease_name for cover in draft.covers])
    for cover in draft.covers:
        state = states[cover.lease_name]
        if not state.covered_gpu_seconds < cover.gpu_seconds <= state.gpu_seconds:
            raise LedgerError(
                f"an epoch cannot cover {cover.gpu_seconds} gpu-seconds of {cover.lease_name}: "
                f"{state.covered_gpu_seconds} are covered and {state.gpu_seconds} billed"
            )
    if draft.lines:
        connection.execute(
            insert(epoch_lines),
            [
                {
                    "epoch": number,
                    "tenant": line.tenant,
                    "provider": line.provider,
                    "tenant_wallet": line.tenant_wallet,
                    "provider_wallet": line.provider_wallet,
                    "cumulative": line.cumulative,
                }
                for line in draft.lines
            ],
        )
    if draft.covers:
        connection.execute(
            insert(epoch_leases),
            [{"epoch": number, "lease_name": c.lease_name, "gpu_seconds": c.gpu_seconds} for c in draft.covers],
        )
        _cover(connection, [(c.lease_name, number, c.gpu_seconds) for c in draft.covers])


def _stored(connection: Connection, number: int) -> Epoch:
    found = epoch(connection, number)
    if found is None:
        raise LedgerError(f"epoch {number} not found in the ledger")
    return found


SETTLED: tuple[Table, ...] = (epochs, chain_intents, postings, receipts)
"""Tables of which one row ties the ledger to its escrow; the guard of the database knows the same ones."""


def bind(connection: Connection, wanted: BoundEscrow) -> BoundEscrow:
    """The escrow that the ledger is bound to from now on: `wanted`, unless the books are those of another one.

    Until anything was settled another escrow may take the place of the last one: its address may have been mistyped
    while the chain did not answer. A ledger from before there were bindings is held to its newest epoch's manifest.
    """
    held = bound(connection)
    if held == wanted:
        return held
    if held is None:
        newest = connection.execute(select(epochs.c.manifest).order_by(epochs.c.number.desc()).limit(1)).scalar()
        held = None if newest is None else named_in(newest)
        if held not in (None, wanted):
            return held
    elif any(connection.execute(select(exists().select_from(table))).scalar_one() for table in SETTLED):
        return held
    connection.execute(insert(bound_escrows).values(chain_id=wanted.chain_id, escrow=wanted.escrow))
    return wanted


def bound(connection: Connection) -> BoundEscrow | None:
    """The escrow that the ledger is bound to; None before it was first opened to settle."""
    row = connection.execute(select(bound_escrows).order_by(bound_escrows.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else BoundEscrow(row.chain_id, row.escrow)


def named_in(manifest: bytes) -> BoundEscrow | None:
    """The escrow that an epoch's manifest names; None if it names none that can be read."""
    try:
        told = json.loads(manifest)
        return BoundEscrow(int(told["chainId"]), str(told["escrow"]))
    except (ValueError, KeyError, TypeError):
        return None


def archived_until(connection: Connection) -> int:
    """The ledger's number of the newest epoch whose manifest is in a segment; 0 for none."""
    newest = select(func.max(archived_segments.c.last_position)).where(archived_segments.c.chain == EPOCH_CHAIN)
    return connection.execute(newest).scalar_one() or 0


class SqlEpochs(Calls):
    """Epochs and double entries of an open ledger (ports.EpochBook)."""

    first_work = from_memory(first_work)
    work_to_settle = from_memory(work_to_settle)
    settlement_snapshot = from_memory(settlement_snapshot)
    head = from_memory(head)
    seal = in_transaction(seal)
    store_epoch = in_transaction(store_epoch)
    mark_epoch = in_transaction(mark_epoch)
    epoch = from_database(epoch)
    epoch_with_manifest = from_database(epoch_with_manifest)
    epochs = from_memory(epochs_newest)
    epoch_headers = from_memory(headers_newest)
    coverages = from_database(coverages)
    archived_until = from_database(archived_until)
    post = in_transaction(post)
