"""Tools that PyPI carries, each in a folder of its own in the cache, never in the environment the project runs in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from fedgpu_operator.errors import LabError


def installed(requirement: str, cache: Path, *, alone: bool = True) -> Path:
    """The folder where `requirement` (an exact pin) is installed, on first use by pip; LabError with its last lines.

    `alone` leaves out what it depends on.
    """
    home = cache / "pypi" / requirement.replace("==", "-")
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".install-") as folder:
        target = Path(folder) / "target"
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        argv += ["--no-deps"] if alone else []
        done = subprocess.run(
            [*argv, "--target", str(target), requirement], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
            raise LabError(f"pip could not install {requirement}:\n{last}")
        target.rename(home)
    return home
