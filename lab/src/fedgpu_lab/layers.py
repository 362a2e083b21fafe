"""Container images of one layer, written straight from files: what `docker load` and `ctr images import` read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

ARCHITECTURE = "amd64"


def write_archive(
    target: Path, tag: str, files: Mapping[str, Path | bytes], *, entrypoint: Sequence[str] = (), user: str = ""
) -> None:
    """Write the image `tag` to `target`: `files` maps a path in the image to what is there, executable by everybody.

    The same files give the same archive: nothing in it carries a time, an owner or a name of this machine.
    """
    layer = _tar({path.lstrip("/"): content for path, content in files.items()})
    digest = sha256(layer).hexdigest()
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": list(entrypoint),
            "User": user,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(config, sort_keys=True).encode()
    name = f"{sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    target.write_bytes(_tar({name: text, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}))


def _tar(files: Mapping[str, Path | bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for folder in sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, content in sorted(files.items()):
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = 0o755, len(data)
            tar.addfile(entry, io.BytesIO(data))
    return whole.getvalue()
