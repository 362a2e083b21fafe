"""Runs runc for the lab's containers without a capability that this machine may not give.

Started as ``python -I -S runtime.py RUNC ARGUMENTS…``, on the standard library alone. Docker asks for
CAP_SYS_RESOURCE for a privileged container; runc cannot give what its own bounding set lacks, and fails.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

CAPABILITY, BIT = "CAP_SYS_RESOURCE", 24


def bounded(status: str) -> bool:
    """Whether a /proc/PID/status says that the process could give the capability."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return bool(int(lines["CapBnd"], 16) >> BIT & 1)


def without(process: dict[str, Any]) -> dict[str, Any]:
    """An OCI process that asks for everything but the capability."""
    asked = process.get("capabilities") or {}
    return process | {
        "capabilities": {kind: [one for one in words if one != CAPABILITY] for kind, words in asked.items()}
    }


def rewrite(arguments: Sequence[str]) -> None:
    """Take the capability out of the bundle of a `create` or `run`, or the process file of an `exec`."""
    for word, value in pairwise(arguments):
        if word in {"--bundle", "-b"}:
            path = Path(value) / "config.json"
            spec = json.loads(path.read_text())
            path.write_text(json.dumps(spec | {"process": without(spec.get("process") or {})}))
        if word in {"--process", "-p"}:
            path = Path(value)
            path.write_text(json.dumps(without(json.loads(path.read_text()))))


def main() -> None:
    runc, *arguments = sys.argv[1:]
    if not bounded(Path("/proc/self/status").read_text()):
        rewrite(arguments)
    os.execv(runc, ["runc", *arguments])  # noqa: S606  # the place of this process is runc's


if __name__ == "__main__":
    main()
