"""Where the audit of the contracts finds its tools and its scratch copies; nothing here judges a contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.build_contracts import forge

from fedgpu_lab.npm import find_npm
from fedgpu_lab.progress import Task, progress_for
from fedgpu_lab.toolchain import cache_root, digest, lock

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
COPIED = ("src", "test", "bin", "foundry.toml")
"""What a scratch copy of contracts/ holds; node_modules is linked, build outputs are made anew."""


@dataclass(frozen=True, slots=True)
class Tools:
    """forge, and the environment in which it finds Node and itself."""

    forge: str
    environment: Mapping[str, str]


def find_tools() -> Tools:
    """Find forge from contracts/package-lock.json, on PATH as slither wants it."""
    with progress_for().task("Tools of the contracts") as task:
        npm, environment = find_npm(cache_root(), task)
        path = forge(npm, environment)
    with_forge = f"{path.parent}{os.pathsep}{environment['PATH']}"
    return Tools(str(path), environment | {"PATH": with_forge, "FOUNDRY_DISABLE_NIGHTLY_WARNING": "1"})


def analyser(name: str) -> Path:
    """The program `name` (slither or halmos) in a virtual environment of its own, made once from its pins."""
    pins = ROOT / "hack" / f"{name}-constraints.txt"
    home = cache_root() / "audit" / f"{name}-{digest(pins)}"
    program = home / "bin" / name
    if not program.is_file():
        with (
            progress_for().task(f"Installing {name} (once on this machine)") as task,
            lock(cache_root() / "audit", task),
        ):
            if not program.is_file():
                _install(pins, home, task)
    return program


def _install(pins: Path, home: Path, task: Task) -> None:
    shutil.rmtree(home, ignore_errors=True)
    for argv in (
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)],
    ):
        task.note(" ".join(argv[:3]))
        done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 (our own tools, no shell)
        if done.returncode != 0:
            shutil.rmtree(home, ignore_errors=True)
            sys.exit(f"{' '.join(argv)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@dataclass(frozen=True, slots=True)
class Scratch:
    """A copy of contracts/ to build and break; the checkout's own outputs are never touched."""

    tools: Tools
    path: Path

    def run(self, argv: Sequence[str], extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a tool in the copy, with `extra` in its environment; the caller reads its exit code."""
        return subprocess.run(  # noqa: S603 (our own tools, no shell)
            list(argv),
            cwd=self.path,
            env={**self.tools.environment, **(extra or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )

    def forge(self, *words: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run forge with `words`."""
        return self.run([self.tools.forge, *words], extra)


@contextmanager
def scratch(tools: Tools) -> Iterator[Scratch]:
    """A fresh copy, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fedgpu-contracts-") as folder:
        path = Path(folder)
        for name in COPIED:
            source, target = CONTRACTS / name, path / name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        # Lint is for the checkout: here it would only fail a build whose text somebody has broken on purpose.
        config = path / "foundry.toml"
        text = config.read_text(encoding="utf-8").replace("[lint]", "[lint]\nlint_on_build = false")
        config.write_text(text, encoding="utf-8")
        (path / "node_modules").symlink_to(CONTRACTS / "node_modules", target_is_directory=True)
        yield Scratch(tools, path)
