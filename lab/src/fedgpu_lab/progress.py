"""How the lab tells people what it is doing; output only, never a decision."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.status import Status

NOTE_INTERVAL_S = 15.0
"""A plain log gets at most one note in this many seconds, so that a build of minutes stays readable in CI."""


class Task(Protocol):
    """One running piece of work."""

    def note(self, text: str) -> None:
        """Say how far the work is; may be called often."""


class Progress(Protocol):
    """Somewhere to show progress; safe to use from several threads."""

    def task(self, title: str) -> AbstractContextManager[Task]:
        """Show `title` while the block runs, and how long it took when it ends."""


class _Silent:
    def note(self, text: str) -> None:
        """Nobody is listening."""


class QuietProgress:
    """Says nothing; what the tests use."""

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        del title
        yield _Silent()


class _LineTask:
    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        if time.monotonic() - self._last >= NOTE_INTERVAL_S:
            self._last = time.monotonic()
            self._console.print(f"{self._title}: {text}", markup=False, highlight=False, soft_wrap=True)


class LineProgress:
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        begin = time.monotonic()
        self._console.print(f"{title} …", markup=False, highlight=False, soft_wrap=True)
        yield _LineTask(title, self._console)
        self._console.print(f"{title}: {time.monotonic() - begin:.1f} s", markup=False, highlight=False, soft_wrap=True)


class _RichTask:
    def __init__(self, title: str, status: Status) -> None:
        self._title, self._status = title, status

    def note(self, text: str) -> None:
        self._status.update(f"{self._title} [dim]{text}[/dim]")


class RichProgress:
    """A spinner with the running task, and a line for each that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        begin = time.monotonic()
        with self._console.status(title) as status:
            yield _RichTask(title, status)
        self._console.print(f"[green]✓[/green] {title} [dim]{time.monotonic() - begin:.1f} s[/dim]")


def progress_for(console: Console | None = None) -> Progress:
    """The display that suits the console (stderr unless given): live on a terminal, lines elsewhere."""
    console = console or Console(file=sys.stderr)
    return RichProgress(console) if console.is_terminal else LineProgress(console)
