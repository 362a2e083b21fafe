"""Ends the lab's children when the lab itself was killed; a program of its own on the standard library alone.

Started as ``python -I -S watchdog.py``. Its standard input is a pipe from the lab, one command a line::

    + RANK PID STARTTIME    watch this child; lower ranks are ended first
    - PID                   no longer ours
    dir PATH                remove this directory at the end
    done                    the lab has cleaned up itself

The pipe closes when the lab dies in whatever way. A process id alone could have passed to a stranger since, so
a child is only ever signalled while its kernel start time is the one that was told.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_S = 3.0


def start_time(pid: int) -> str:
    """The kernel's start time of a process in clock ticks; empty where there is none, or a mere zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def end_group(children: dict[int, str]) -> None:
    """SIGTERM, a short grace, SIGKILL, for processes that may be stopped by SIGSTOP."""
    _signal(children, signal.SIGTERM)
    _signal(children, signal.SIGCONT)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and any(start_time(pid) == told for pid, told in children.items()):
        time.sleep(0.05)
    _signal(children, signal.SIGKILL)


def _signal(children: dict[int, str], number: signal.Signals) -> None:
    for pid, told in children.items():
        if told and start_time(pid) == told:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ranks: dict[int, dict[int, str]] = {}
    directories: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "done":
            return
        if word == "dir":
            directories.append(rest)
        elif word == "+":
            rank, pid, told = rest.split(" ")
            ranks.setdefault(int(rank), {})[int(pid)] = told
        elif word == "-":
            for children in ranks.values():
                children.pop(int(rest), None)
    for rank in sorted(ranks):
        end_group(ranks[rank])
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
