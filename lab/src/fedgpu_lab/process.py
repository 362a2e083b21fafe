"""Child processes of the lab: started without a shell, ended by their own id, never outliving the lab."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from enum import IntEnum
from pathlib import Path
from typing import Final

from fedgpu_lab import watchdog
from fedgpu_operator.errors import LabError

LOG_LINES = 15
POLL_S = 0.1


class Rank(IntEnum):
    """The order in which children are ended: an API server whose etcd went first does not end on SIGTERM."""

    CLIENT = 0
    API_SERVER = 1
    STORE = 2


class Watchdog:
    """The lab's side of watchdog.py: tell it of each child, and it ends them should this process be killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def remove_directory(self, directory: Path) -> None:
        self._tell(f"dir {directory}")

    def watch(self, rank: Rank, pid: int) -> None:
        self._tell(f"+ {int(rank)} {pid} {watchdog.start_time(pid)}")

    def forget(self, pid: int) -> None:
        self._tell(f"- {pid}")

    def close(self) -> None:
        """Everything is cleaned up; let the watchdog go."""
        self._tell("done")
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        with self._lock:
            try:
                pipe.write(line + "\n")
                pipe.flush()
            except BrokenPipeError as error:
                raise LabError("the lab's watchdog has ended; start the lab again") from error


class Child:
    """One long-running program with its output in a log file; can be started again after it was stopped."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        rank: Rank,
        watchdog: Watchdog,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.name, self.log, self.rank, self._user = name, log, rank, user
        self._argv = [str(word) for word in argv]
        self._env = dict(env or {})
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Raises LabError when the program cannot be executed at all."""
        if self.running:
            return
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.log.parent,
                    env=_clean_environment() | self._env,
                    user=self._user,
                    # A Ctrl-C at the terminal must reach the lab alone, which then ends its children in order.
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"{self.name} cannot be started: {error}") from error
        self._watchdog.watch(self.rank, self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to a child that still runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait_until(self, ready: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Poll `ready` while the child lives; LabError with the end of its log when it dies or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                code = self._process.returncode if self._process is not None else None
                raise LabError(f"{self.name} ended with code {code} before {what}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {what} did not come within {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_S)

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """The last lines of the child's output."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return "(no output)"
        return "\n".join(text.splitlines()[-lines:]) or "(no output)"

    def reap(self, timeout: float) -> bool:
        """Wait for the end; False when it still runs after `timeout` seconds."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            return False
        self._watchdog.forget(self._process.pid)
        return True


def end(children: Iterable[Child], *, grace: float = 4.0) -> None:
    """End children together, rank after rank: SIGTERM, `grace` seconds, SIGKILL; those already gone are reaped."""
    by_rank: dict[Rank, list[Child]] = {}
    for child in children:
        by_rank.setdefault(child.rank, []).append(child)
    for rank in sorted(by_rank):
        for child in by_rank[rank]:
            child.signal(signal.SIGTERM)
            child.signal(signal.SIGCONT)
        deadline = time.monotonic() + grace
        for child in by_rank[rank]:
            if not child.reap(max(0.0, deadline - time.monotonic())):
                child.signal(signal.SIGKILL)
                child.reap(10.0)


FIRST_PORT: Final = 10_000
LAST_PORT: Final = 32_767
"""Below the ports that systems give to outgoing connections (Linux from 32768, IANA from 49152): a server that is to
listen on one of those in a moment may find it taken."""


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that were free a moment ago; all are held at once so that none comes twice.

    Raises LabError where the system has not so many.
    """
    chance = random.Random()  # noqa: S311  # of its own: a seed that a test sets would give all of them the same ports
    found: list[int] = []
    with ExitStack() as stack:
        for port in chance.sample(range(FIRST_PORT, LAST_PORT + 1), LAST_PORT + 1 - FIRST_PORT):
            if len(found) == count:
                return found
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    raise LabError(f"no {count} free ports from {FIRST_PORT} to {LAST_PORT}: end what listens there")


def _clean_environment() -> dict[str, str]:
    """The environment without proxies and Kubernetes settings, which would lead loopback clients astray."""
    led_astray = ("KUBE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "ETCD_", "KWOK_", "ANVIL_")
    return {key: value for key, value in os.environ.items() if not key.upper().startswith(led_astray)}
