"""``fedgpu ledger backup``, ``restore``, ``archive``, ``check``, ``reconcile``: the care of a ledger over the years."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    LEDGER,
    LedgerOption,
    Output,
    OutputOption,
    TargetOptions,
    hours_or_days,
    open_escrow,
    open_hub,
    plain_table,
    print_data,
)
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.ledger import Archived, ArchiveWish, Copied, LedgerAudit
    from fedgpu_operator.domain.settlement import EpochState
    from fedgpu_operator.hub.services.recovery import EscrowAddress, Gap


NOTE_INTERVAL_S: Final = 15.0
"""Without a terminal, at most one line of progress in this many seconds."""
OLDER_THAN: Final = "30d"
"""Age of the epochs that are archived unless another age or an epoch is given."""
ALL: Final = "all"


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write the backup to; it must not exist.")],
    ledger: LedgerOption = LEDGER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Back up the ledger while the operator runs.

    Copies it into one new file, an SQLite ledger whatever engine the ledger is on, and verifies the copy. Exit 1 if the
    copy shows that the books are not sound; the file is kept.
    """
    from fedgpu_operator.adapters.ledger import copies

    with progress(f"Copying into {file}") as note:
        copied = copies.backup(ledger, file, note)
    print_data(output, copy_document(copied, file), lambda: copy_text(copied, f"backup {file}"))
    if not copied.audit.sound:
        raise typer.Exit(1)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File with the backup, an SQLite ledger.")],
    ledger: LedgerOption = LEDGER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Restore a backup into an empty ledger of either engine. Stop the operator first.

    Rows, positions and hashes are restored bit for bit; the chains are verified before anything is kept. A ledger that
    has rows is refused.
    """
    from fedgpu_operator.adapters.ledger import copies

    with progress(f"Restoring {file}") as note:
        copied = copies.restore(file, ledger, note)
    print_data(output, copy_document(copied, file), lambda: copy_text(copied, f"restored from {file}"))


def copy_document(copied: Copied, file: Path) -> JSONObject:
    """A copy as data."""
    return {
        "file": str(file),
        "bytes": copied.size,
        "sound": copied.audit.sound,
        "tables": dict(copied.rows),
        "heads": heads_document(copied.audit),
        "faults": faults_document(copied.audit),
    }


def copy_text(copied: Copied, what: str) -> list[Table | str]:
    """A copy for people."""
    parts: list[Table | str] = [rows_table(copied.rows, copied.audit), "", f"✓ {what}, {copied.size:,} bytes"]
    parts += [f"✗ {fault.table}, row {fault.key}: {fault.why}" for fault in copied.audit.faults]
    verified = "✓ verified: every hash chain ends as in the ledger"
    parts.append(verified if copied.audit.sound else "✗ a true copy of books that are not sound")
    return parts


def heads_document(audit: LedgerAudit) -> JSONObject:
    """Where each hash chain ends, as data."""
    return {name: {"rows": head.length, "hash": head.hash} for name, head in audit.head.chains.items()}


def faults_document(audit: LedgerAudit) -> list[JSONObject]:
    """What is wrong in the books, as data."""
    return [{"table": fault.table, "key": fault.key, "why": fault.why} for fault in audit.faults]


def rows_table(rows: Mapping[str, int], audit: LedgerAudit) -> Table:
    """The tables of a ledger with their rows and the ends of their hash chains."""
    table = plain_table("TABLE", "ROWS", "HASH CHAIN ENDS IN", right=("ROWS",))
    for name, count in rows.items():
        head = audit.head.chains.get(name)
        table.add_row(name, str(count), head.hash if head else "-")
    return table


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far a long piece of work is, on standard error: live on a terminal, a line now and then elsewhere."""
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    if console.is_terminal:
        with console.status(title) as status:
            yield lambda what, done, total: status.update(f"{title}: {what}, {_share(done, total)}")
        return
    last = time.monotonic()

    def line(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= NOTE_INTERVAL_S:
            last = time.monotonic()
            console.print(f"{title}: {what}, {_share(done, total)}", markup=False, soft_wrap=True)

    yield line


def _share(done: int, total: int) -> str:
    return f"{done:,} of {total:,} ({100 * done // max(total, 1)} %)"


def archive(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the segment files; it must exist.")],
    target: TargetOptions,
    ledger: LedgerOption = LEDGER,
    before: Annotated[
        int | None, typer.Option("--before", min=1, help="Archive only epochs with numbers below this one.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help=f"Archive only epochs of at least this age; default: {OLDER_THAN}."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be archived; change nothing.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Archive settled epochs while the operator runs.

    What is settled for good moves into segment files, which are synced and read back before anything is removed. What
    is still needed stays: epochs that are not paid or can be challenged, open attempts, intents and disputes.
    """
    from fedgpu_operator.adapters.ledger import archives

    now = datetime.now(UTC)
    wish = asyncio.run(_allowed(ledger, target, wish_of(before, older_than, now)))
    with progress(f"Archiving into {folder}") as note:
        done = archives.archive(ledger, folder, wish, now, note, dry_run=dry_run)
    print_data(output, archive_document(done, dry_run=dry_run), lambda: archive_text(done, dry_run=dry_run))


def wish_of(before: int | None, older_than: str | None, now: datetime) -> ArchiveWish:
    """How far the options ask for; ConfigurationError if both are given, or the age is not one."""
    from fedgpu_operator.domain.ledger import ArchiveWish

    if before is not None:
        if older_than is not None:
            raise ConfigurationError("--before and --older-than exclude each other: give one of them")
        return ArchiveWish(before=before)
    return ArchiveWish(until=now - hours_or_days("--older-than", older_than or OLDER_THAN))


async def _allowed(location: str, given: TargetOptions, wish: ArchiveWish) -> ArchiveWish:
    """The wish with the newest epoch of the contract that nobody can challenge or use any more.

    Raises ConfigurationError if the books are those of an escrow and no endpoint is given, and the ChainError tree.
    """
    from fedgpu_operator.adapters.ledger import SqlLedger

    async with await SqlLedger.open(location, read_only=True) as books:
        bound = await books.bound()
        known = sorted({epoch.chain_epoch for epoch in await books.epoch_headers(1_000_000) if epoch.chain_epoch})
    if bound is None:
        return wish
    if not given.rpc:
        raise ConfigurationError(
            f"no chain endpoint given: the books are those of {bound}, whose contract shows which epochs can still be "
            "challenged; name one with --rpc or FEDGPU_CHAIN_RPC_URL"
        )
    async with open_escrow(replace(given, escrow=bound.escrow, chain_id=bound.chain_id), verify=True) as escrow:
        periods, chain = await escrow.periods(), await escrow.snapshot((), ())
        until = chain.clock - periods.ruling - periods.exit_after
        return replace(wish, over=await newest_over(known, escrow.finalized_epoch, until))


async def newest_over(known: Sequence[int], read: Callable[[int], Awaitable[EpochState]], until: int) -> int:
    """The last of these epochs, in rising order, that was active at `until` of the settlement clock; 0 if none was.

    An epoch is active CHALLENGE after its post; later ones are active later, so half of what is left is ruled out with
    each reading.
    """
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        state = await read(known[middle])
        if state.active_at and state.active_at <= until:
            low = middle + 1
        else:
            high = middle
    return known[low - 1] if low else 0


def archive_document(done: Archived, *, dry_run: bool) -> JSONObject:
    """A run as data."""
    return {
        "dryRun": dry_run,
        "segments": [
            {
                "chain": each.chain,
                "epoch": each.epoch,
                "first": each.first,
                "last": each.last,
                "file": each.file,
                "sha256": each.digest,
                "endsIn": each.after,
            }
            for each in done.segments
            if each.rows
        ],
        "removed": dict(done.removed),
        "kept": dict(done.kept),
        "bytes": done.bytes,
        "missing": list(done.missing),
        "heldBackBy": done.why,
    }


def archive_text(done: Archived, *, dry_run: bool) -> list[Table | str]:
    """A run for people: the segments, what left the ledger, and what keeps the rest."""
    parts: list[Table | str] = []
    if any(each.rows for each in done.segments):
        table = plain_table("CHAIN", "ROWS", "UP TO EPOCH", "FILE", right=("ROWS", "UP TO EPOCH"))
        for each in done.segments:
            if each.rows:
                table.add_row(each.chain, str(each.rows), str(each.epoch), each.file)
        parts += [table, ""]
    parts += [f"- {name} not found in the folder: its rows that are still live stay" for name in done.missing]
    verb = "would leave" if dry_run else "left"
    removed = ", ".join(f"{count:,} of {name}" for name, count in done.removed.items() if count)
    kept = ", ".join(f"{count:,} of {name}" for name, count in done.kept.items() if count)
    if done.nothing:
        parts.append("Nothing to archive.")
    elif dry_run:
        parts.append(f"- rows that {verb} the ledger: {removed or 'none'}")
    else:
        parts.append(f"✓ {done.bytes:,} bytes written, synced and read back; rows that {verb} the ledger: {removed}")
    if kept and not done.nothing:
        parts.append(f"- rows that stay live because they are still needed: {kept}")
    if done.why:
        parts.append(f"- no further: {done.why}")
    return parts


def check(target: TargetOptions, ledger: LedgerOption = LEDGER, output: OutputOption = Output.TABLE) -> None:
    """List what the ledger lacks.

    Compares it with the hub, and with the chain if --rpc is given; exit 1 if there are gaps.
    """

    async def read() -> tuple[Gap, ...]:
        from fedgpu_operator.adapters.ledger import SqlLedger

        async with open_hub(target.context) as hub, await SqlLedger.open(ledger, read_only=True) as books:
            return await _gaps(hub, books, target, await _place(hub, target))

    gaps = asyncio.run(read())
    print_data(output, {"gaps": _gap_rows(gaps)}, lambda: _gaps_text(gaps))
    if gaps:
        raise typer.Exit(1)


def reconcile(
    target: TargetOptions,
    accept_loss: Annotated[
        list[str] | None,
        typer.Option("--accept-loss", help="Id of a gap to accept as lost, or `all`; repeatable."),
    ] = None,
    ledger: LedgerOption = LEDGER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Restore what leases on the hub prove. Stop the operator first; exit 1 if gaps are left."""
    lines, lost, gaps = asyncio.run(_reconciled(target, ledger, accept_loss or []))
    document = {"putBack": list(lines), "acceptedAsLost": _gap_rows(lost), "gaps": _gap_rows(gaps)}
    print_data(
        output, document, lambda: [*lines, *(f"accepted as lost: {gap.text}" for gap in lost), *_gaps_text(gaps)]
    )
    if gaps:
        raise typer.Exit(1)


async def _reconciled(
    target: TargetOptions, location: str, losses: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Gap, ...], tuple[Gap, ...]]:
    """What was restored in words, the gaps that were accepted as lost, and those that are left."""
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.bootstrap.factory import Factory
    from fedgpu_operator.hub.services.recovery import accept
    from fedgpu_operator.settings import Settings

    async with open_hub(target.context) as hub, await SqlLedger.open(location, upgrade=False) as books:
        place = await _place(hub, target)
        gaps = await _gaps(hub, books, target, place)
        known = {gap.id for gap in gaps}
        if unknown := sorted(set(losses) - known - {ALL}):
            raise ConfigurationError(f"--accept-loss: gap {unknown[0]} not found; `fedgpu ledger check` lists gaps")
        taken = known if ALL in losses else set(losses)
        factory = Factory(Settings.from_env({}), hub, books, place=place)
        repair = await factory.reconciler().repair(gaps, taken)
        left = await _gaps(hub, books, target, place)
        # An attempt that is restored without proof leaves its usage: that is lost with it.
        lost = tuple(gap for gap in left if gap.id in taken or ALL in losses)
        await accept(hub, target.operator_namespace, lost)
        return repair.lines, lost, tuple(gap for gap in left if gap not in lost)


async def _gaps(
    hub: KubeClient, books: SqlLedger, target: TargetOptions, place: EscrowAddress | None
) -> tuple[Gap, ...]:
    from fedgpu_operator.hub.services.recovery import compare, compare_chain, without_accepted

    found = await compare(hub, books, target.operator_namespace, place)
    if target.rpc:
        async with open_escrow(target, verify=True) as escrow:
            found += await without_accepted(hub, target.operator_namespace, await compare_chain(books, escrow))
    return found


async def _place(hub: KubeClient, target: TargetOptions) -> EscrowAddress | None:
    """Where the hub's operator settles; None if it settles nowhere."""
    from fedgpu_operator.errors import NotFoundError
    from fedgpu_operator.hub.services.escrow import published
    from fedgpu_operator.hub.services.recovery import EscrowAddress

    try:
        known = await published(hub, target.operator_namespace)
    except NotFoundError:
        return None
    return EscrowAddress(known.chain_id, known.escrow)


def _gap_rows(gaps: Sequence[Gap]) -> list[JSONObject]:
    return [{"id": gap.id, "kind": gap.kind.value, "text": gap.text} for gap in gaps]


def _gaps_text(gaps: Sequence[Gap]) -> list[Table | str]:
    if not gaps:
        return ["✓ no gaps: the ledger holds all that hub and chain show"]
    table = plain_table("GAP", "WHAT")
    for gap in gaps:
        table.add_row(gap.id, gap.text)
    return [table, "", f"✗ {counted(len(gaps), 'gap')}: an operator on this ledger starts no new work"]
