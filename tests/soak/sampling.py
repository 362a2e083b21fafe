"""One look at everything that could grow: the operator's process, its ledger, and the objects of all clusters."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
from tests.soak.field import Soaking

from fedgpu_lab.api import ClusterApi
from fedgpu_operator.errors import KubeError

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICKS: Final = os.sysconf("SC_CLK_TCK")
GROUP: Final = "/apis/fedgpu.dev/v1alpha1"
HUB_KINDS: Final = {
    "computejobs": f"{GROUP}/computejobs",
    "computeleases": f"{GROUP}/computeleases",
    "settlementepochs": f"{GROUP}/settlementepochs",
    "configmaps": "/api/v1/configmaps",
    "secrets": "/api/v1/secrets",
    "namespaces": "/api/v1/namespaces",
    "events": "/api/v1/events",
}
MEMBER_KINDS: Final = {
    "jobs": "/apis/batch/v1/jobs",
    "pods": "/api/v1/pods",
    "configmaps": "/api/v1/configmaps",
    "secrets": "/api/v1/secrets",
    "namespaces": "/api/v1/namespaces",
}
Sample = dict[str, float]
"""Figures by name, such as ``operator.rssMiB`` or ``rows.attempts``; what could not be read is absent."""


def look(made: Soaking, began: float) -> Sample:
    """All figures now; `seconds` is the time since `began` by the monotonic clock."""
    found: Sample = {"seconds": round(time.monotonic() - began, 1), "jobs.created": made.created}
    process = made.federation.operator.process
    if process is not None:
        found |= _process(process.pid)
    found |= _metrics(made.metrics_url)
    found |= _ledger(made.ledger)
    found |= {f"hub.{name}": count for name, count in _objects(made.federation.hub.api, HUB_KINDS)}
    for member, cluster in made.federation.lab.members.items():
        found |= {f"{member}.{name}": count for name, count in _objects(cluster.api, MEMBER_KINDS)}
    return found


def _process(pid: int) -> Sample:
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        files = [_target(each) for each in (folder / "fd").iterdir()]
        threads = len(list((folder / "task").iterdir()))
    except OSError:
        return {}
    return {
        "operator.rssMiB": round(pages * PAGE / 2**20, 2),
        "operator.files": len(files),
        "operator.sockets": sum(target.startswith("socket:") for target in files),
        "operator.threads": threads,
        "operator.cpuSeconds": (int(fields[11]) + int(fields[12])) / TICKS,
    }


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _metrics(url: str) -> Sample:
    """What the operator tells of its own: tasks, if it counts them, and passes that failed."""
    try:
        text = httpx.get(url, trust_env=False, timeout=5).text
    except httpx.TransportError:
        return {}
    found: Sample = {"operator.loopFailures": 0}
    for line in text.splitlines():
        if line.startswith("#") or " " not in line:
            continue
        name, value = line.rsplit(" ", 1)
        if name.startswith("fedgpu_loop_failures_total"):
            found["operator.loopFailures"] += float(value)
        elif name.startswith(("fedgpu_asyncio_tasks", "fedgpu_tasks")):
            found["operator.tasks"] = float(value)
        elif name.startswith("fedgpu_paid_micro_usd_total"):
            found["chain.paidUSD"] = float(value) / 10**6
    return found


def _ledger(path: Path) -> Sample:
    found: Sample = {"ledger.MiB": sum(_size(each) for each in path.parent.glob(f"{path.name}*")) / 2**20}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as ledger:
            names = ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            tables = [str(row[0]) for row in names]
            for table in tables:
                found[f"rows.{table}"] = ledger.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            claims = "SELECT count(*) FROM chain_txs WHERE kind = 'claim' AND state = 'Finalized'"
            found["chain.claims"] = ledger.execute(claims).fetchone()[0]
    except sqlite3.Error:
        return found
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _objects(api: ClusterApi, kinds: dict[str, str]) -> Iterator[tuple[str, float]]:
    """How many there are, by asking for one: the server says how many more follow."""
    for name, path in kinds.items():
        try:
            answer = api.get(path, limit="1")
        except KubeError:
            continue
        yield name, len(answer["items"]) + int(answer["metadata"].get("remainingItemCount") or 0)
