"""Debian's packages in the lab: programs unpacked into the cache and never installed, and file systems for images."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from fedgpu_lab.progress import Task
from fedgpu_operator.errors import LabError

SUITE = "bookworm"
"""Debian 12: its Python is the 3.11 that an image made here runs on."""

UNNEEDED = (
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)


class Unpacked:
    """Packages in a folder of their own, with what they need and this machine lacks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = [str(folder / "usr/sbin"), str(folder / "usr/bin")]

    @property
    def libraries(self) -> dict[str, str]:
        """What to add to the environment of programs of these packages that load libraries of them."""
        folders = sorted(self.folder.glob("usr/lib/*-linux-gnu"))
        extensions = [str(each / "xtables") for each in folders if (each / "xtables").is_dir()]
        return {"LD_LIBRARY_PATH": ":".join(map(str, folders)), "XTABLES_LIBDIR": ":".join(extensions)}


def unpacked(packages: Sequence[str], cache: Path, task: Task) -> Unpacked:
    """The packages, fetched by apt-get on first use; nothing of the system changes. LabError with its last lines."""
    home = cache / "debian" / sha256(" ".join(packages).encode()).hexdigest()[:16]
    if home.is_dir():
        return Unpacked(home)
    if shutil.which("apt-get") is None:
        raise LabError(f"apt-get not found; the lab takes {', '.join(packages)} from Debian's packages")
    task.note(f"fetching {', '.join(packages)}")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetch-") as folder:
        archives, target = Path(folder) / "archives", Path(folder) / "target"
        (archives / "partial").mkdir(parents=True)
        target.mkdir()
        argv = ["apt-get", "install", "--download-only", "--yes", "--reinstall", "--no-install-recommends"]
        options = [f"Dir::Cache::archives={archives}", "Debug::NoLocking=1", "APT::Sandbox::User=root"]
        _run([*argv, *(word for option in options for word in ("-o", option)), *packages], "run apt-get update first")
        for archive in sorted(archives.glob("*.deb")):
            _run(["dpkg", "--extract", str(archive), str(target)])
        target.rename(home)
    return Unpacked(home)


def file_system(packages: Sequence[str], target: Path, tools: Unpacked) -> None:
    """Write a tar with Debian's essential packages and these to `target`; LabError when a package cannot be had."""
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=tar", *UNNEEDED]
    _run([*argv, f"--include={','.join(packages)}", SUITE, str(target)], path=tools.path)


def _run(argv: Sequence[str], hint: str = "", *, path: Sequence[str] = ()) -> None:
    env = os.environ | {"PATH": ":".join([*path, os.environ.get("PATH", "")]), "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
        raise LabError(f"{argv[0]} failed{f' ({hint})' if hint else ''}:\n{last}")
