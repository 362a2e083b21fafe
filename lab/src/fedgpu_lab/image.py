"""The operator's image from the Dockerfile of the checkout, on bases that need no container registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Final

from fedgpu_lab import debian, pypi, toolchain
from fedgpu_lab.engine import Engine
from fedgpu_lab.progress import Progress, QuietProgress
from fedgpu_operator.errors import LabError

TAG: Final = "fedgpu-operator:0.1.0"
BASE, BUILD_BASE = "fedgpu-base:run", "fedgpu-base:build"
# libstdc++ is what the wheels of numpy and OR-Tools load.
PACKAGES: Final = ("python-is-python3", "python3-venv", "ca-certificates", "tzdata", "libstdc++6")
SBOM_TOOL: Final = "cyclonedx-bom==7.5.0"
PYTHON: Final = "3.11"
GLIBC: Final = 36
"""Debian 12 has glibc 2.36: wheels for that one or an older one run."""


def build(engine: Engine, progress: Progress | None = None, *, tag: str = TAG, fresh: bool = False) -> str:
    """Build the image without a network and answer its id; `fresh` uses no layer of an earlier build."""
    progress = progress or QuietProgress()
    _bases(engine, progress)
    with progress.task("Building the operator's image"):
        bases = [f"--build-arg=BASE={BASE}", f"--build-arg=BUILD_BASE={BUILD_BASE}"]
        argv = ["build", "--network=none", *bases]
        # The stage that is not in the result has a name of its own, so that its layers are kept for the next build.
        if not fresh:
            engine.docker(*argv, "--target=build", f"--tag={tag}-build", toolchain.declared("."))
        engine.docker(*argv, *(["--no-cache"] if fresh else []), f"--tag={tag}", toolchain.declared("."))
    return engine.docker("image", "inspect", "--format={{.Id}}", tag).stdout.strip()


def bill_of_materials(engine: Engine, tag: str) -> str:
    """What Python packages are in the image, as CycloneDX in JSON, read by a tool that is not in it."""
    tool = pypi.installed(SBOM_TOOL, toolchain.cache_root(), alone=False)
    # By sys.path and not by PYTHONPATH, which the Python that is looked at would take over.
    script = "import sys; sys.path.insert(0, '/tool'); from cyclonedx_py._internal.cli import run; sys.exit(run())"
    within = ["run", "--rm", "--read-only", "--network=none", "--tmpfs=/tmp", f"--volume={tool}:/tool:ro"]
    words = ["environment", "--output-reproducible", "--no-validate", "/opt/fedgpu/bin/python"]
    return engine.docker(*within, "--entrypoint=/usr/bin/python3", tag, "-c", script, *words).stdout


def file_system(engine: Engine, tag: str, packages: tuple[str, ...]) -> None:
    """Import Debian with `packages` as the image `tag`, unless it is there already."""
    labelled = f"fedgpu.packages={sha256(' '.join(packages).encode()).hexdigest()[:16]}"
    held = engine.docker("images", "--quiet", f"--filter=label={labelled}", tag).stdout.split()
    if held:
        return
    with tempfile.TemporaryDirectory(dir=engine.directory) as folder:
        tar = Path(folder) / "root.tar"
        debian.file_system(packages, tar, engine.tools)
        engine.docker("import", f"--change=LABEL {labelled}", tar, tag)


def _bases(engine: Engine, progress: Progress) -> None:
    with progress.task("Making the image's base of Debian's packages (once on this machine)"):
        file_system(engine, BASE, PACKAGES)
    wheels = wheelhouse(progress)
    with tempfile.TemporaryDirectory(dir=engine.directory) as folder:
        context = Path(folder)
        shutil.copytree(wheels, context / "wheels")
        (context / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        (context / "Dockerfile").write_text(f"FROM {BASE}\nCOPY pip.conf /etc/pip.conf\nCOPY wheels /wheels\n")
        engine.docker("build", "--network=none", f"--tag={BUILD_BASE}", context)


def wheelhouse(progress: Progress) -> Path:
    """A cached folder with the wheels of the pinned closure, for the image's Python, whatever Python runs here."""
    project, pins = toolchain.declared(".") / "pyproject.toml", toolchain.declared("hack") / "constraints.txt"
    declared = tomllib.loads(project.read_text())
    wanted = [*declared["project"]["dependencies"], *declared["build-system"]["requires"]]
    key = sha256("\n".join([*wanted, pins.read_text()]).encode()).hexdigest()[:16]
    home = toolchain.cache_root() / "wheels" / key
    if home.is_dir():
        return home
    with (
        progress.task("Fetching the wheels of the image (once for these pins)") as task,
        toolchain.lock(home.parent, task),
        tempfile.TemporaryDirectory(dir=home.parent, prefix=".get-") as folder,
    ):
        target = Path(folder) / "wheels"
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(target)]
        argv += ["--implementation=cp", f"--python-version={PYTHON}", f"--constraint={pins}"]
        tags = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
        argv += [f"--platform={tag}" for tag in (*tags, "manylinux2014_x86_64", "manylinux2010_x86_64")]
        done = subprocess.run([*argv, *wanted], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
            raise LabError(f"pip could not fetch the image's wheels:\n{last}")
        target.rename(home)
    return home
