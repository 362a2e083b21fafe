"""``fedgpu ledger``: the books read by somebody who does not trust them, copied, put back, archived and reconciled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from fedgpu_operator.cli import ledger_archive, ledger_copies
from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.ledger_archive import BeforeOption, DryRunOption, Folder, OlderOption
from fedgpu_operator.cli.ledger_copies import BackupFile
from fedgpu_operator.cli.ledger_reconcile import check, reconcile
from fedgpu_operator.cli.options import TargetOptions, flat

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.ledger import LedgerAudit, TrialBalance
    from fedgpu_operator.settlement.verify import EpochCheck

NAME: Final = "ledger"
T = TypeVar("T")

LedgerOption = Annotated[
    str,
    typer.Option("--ledger", envvar="FEDGPU_LEDGER", help="Path, sqlite:/// or postgresql:// URL of the ledger."),
]
ArchiveOption = Annotated[
    Path | None, typer.Option("--archive", help="Folder with the segment files; read along with the ledger.")
]
DEFAULT: Final = "/var/lib/fedgpu/ledger.db"
EpochArgument = Annotated[
    str, typer.Argument(help="The ledger's number of the epoch, or the hash of its manifest.", metavar="EPOCH")
]

app = typer.Typer(no_args_is_help=True, help="Audit, back up, restore and archive the operator's books.")


def _verify(
    target: TargetOptions,
    ledger: LedgerOption = DEFAULT,
    archive: ArchiveOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find any row that was altered, removed, put in or moved; with --rpc hold the books to what was posted too."""
    _check_folder(archive)

    async def read(books: SqlLedger) -> tuple[LedgerAudit, EpochCheck | None]:
        from fedgpu_operator.cli.ledger_anchor import anchored

        return await books.verify(archive), await anchored(books, target) if target.rpc else None

    audit, anchor = _with_ledger(read, ledger)
    print_data(output, audit_of(audit, anchor), lambda: audit_text(audit, anchor))
    if not audit.sound or (anchor is not None and anchor.holds is False):
        raise typer.Exit(1)


app.command("verify")(flat(_verify))
app.command("check")(flat(check))
app.command("reconcile")(flat(reconcile))


def _archive(
    folder: Folder,
    target: TargetOptions,
    ledger: LedgerOption = DEFAULT,
    before: BeforeOption = None,
    older_than: OlderOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move what is settled for good into segment files, beside a running operator.

    Files are synced and read back before anything is removed. What is still needed stays: epochs that are not paid or
    can be challenged, open attempts, intents and disputes.
    """
    ledger_archive.archive(folder, ledger, target, before, older_than, dry_run=dry_run, output=output)


app.command("archive")(flat(_archive))


@app.command()
def manifest(epoch: EpochArgument, ledger: LedgerOption = DEFAULT, archive: ArchiveOption = None) -> None:
    """Print the manifest of an epoch, for `fedgpu settle verify --manifest`: the hub shows old ones no longer.

    If the epoch is archived, the error names the file; with its folder in --archive it is read from there.
    """
    _check_folder(archive)
    typer.echo(_with_ledger(lambda books: manifest_in(books, epoch, archive), ledger), nl=False)


@app.command()
def balance(ledger: LedgerOption = DEFAULT, output: OutputOption = Output.TABLE) -> None:
    """Print the balance of every account, which sum to zero; exit 1 where they do not."""

    async def read(books: SqlLedger) -> tuple[TrialBalance, dict[str, int]]:
        return await books.trial_balance(), await books.balances()

    trial, balances = _with_ledger(read, ledger)
    document = balance_of(trial, balances)
    print_data(output, document, lambda: balance_text(document))
    if not trial.balanced:
        raise typer.Exit(1)


@app.command()
def backup(file: BackupFile, ledger: LedgerOption = DEFAULT, output: OutputOption = Output.TABLE) -> None:
    """Copy the ledger into one new file while the operator runs, and verify the copy.

    The file is an SQLite ledger, whatever engine the ledger is on. Exit 1 if the copy shows that the books are not
    sound; the file stays all the same.
    """
    ledger_copies.backup(file, ledger, output)


@app.command()
def restore(file: BackupFile, ledger: LedgerOption = DEFAULT, output: OutputOption = Output.TABLE) -> None:
    """Put a backup into an empty ledger of either engine, with the operator stopped.

    Rows, positions and hashes come back bit for bit, and the chains are verified before anything is kept. A ledger with
    rows in it is refused.
    """
    ledger_copies.restore(file, ledger, output)


async def manifest_in(books: SqlLedger, epoch: str, archive: Path | None = None) -> bytes:
    """The manifest of the epoch with that number or manifest hash; LedgerError if the ledger has none."""
    from fedgpu_operator.errors import ConfigurationError, LedgerError

    if epoch.lower().startswith("0x"):
        found = await books.epoch_with_manifest(epoch.lower())
    elif epoch.isascii() and epoch.isdecimal():
        found = await books.epoch(int(epoch))
    else:
        raise ConfigurationError(f"EPOCH: must be a number or the hash of a manifest such as 0x1f…, not {epoch!r}")
    if found is None:
        raise LedgerError(f"the ledger has no epoch {epoch}")
    if not found.draft.manifest:
        return await _archived_manifest(books, found.number, archive)
    return found.draft.manifest


async def _archived_manifest(books: SqlLedger, number: int, archive: Path | None) -> bytes:
    """The manifest of an archived epoch; LedgerError that names the file unless it can be read there."""
    from fedgpu_operator.adapters.ledger import segments
    from fedgpu_operator.errors import LedgerError

    theirs = [each for each in await books.segments() if each.chain == "epochs" and each.rows and each.epoch > number]
    if not theirs:
        raise LedgerError(f"the manifest of epoch {number} is missing: run `fedgpu ledger verify`")
    file = theirs[0].file
    if archive is None:
        raise LedgerError(f"the manifest of epoch {number} is archived in {file}: name its folder with --archive")
    try:
        return segments.manifest_in(archive, theirs[0], number)
    except segments.SegmentError as error:
        raise LedgerError(f"the manifest of epoch {number} cannot be read: {error.why}") from error


def audit_of(audit: LedgerAudit, anchor: EpochCheck | None) -> JSONObject:
    """The audit as data."""
    bound = audit.bound
    return {
        "sound": audit.sound,
        "boundTo": None if bound is None else {"chainID": bound.chain_id, "escrow": bound.escrow},
        "tables": dict(audit.rows),
        "heads": {name: {"rows": head.length, "hash": head.hash} for name, head in audit.head.chains.items()},
        "trialBalance": _trial(audit.trial_balance),
        "unread": dict(audit.unread),
        "strays": list(audit.strays),
        "anchor": None if anchor is None else {"holds": anchor.holds, "text": anchor.text},
        "faults": [{"table": fault.table, "key": fault.key, "why": fault.why} for fault in audit.faults],
    }


def audit_text(audit: LedgerAudit, anchor: EpochCheck | None) -> list[Table | str]:
    """The audit for people: what was read, then what is wrong with it."""
    table = plain_table("TABLE", "ROWS", "HASH CHAIN ENDS IN", right=("ROWS",))
    for name, rows in audit.rows.items():
        head = audit.head.chains.get(name)
        table.add_row(name, str(rows), head.hash if head else "-")
    parts: list[Table | str] = [table, "", f"- books of {audit.bound or 'no escrow yet'}"]
    parts += [f"✗ {fault.table}, row {fault.key}: {fault.why}" for fault in audit.faults]
    trial = audit.trial_balance
    parts.append(f"{_mark(trial.balanced)} {_trial_text(trial)}")
    if anchor is not None:
        parts.append(f"{'-' if anchor.holds is None else _mark(anchor.holds)} {anchor.text}")
    parts += [f"- {name} is not a segment of this ledger: not read" for name in audit.strays]
    if audit.unread:
        unread = ", ".join(f"{count:,} of {name}" for name, count in sorted(audit.unread.items()))
        parts.append(f"- archived and not read: {unread}; name their folder with --archive")
    what = "of what was read, nothing" if audit.unread else "nothing"
    parts.append(f"✓ {what} was altered, removed, put in or moved" if audit.sound else "✗ do not trust these books")
    return parts


def _check_folder(folder: Path | None) -> None:
    from fedgpu_operator.errors import ConfigurationError

    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"folder not found: {folder}")


def balance_of(trial: TrialBalance, balances: dict[str, int]) -> JSONObject:
    """The trial balance as data; amounts are decimal strings of USD."""
    from fedgpu_operator.domain.money import format_usd

    accounts = [{"account": name, "balance": format_usd(amount)} for name, amount in sorted(balances.items())]
    return {"accounts": accounts, "trialBalance": _trial(trial)}


def balance_text(document: JSONObject) -> list[Table | str]:
    """The trial balance for people."""
    trial = document["trialBalance"]
    if not document["accounts"]:
        return ["Nothing is posted yet."]
    table = plain_table("ACCOUNT", "USD", right=("USD",))
    for each in document["accounts"]:
        table.add_row(each["account"], each["balance"])
    table.add_row("TOTAL", trial["total"])
    return [table, "", f"{_mark(trial['balanced'])} {trial['postings']} postings, {trial['unbalanced']} do not add up"]


def _trial(trial: TrialBalance) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    return {
        "balanced": trial.balanced,
        "total": format_usd(trial.total),
        "postings": trial.postings,
        "unbalanced": trial.unbalanced,
    }


def _trial_text(trial: TrialBalance) -> str:
    from fedgpu_operator.domain.money import format_usd

    broken = f", {trial.unbalanced} entries do not add up" if trial.unbalanced else ""
    return f"trial balance {format_usd(trial.total)} USD over {trial.postings} postings{broken}"


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


def _with_ledger(work: Callable[[SqlLedger], Awaitable[T]], location: str) -> T:
    async def opened() -> T:
        from fedgpu_operator.adapters.ledger import SqlLedger

        async with await SqlLedger.open(location, read_only=True) as books:
            return await work(books)

    return asyncio.run(opened())
