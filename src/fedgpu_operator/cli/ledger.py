"""``fedgpu ledger``: the operator's books, audited and read by somebody who does not trust them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fedgpu_operator.cli import ledger_maintenance
from fedgpu_operator.cli.common import (
    LEDGER,
    LedgerOption,
    Output,
    OutputOption,
    TargetOptions,
    mark,
    open_escrow,
    plain_table,
    print_data,
    register,
)
from fedgpu_operator.cli.ledger_maintenance import faults_document, heads_document, rows_table
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.ledger import LedgerAudit, TrialBalance
    from fedgpu_operator.domain.settlement import Epoch
    from fedgpu_operator.domain.transactions import PostedEpoch
    from fedgpu_operator.settlement.verify import EpochCheck

T = TypeVar("T")

ArchiveOption = Annotated[
    Path | None, typer.Option("--archive", help="Folder with the segment files, to read together with the ledger.")
]

app = typer.Typer(no_args_is_help=True, help="Verify, read, back up and archive the ledger.")


@register(app, "verify")
def verify(
    target: TargetOptions,
    ledger: LedgerOption = LEDGER,
    archive: ArchiveOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify the ledger.

    Finds rows that were altered, removed, added or moved; with --rpc compares the books with the posted epoch too.
    Exit 1 for any fault.
    """
    _check_folder(archive)

    async def read(books: SqlLedger) -> tuple[LedgerAudit, EpochCheck | None]:
        return await books.verify(archive), await anchored(books, target) if target.rpc else None

    audit, anchor = _with_ledger(read, ledger)
    print_data(output, audit_document(audit, anchor), lambda: audit_text(audit, anchor))
    if not audit.sound or (anchor is not None and anchor.holds is False):
        raise typer.Exit(1)


register(app, "check")(ledger_maintenance.check)
register(app, "reconcile")(ledger_maintenance.reconcile)
register(app, "archive")(ledger_maintenance.archive)


@register(app, "manifest")
def manifest(
    epoch: Annotated[
        str, typer.Argument(metavar="EPOCH", help="Number of the epoch in the ledger, or hash of its manifest.")
    ],
    ledger: LedgerOption = LEDGER,
    archive: ArchiveOption = None,
) -> None:
    """Print the manifest of an epoch.

    For `fedgpu settle verify --manifest`, if the hub no longer publishes it. If the epoch is archived, the error names
    the file; with --archive FOLDER the manifest is read from there.
    """
    _check_folder(archive)
    typer.echo(_with_ledger(lambda books: manifest_in(books, epoch, archive), ledger), nl=False)


@register(app, "balance")
def balance(ledger: LedgerOption = LEDGER, output: OutputOption = Output.TABLE) -> None:
    """Print the balance of every account. Exit 1 if they do not sum to zero."""

    async def read(books: SqlLedger) -> tuple[TrialBalance, dict[str, int]]:
        return await books.trial_balance(), await books.balances()

    trial, balances = _with_ledger(read, ledger)
    document = balance_document(trial, balances)
    print_data(output, document, lambda: balance_text(document))
    if not trial.balanced:
        raise typer.Exit(1)


register(app, "backup")(ledger_maintenance.backup)
register(app, "restore")(ledger_maintenance.restore)


async def anchored(books: SqlLedger, given: TargetOptions) -> EpochCheck:
    """Whether the newest epoch's manifest is the posted one and names the heads that the ledger keeps for it.

    The audit of the ledger itself shows that those heads are where its chains passed. Raises the ChainError tree.
    """
    from fedgpu_operator.domain.settlement import EpochStage
    from fedgpu_operator.settlement.verify import EpochCheck

    stages = (EpochStage.FINALIZED, EpochStage.PAID)
    newest = next((each for each in await books.epochs() if each.chain_epoch and each.stage in stages), None)
    if newest is None or newest.chain_epoch is None:
        return EpochCheck("anchor", None, "no epoch of this ledger is on the chain yet")
    async with open_escrow(given, verify=True) as escrow:
        return judge_anchor(newest, await escrow.posted(newest.chain_epoch))


def judge_anchor(epoch: Epoch, posted: PostedEpoch | None) -> EpochCheck:
    """Compare the ledger's row of an epoch with its post; pure."""
    from eth_utils.crypto import keccak

    from fedgpu_operator.domain.ledger import LedgerHead
    from fedgpu_operator.settlement.verify import EpochCheck

    number, manifest = epoch.chain_epoch, epoch.draft.manifest
    if posted is None:
        return EpochCheck("anchor", False, f"epoch {number} is posted according to the ledger, but not on the chain")
    manifest_hash = "0x" + keccak(manifest).hex()
    if manifest_hash != posted.manifest_hash:
        text = f"manifest hash is {manifest_hash} in the ledger, posted was {posted.manifest_hash}"
        return EpochCheck("anchor", False, f"epoch {number}: {text}")
    try:
        head = json.loads(manifest)["ledger"]
    except (ValueError, KeyError, TypeError):
        return EpochCheck("anchor", False, f"epoch {number}: the posted manifest cannot be read")
    if head != epoch.draft.ledger_head:
        return EpochCheck("anchor", False, f"epoch {number}: the ledger's heads differ from those in its manifest")
    if not head:
        return EpochCheck("anchor", None, f"epoch {number} names no heads: it is older than they are")
    rows = ", ".join(f"{name} {each.length}" for name, each in sorted(LedgerHead.parse(head).chains.items()))
    return EpochCheck("anchor", True, f"epoch {number} pins all rows up to {rows}, posted by {posted.tx_hash}")


async def manifest_in(books: SqlLedger, epoch: str, archive: Path | None = None) -> bytes:
    """The manifest of the epoch with that number or manifest hash; LedgerError if the ledger has none."""
    if epoch.lower().startswith("0x"):
        found = await books.epoch_with_manifest(epoch.lower())
    elif epoch.isascii() and epoch.isdecimal():
        found = await books.epoch(int(epoch))
    else:
        raise ConfigurationError(f"EPOCH: {epoch!r} is neither a number nor a manifest hash such as 0x1f…")
    if found is None:
        raise LedgerError(f"epoch {epoch} not found in the ledger")
    if not found.draft.manifest:
        return await _archived_manifest(books, found.number, archive)
    return found.draft.manifest


async def _archived_manifest(books: SqlLedger, number: int, archive: Path | None) -> bytes:
    """The manifest of an archived epoch; LedgerError that names the file unless it can be read there."""
    from fedgpu_operator.adapters.ledger import segments

    theirs = [each for each in await books.segments() if each.chain == "epochs" and each.rows and each.epoch > number]
    if not theirs:
        raise LedgerError(f"manifest of epoch {number} missing in the ledger: run `fedgpu ledger verify`")
    file = theirs[0].file
    if archive is None:
        raise LedgerError(f"manifest of epoch {number} archived in {file}: name its folder with --archive")
    try:
        return segments.manifest_in(archive, theirs[0], number)
    except segments.SegmentError as error:
        raise LedgerError(f"manifest of epoch {number} cannot be read: {error.why}") from error


def audit_document(audit: LedgerAudit, anchor: EpochCheck | None) -> JSONObject:
    """The audit as data."""
    bound = audit.bound
    return {
        "sound": audit.sound,
        "boundTo": None if bound is None else {"chainID": bound.chain_id, "escrow": bound.escrow},
        "tables": dict(audit.rows),
        "heads": heads_document(audit),
        "trialBalance": _trial(audit.trial_balance),
        "unread": dict(audit.unread),
        "strays": list(audit.strays),
        "anchor": None if anchor is None else {"holds": anchor.holds, "text": anchor.text},
        "faults": faults_document(audit),
    }


def audit_text(audit: LedgerAudit, anchor: EpochCheck | None) -> list[Table | str]:
    """The audit for people: what was read, then what is wrong with it."""
    from fedgpu_operator.domain.money import format_usd

    parts: list[Table | str] = [rows_table(audit.rows, audit), "", f"- books of {audit.bound or 'no escrow yet'}"]
    parts += [f"✗ {fault.table}, row {fault.key}: {fault.why}" for fault in audit.faults]
    trial = audit.trial_balance
    broken = f", {trial.unbalanced} entries unbalanced" if trial.unbalanced else ""
    total = f"trial balance {format_usd(trial.total)} USD over {counted(trial.postings, 'posting')}"
    parts.append(f"{mark(trial.balanced)} {total}{broken}")
    if anchor is not None:
        parts.append(f"{mark(anchor.holds)} {anchor.text}")
    parts += [f"- {name} is not a segment of this ledger: not read" for name in audit.strays]
    if audit.unread:
        unread = ", ".join(f"{count:,} of {name}" for name, count in sorted(audit.unread.items()))
        parts.append(f"- archived and not read: {unread}; name their folder with --archive")
    what = "of what was read, nothing" if audit.unread else "nothing"
    parts.append(f"✓ {what} was altered, removed, added or moved" if audit.sound else "✗ do not trust these books")
    return parts


def _check_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"--archive: folder not found: {folder}")


def balance_document(trial: TrialBalance, balances: dict[str, int]) -> JSONObject:
    """The trial balance as data; amounts are decimal strings of USD."""
    from fedgpu_operator.domain.money import format_usd

    accounts = [{"account": name, "balance": format_usd(amount)} for name, amount in sorted(balances.items())]
    return {"accounts": accounts, "trialBalance": _trial(trial)}


def balance_text(document: JSONObject) -> list[Table | str]:
    """The trial balance for people."""
    trial = document["trialBalance"]
    if not document["accounts"]:
        return ["No postings yet."]
    table = plain_table("ACCOUNT", "USD", right=("USD",))
    for each in document["accounts"]:
        table.add_row(each["account"], each["balance"])
    table.add_row("TOTAL", trial["total"])
    postings = counted(trial["postings"], "posting")
    return [table, "", f"{mark(trial['balanced'])} {postings}, {trial['unbalanced']} unbalanced"]


def _trial(trial: TrialBalance) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    return {
        "balanced": trial.balanced,
        "total": format_usd(trial.total),
        "postings": trial.postings,
        "unbalanced": trial.unbalanced,
    }


def _with_ledger(work: Callable[[SqlLedger], Awaitable[T]], location: str) -> T:
    async def opened() -> T:
        from fedgpu_operator.adapters.ledger import SqlLedger

        async with await SqlLedger.open(location, read_only=True) as books:
            return await work(books)

    return asyncio.run(opened())
