"""``fedgpu ledger archive``: how far may be archived by the chain, the run itself, and what it did."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import Output, plain_table, print_data
from fedgpu_operator.cli.ledger_copies import progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.options import TargetOptions
    from fedgpu_operator.domain.ledger import Archived, ArchiveWish
    from fedgpu_operator.domain.settlement import EpochState

OLDER_THAN: Final = "30d"
"""What is archived unless another age or an epoch is given."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the segment files; it must exist.")]
BeforeOption = Annotated[
    int | None, typer.Option("--before", min=1, help="Archive only what belongs to epochs numbered below this one.")
]
OlderOption = Annotated[
    str | None, typer.Option("--older-than", help=f"Archive only epochs whose period ended so long ago; {OLDER_THAN}.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be archived, and change nothing.")]


def archive(
    folder: Path,
    location: str,
    target: TargetOptions,
    before: int | None,
    older_than: str | None,
    *,
    dry_run: bool,
    output: Output,
) -> None:
    """Archive as far as wished and as the chain allows, and print what was done."""
    from fedgpu_operator.adapters.ledger import archives

    now = datetime.now(UTC)
    wish = asyncio.run(_allowed(location, target, wish_of(before, older_than, now)))
    with progress(f"Archiving into {folder}") as note:
        done = archives.archive(location, folder, wish, now, note, dry_run=dry_run)
    print_data(output, archived_of(done, dry_run=dry_run), lambda: archived_text(done, dry_run=dry_run))


def wish_of(before: int | None, older_than: str | None, now: datetime) -> ArchiveWish:
    """How far the options ask for; ConfigurationError if both are given, or the age is not one."""
    from fedgpu_operator.domain.ledger import ArchiveWish
    from fedgpu_operator.errors import ConfigurationError

    if before is not None:
        if older_than is not None:
            raise ConfigurationError("give --before or --older-than, not both")
        return ArchiveWish(before=before)
    text = older_than or OLDER_THAN
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in ("h", "d") and len(number) < 6):
        raise ConfigurationError(f"--older-than: must be hours or days, such as 36h or 30d, not {text!r}")
    age = timedelta(hours=int(number)) if unit == "h" else timedelta(days=int(number))
    return ArchiveWish(until=now - age)


async def _allowed(location: str, given: TargetOptions, wish: ArchiveWish) -> ArchiveWish:
    """The wish with the newest epoch of the contract that nobody can challenge or use any more.

    Raises ConfigurationError if the books are those of an escrow and the chain is not named, and the ChainError tree.
    """
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.errors import ConfigurationError

    async with await SqlLedger.open(location, read_only=True) as books:
        bound = await books.bound()
        known = sorted({epoch.chain_epoch for epoch in await books.epoch_headers(1_000_000) if epoch.chain_epoch})
    if bound is None:
        return wish
    if not given.rpc:
        raise ConfigurationError(
            f"the books are those of {bound}: name its chain with --rpc, or in FEDGPU_CHAIN_RPC_URL: its contract "
            "tells which epochs can still be challenged"
        )
    return replace(wish, over=await _over(replace(given, escrow=bound.escrow, chain_id=bound.chain_id), known))


async def _over(given: TargetOptions, known: Sequence[int]) -> int:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import find_target

    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        await escrow.verify()
        periods, chain = await escrow.periods(), await escrow.snapshot((), ())
        return await newest_over(known, escrow.finalized_epoch, chain.clock - periods.ruling - periods.exit_after)


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


def archived_of(done: Archived, *, dry_run: bool) -> JSONObject:
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


def archived_text(done: Archived, *, dry_run: bool) -> list[Table | str]:
    """A run for people: the segments, what left the ledger, and what holds the rest back."""
    parts: list[Table | str] = []
    if any(each.rows for each in done.segments):
        table = plain_table("CHAIN", "ROWS", "UP TO EPOCH", "FILE", right=("ROWS", "UP TO EPOCH"))
        for each in done.segments:
            if each.rows:
                table.add_row(each.chain, str(each.rows), str(each.epoch), each.file)
        parts += [table, ""]
    parts += [f"- {name} is not in the folder: rows of it that are still live stay" for name in done.missing]
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
        parts.append(f"- rows that stay live, since something needs them: {kept}")
    if done.why:
        parts.append(f"- no further: {done.why}")
    return parts
