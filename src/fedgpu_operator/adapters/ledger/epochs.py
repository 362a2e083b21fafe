"""Settlement epochs and what they cover; functions of one connection."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from hashlib import sha256

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from fedgpu_operator.adapters.ledger.attempts import PAIR, newest_gpu_seconds, pair_totals
from fedgpu_operator.adapters.ledger.chaining import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import attempts, epoch_leases, epoch_lines, epochs
from fedgpu_operator.domain.books import (
    Coverage,
    Epoch,
    EpochDraft,
    EpochLine,
    EpochStage,
    LeaseCover,
    SettlementSnapshot,
    UncoveredLease,
)
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement import protocol

OPEN_STAGES = tuple(sorted(protocol.OPEN))
DEAD_STAGES = tuple(sorted(protocol.DEAD))
NEXT_STAGES = protocol.next_stages()


def settlement_snapshot(connection: Connection) -> SettlementSnapshot:
    """Every pair that owes something and every lease not covered to its end, of one moment."""
    leases = select(
        attempts.c.lease_name,
        *PAIR,
        attempts.c.price,
        attempts.c.created_at,
        func.coalesce(newest_gpu_seconds(), 0).label("gpu_seconds"),
        _covered().label("covered"),
    ).subquery()
    rows = connection.execute(
        select(leases).where(leases.c.gpu_seconds > leases.c.covered).order_by(leases.c.created_at, leases.c.lease_name)
    )
    uncovered = tuple(
        UncoveredLease(
            lease_name=row.lease_name,
            tenant=row.tenant,
            provider=row.provider,
            price=MicroUSD(row.price),
            gpu_seconds=row.gpu_seconds,
            covered_gpu_seconds=row.covered,
            tenant_wallet=row.tenant_wallet,
            provider_wallet=row.provider_wallet,
        )
        for row in rows
    )
    pairs = tuple(pair for pair in pair_totals(connection, None) if pair.numerator > 0)
    return SettlementSnapshot(pairs, uncovered)


def coverage(connection: Connection, lease: str) -> Coverage:
    """How far a lease is settled; LedgerError for a lease the ledger never opened."""
    used = connection.execute(
        select(func.coalesce(newest_gpu_seconds(), 0)).select_from(attempts).where(attempts.c.lease_name == lease)
    ).scalar_one_or_none()
    if used is None:
        raise LedgerError(f"no attempt was opened for lease {lease}")
    row = connection.execute(
        select(epoch_leases.c.gpu_seconds, epochs.c.number, epochs.c.stage)
        .join(epochs, epochs.c.number == epoch_leases.c.epoch)
        .where(epoch_leases.c.lease_name == lease, epoch_leases.c.skipped == 0, epochs.c.stage.not_in(DEAD_STAGES))
        .order_by(epochs.c.number.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return Coverage(lease, used, 0, None, None)
    return Coverage(lease, used, row.gpu_seconds, row.number, EpochStage(row.stage))


def store_epoch(connection: Connection, draft: EpochDraft, at: datetime) -> Epoch:
    """Keep an epoch with its lines and covers, all or nothing; the same manifest again gives the same epoch."""
    again = connection.execute(
        select(epochs.c.number).where(epochs.c.manifest_hash == draft.manifest_hash, epochs.c.stage.not_in(DEAD_STAGES))
    ).scalar_one_or_none()
    if again is not None:
        return _stored(connection, again)
    waiting = open_epoch(connection)
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


def open_epoch(connection: Connection) -> Epoch | None:
    """The one epoch that is Prepared or Posted."""
    number = connection.execute(select(epochs.c.number).where(epochs.c.stage.in_(OPEN_STAGES))).scalar_one_or_none()
    return None if number is None else _stored(connection, number)


def epoch(connection: Connection, number: int) -> Epoch | None:
    """One epoch with its lines and covers."""
    row = connection.execute(select(epochs).where(epochs.c.number == number)).one_or_none()
    if row is None:
        return None
    lines, covers = parts_of(connection, number)
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
    return Epoch(number, draft, EpochStage(row.stage), row.created_at, row.chain_epoch, row.post_tx)


def epoch_with_manifest(connection: Connection, manifest_hash: str) -> Epoch | None:
    """The newest epoch whose manifest has that hash."""
    number = connection.execute(
        select(func.max(epochs.c.number)).where(epochs.c.manifest_hash == manifest_hash)
    ).scalar_one()
    return None if number is None else epoch(connection, number)


def epochs_newest(connection: Connection, limit: int) -> tuple[Epoch, ...]:
    """The last epochs, newest first."""
    numbers = connection.execute(select(epochs.c.number).order_by(epochs.c.number.desc()).limit(limit)).scalars()
    return tuple(_stored(connection, number) for number in numbers.all())


def parts_of(connection: Connection, number: int) -> tuple[tuple[EpochLine, ...], tuple[LeaseCover, ...]]:
    """The lines and the covers of an epoch."""
    lines = connection.execute(
        select(epoch_lines).where(epoch_lines.c.epoch == number).order_by(epoch_lines.c.tenant, epoch_lines.c.provider)
    )
    covers = connection.execute(
        select(epoch_leases).where(epoch_leases.c.epoch == number).order_by(epoch_leases.c.lease_name)
    )
    return (
        tuple(
            EpochLine(p.tenant, p.provider, p.tenant_wallet, p.provider_wallet, MicroUSD(p.cumulative)) for p in lines
        ),
        tuple(LeaseCover(c.lease_name, c.gpu_seconds) for c in covers),
    )


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
    chain_epoch: int | None,
    post_tx: str | None,
    skipped: Collection[str],
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
    return _stored(connection, number)


def _covered() -> ColumnElement[int]:
    return func.coalesce(
        select(func.max(epoch_leases.c.gpu_seconds))
        .join(epochs, epochs.c.number == epoch_leases.c.epoch)
        .where(
            epoch_leases.c.lease_name == attempts.c.lease_name,
            epoch_leases.c.skipped == 0,
            epochs.c.stage.not_in(DEAD_STAGES),
        )
        .correlate(attempts)
        .scalar_subquery(),
        0,
    )


def _store_parts(connection: Connection, number: int, draft: EpochDraft) -> None:
    for cover in draft.covers:
        state = coverage(connection, cover.lease_name)
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


def _stored(connection: Connection, number: int) -> Epoch:
    found = epoch(connection, number)
    if found is None:
        raise LedgerError(f"there is no epoch {number} in the ledger")
    return found
