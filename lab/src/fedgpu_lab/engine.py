"""A Docker engine of the lab's own, in namespaces of its own: it touches no other Docker, and nothing leaves it.

It runs in new network, mount and process namespaces. The network has no way out: what containers may reach is each
other and `HOST`, this machine's end of a cable that ends with the engine, as do its bridges, firewall rules, mounts
and containers. Only images stay, in the cache.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fedgpu_lab import debian, runtime, toolchain
from fedgpu_lab.process import Child, Rank, Watchdog
from fedgpu_lab.progress import Progress, QuietProgress
from fedgpu_operator.errors import LabError

PACKAGES: Final = ("docker.io", "iptables", "iproute2", "mmdebstrap")
CABLE: Final = "fedgpu0"
HOST, INSIDE, PREFIX = "10.231.77.1", "10.231.77.2", 30
"""The two ends of the cable. Ports that containers publish on `INSIDE` are reached from this machine."""
DEFAULT_BRIDGE: Final = "10.231.78.1/24"
START_TIMEOUT_S: Final = 60.0
INOTIFY: Final = {"max_user_instances": 8192, "max_user_watches": 524288}
"""What several nodes on one machine need; 128 instances end kube-proxy on the third of them."""


class Engine:
    """``with Engine(directory) as engine:`` and then `engine.docker("build", …)`. Needs root. Raises LabError."""

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        self.directory = directory
        self._progress = progress or QuietProgress()
        self._data = toolchain.cache_root() / "docker"
        self._cgroup = f"fedgpu-lab-{os.getpid()}"
        self._socket = directory / "docker.sock"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def env(self) -> dict[str, str]:
        """What to add to an environment so that docker and kind use this engine."""
        path = os.pathsep.join([*self.tools.path, os.environ.get("PATH", "")])
        # The engine is older than BuildKit's place in the client, and builds by itself.
        return {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_BUILDKIT": "0", "PATH": path}

    def docker(self, *args: str | Path, check: bool = True, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        """Run the client; LabError with the end of its output when it fails and `check` is set."""
        argv = ["docker", *map(str, args)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | self.env
        )
        if check and done.returncode != 0:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise LabError(f"{shlex.join(argv[:3])} failed:\n{last}")
        return done

    def has_image(self, tag: str) -> bool:
        return self.docker("image", "inspect", tag, check=False).returncode == 0

    def routes(self) -> list[str]:
        """The routes out of the engine's network, a line each."""
        argv = ["nsenter", "-t", str(self._inner()), "-n", "ip", "route", "show"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()

    # -- parts ------------------------------------------------------------------------------------

    def _open(self) -> None:
        if os.geteuid() != 0:
            raise LabError("a Docker engine of the lab's own needs root")
        with self._progress.task("Starting a Docker engine of the lab's own") as task:
            self.tools = debian.unpacked(PACKAGES, toolchain.cache_root(), task)
            self._data.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._raise_limits()
            watchdog = Watchdog()
            self._stack.callback(watchdog.close)
            self._start(watchdog)
            self._connect()
            self._stack.callback(self._remove_containers)

    def _lock(self) -> None:
        file = self._stack.enter_context((self._data / ".lock").open("w"))
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise LabError(f"another lab uses the Docker engine in {self._data}") from None

    def _raise_limits(self) -> None:
        for name, wanted in INOTIFY.items():
            path = Path("/proc/sys/fs/inotify", name)
            before = path.read_text()
            if int(before) < wanted:
                path.write_text(str(wanted))
                self._stack.callback(path.write_text, before)

    def _start(self, watchdog: Watchdog) -> None:
        programs = self.directory / "programs"
        programs.mkdir(parents=True, exist_ok=True)
        runc = self._wrapped_runc(programs / "runc")
        for name in ("iptables", "ip6tables"):
            (programs / name).symlink_to(self.tools.folder / "usr/sbin/xtables-nft-multi")
        config = {
            "data-root": str(self._data / "data"),
            "exec-root": str(self.directory / "exec"),
            "pidfile": str(self.directory / "docker.pid"),
            "hosts": [f"unix://{self._socket}"],
            "storage-driver": "overlay2",
            "runtimes": {"bounded": {"path": str(runc)}},
            "default-runtime": "bounded",
            "cgroup-parent": f"/{self._cgroup}",
            "oom-score-adjust": 0,
            "bip": DEFAULT_BRIDGE,
            # Nobody answers there: containers know each other by name, and no other name.
            "dns": ["127.0.0.1"],
        }
        (self.directory / "daemon.json").write_text(json.dumps(config))
        apart = ["unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        daemon = f"ip link set lo up && exec dockerd --config-file {shlex.quote(str(self.directory / 'daemon.json'))}"
        path = os.pathsep.join([str(programs), *self.tools.path, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        self._child = Child(
            "dockerd",
            [*apart, "--mount-proc", "env", "-i", f"PATH={path}", *self._environment(), "sh", "-c", daemon],
            log=self.directory / "dockerd.log",
            rank=Rank.STORE,
            watchdog=watchdog,
        )
        self._stack.callback(self._remove_cgroups)
        self._child.start()
        self._stack.callback(self._end)
        self._child.wait_until(self._answers, timeout=START_TIMEOUT_S, what="docker info")

    def _environment(self) -> list[str]:
        return [f"{name}={value}" for name, value in (self.tools.libraries | {"HOME": str(self.directory)}).items()]

    def _wrapped_runc(self, target: Path) -> Path:
        argv = [sys.executable, "-I", "-S", runtime.__file__, str(self.tools.folder / "usr/sbin/runc")]
        target.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
        target.chmod(0o755)
        return target

    def _answers(self) -> bool:
        return self.docker("info", check=False).returncode == 0

    def _inner(self) -> int:
        """The daemon's process id: the one child of `unshare`."""
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split()
        if not children:
            raise LabError(f"dockerd has ended:\n{self._child.log_tail()}")
        return int(children[0])

    def _connect(self) -> None:
        inner = str(self._inner())
        for argv in (
            ["ip", "link", "add", CABLE, "type", "veth", "peer", "name", "uplink", "netns", inner],
            ["ip", "address", "add", f"{HOST}/{PREFIX}", "dev", CABLE],
            ["ip", "link", "set", CABLE, "up"],
            ["nsenter", "-t", inner, "-n", "ip", "address", "add", f"{INSIDE}/{PREFIX}", "dev", "uplink"],
            ["nsenter", "-t", inner, "-n", "ip", "link", "set", "uplink", "up"],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise LabError(f"{shlex.join(argv)}: {done.stderr.strip()}")

    def _remove_containers(self) -> None:
        ids = self.docker("ps", "--all", "--quiet", check=False).stdout.split()
        if ids:
            self.docker("rm", "--force", "--volumes", *ids, check=False)
        self.docker("volume", "prune", "--force", check=False)
        self.docker("network", "prune", "--force", check=False)
        self.docker("image", "prune", "--force", check=False)

    def _end(self) -> None:
        if self._child.running:
            os.kill(self._inner(), signal.SIGTERM)
        if not self._child.reap(30.0):
            self._child.signal(signal.SIGKILL)
            self._child.reap(10.0)

    def _remove_cgroups(self) -> None:
        for top in Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}"):
            for folder in [*sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True), top]:
                folder.rmdir()
