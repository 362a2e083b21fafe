"""Builds the operator's image without a container registry: `make image`, or ``python -m hack.image TARGET``.

The result is an archive for `docker load`, `kind load image-archive` or `ctr images import`, and beside it what is in
it: `.cdx.json` names the Python packages in CycloneDX, `.dpkg` the Debian packages. With ``--twice`` it
is built a second time from nothing, and what differs between the two is printed.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fedgpu_lab import image
from fedgpu_lab.engine import Engine
from fedgpu_lab.progress import progress_for
from fedgpu_operator.errors import LabError


def contents(engine: Engine, tag: str) -> Mapping[str, tuple[str, int, int]]:
    """Every path of an image: a digest of what it is, its owner and its time of change."""
    with tempfile.TemporaryDirectory(dir=engine.directory) as folder:
        archive = Path(folder) / "files.tar"
        container = engine.docker("create", tag).stdout.strip()
        try:
            engine.docker("export", f"--output={archive}", container)
        finally:
            engine.docker("rm", container)
        found = {}
        with tarfile.open(archive) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isfile() else None
                whole = hashlib.sha256(file.read() if file else b"").hexdigest()
                what = f"{entry.type!r} {entry.mode:o} {entry.linkname} {whole}"
                found[entry.name] = (what, entry.uid, int(entry.mtime))
        return found


def compare(engine: Engine) -> list[str]:
    """What a second build from nothing has otherwise than the first, in lines."""
    other = f"{image.TAG}-again"
    image.build(engine, progress_for(), tag=other, fresh=True)
    first, second = contents(engine, image.TAG), contents(engine, other)
    engine.docker("rmi", other)
    names = sorted(first.keys() | second.keys())
    differ = [name for name in names if first.get(name, ("",))[0] != second.get(name, ("",))[0]]
    times = sum(first[name][2] != second[name][2] for name in first.keys() & second.keys())
    return [
        f"{len(names)} paths, {len(differ)} with other contents or modes, {times} with another time of change",
        *differ,
    ]


def main(words: list[str]) -> None:
    targets = [Path(word) for word in words if word != "--twice"]
    with tempfile.TemporaryDirectory(prefix="fedgpu-image-") as folder, Engine(Path(folder) / "docker") as engine:
        print(image.build(engine, progress_for()))
        if "--twice" in words:
            print("\n".join(compare(engine)))
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            engine.docker("save", f"--output={target}", image.TAG)
            print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")
            target.with_suffix(".cdx.json").write_text(image.bill_of_materials(engine, image.TAG))
            debian = engine.docker("run", "--rm", "--network=none", "--entrypoint=dpkg-query", image.TAG, "--show")
            target.with_suffix(".dpkg").write_text(debian.stdout)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"error: {error}")
