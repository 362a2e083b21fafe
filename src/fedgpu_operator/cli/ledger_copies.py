"""``fedgpu ledger backup`` and ``restore``: the whole ledger into one file, and back into an empty ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import Output, plain_table, print_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.ledger import Copied

NOTE_INTERVAL_S: Final = 15.0
"""Without a terminal, at most one line of progress in this many seconds."""

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of the backup, an SQLite ledger.")]


def backup(file: BackupFile, location: str, output: Output) -> None:
    """Write the backup, and print what is in it; exit 1 if the ledger is not sound."""
    from fedgpu_operator.adapters.ledger import copies

    with progress(f"Copying into {file}") as note:
        copied = copies.backup(location, file, note)
    print_data(output, copied_of(copied, file), lambda: copied_text(copied, f"backup {file}"))
    if not copied.audit.sound:
        raise typer.Exit(1)


def restore(file: BackupFile, location: str, output: Output) -> None:
    """Put the backup back, and print what is in the ledger now."""
    from fedgpu_operator.adapters.ledger import copies

    with progress(f"Restoring {file}") as note:
        copied = copies.restore(file, location, note)
    print_data(output, copied_of(copied, file), lambda: copied_text(copied, f"restored from {file}"))


def copied_of(copied: Copied, file: Path) -> JSONObject:
    """A copy as data."""
    heads = copied.audit.head.chains
    return {
        "file": str(file),
        "bytes": copied.size,
        "sound": copied.audit.sound,
        "tables": dict(copied.rows),
        "heads": {name: {"rows": head.length, "hash": head.hash} for name, head in heads.items()},
        "faults": [{"table": fault.table, "key": fault.key, "why": fault.why} for fault in copied.audit.faults],
    }


def copied_text(copied: Copied, what: str) -> list[Table | str]:
    """A copy for people."""
    table = plain_table("TABLE", "ROWS", "HASH CHAIN ENDS IN", right=("ROWS",))
    for name, rows in copied.rows.items():
        head = copied.audit.head.chains.get(name)
        table.add_row(name, str(rows), head.hash if head else "-")
    parts: list[Table | str] = [table, "", f"✓ {what}, {copied.size:,} bytes"]
    parts += [f"✗ {fault.table}, row {fault.key}: {fault.why}" for fault in copied.audit.faults]
    verified = "✓ verified: every hash chain ends as in the ledger"
    parts.append(verified if copied.audit.sound else "✗ this is a true copy of books that are not sound")
    return parts


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
