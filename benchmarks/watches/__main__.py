"""What it costs to follow ComputeJobs: our own list-and-watch beside Kopf's `on.event`, in pairs.

    python -m benchmarks.watches             2,000 and 10,000 jobs, into benchmarks/results/watches.json
    python -m benchmarks.watches --jobs 500  that many, nothing written

Both followers parse each job with the operator's own parser and keep it; a fake API server in another process lists
them and then sends one event for each, a thousand a second at most. CPU time is the follower's own, its memory is read
seven seconds after the last event. The processes of a pair run one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final, cast

import httpx
import yaml
from benchmarks.machine import machine

RESULT: Final = Path(__file__).parents[1] / "results" / "watches.json"
HOWS: Final = {"own": "own watch", "kopf": "Kopf's `on.event`"}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=0)
    jobs = parser.parse_args().jobs
    facts = machine("kopf")
    runs = [measure(how, count) for count in ([jobs] if jobs else [2_000, 10_000]) for how in HOWS]
    print(table(facts, runs))
    if not jobs:
        RESULT.write_text(json.dumps({"machine": facts, "runs": runs}, indent=1) + "\n")


def measure(how: str, jobs: int) -> dict[str, Any]:
    """One follower's two phases."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watches.server", str(jobs)], stdout=subprocess.PIPE, text=True
    )
    try:
        address = f"http://127.0.0.1:{_line(server)}"
        with TemporaryDirectory(prefix="fedgpu-watches-") as folder:
            kubeconfig = Path(folder) / "kubeconfig.yaml"
            kubeconfig.write_text(yaml.safe_dump(_kubeconfig(address)))
            argv = [sys.executable, "-m", "benchmarks.watches.follower", how, str(jobs)]
            env = os.environ | {"KUBECONFIG": str(kubeconfig)}
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as follower:
                listed = json.loads(_line(follower))
                time.sleep(1.0)
                httpx.post(f"{address}/change", trust_env=False).raise_for_status()
                return {"how": how, "jobs": jobs, "list": listed, "events": json.loads(_line(follower))}
    finally:
        server.kill()
        server.wait()


def _line(process: subprocess.Popen[str]) -> str:
    return cast("IO[str]", process.stdout).readline().strip()


def table(facts: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """In Markdown."""
    head = (
        f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, Kopf {facts['kopf']}; load average "
        f"{facts['loadBefore'][0]:.1f} before the first."
    )
    rows = [
        f"| {run['jobs']:,} | {HOWS[run['how']]} | {run['list']['cpu_ms_per_object']:.2f} | "
        f"{run['events']['cpu_ms_per_object']:.2f} | {run['events']['rss_mib']:.0f} | {run['events']['peak_mib']:.0f} |"
        for run in runs
    ]
    columns = "| jobs | by | CPU ms a listed job | CPU ms an event | memory, MiB | at most, MiB |"
    return "\n".join([head, "", columns, "|--:|---|--:|--:|--:|--:|", *rows])


def _kubeconfig(address: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "hub", "cluster": {"server": address}}],
        "users": [{"name": "user", "user": {"token": "none"}}],
        "contexts": [{"name": "hub", "context": {"cluster": "hub", "user": "user"}}],
        "current-context": "hub",
    }


if __name__ == "__main__":
    main()
