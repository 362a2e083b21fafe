"""What members cost the operator: memory and processor time of a process that runs agents, beside an older build.

    python -m benchmarks.member                   measures this build, and writes benchmarks/results/member.json
    python -m benchmarks.member --beside FOLDER   the sources of another build (its `src`) as well

Each figure is of a process of its own that runs nothing but agents, over TLS, against fake API servers in another one:
an empty member, an ordinary large one (30,000 pods of 8 kB on 1,200 nodes, of which 100 have GPUs; 400 in `gpus`), one
that never ends, and three hundred that have nothing to do. What a member costs is what its process has more, at the
most, than that of the empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.machine import machine

from fedgpu_lab.pki import new_server_identity
from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.metering import worth_writing

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "member.json"
RUNS = {"empty": ("empty", 1, 3), "large": ("large", 1, 2), "gpus": ("gpus", 1, 1), "endless": ("endless", 1, 1)}
IDLE = 300
SECONDS = 600
LEASES = 10_000
LOOK_SECONDS = 15


def measure(source: Path, port: int, ca: Path, member: str, agents: int, counts: int) -> dict[str, Any]:
    """One process of that build; what it printed, or why there is nothing."""
    command = [sys.executable, "-m", "benchmarks.member.agents", str(port), str(ca), member, str(agents), str(counts)]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{ROOT}"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return {"failed": f"{type(error).__name__}: {str(error.stderr)[-400:]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def writes(age: float) -> float:
    """Status writes a second of 10,000 running leases that are so many seconds old, looked at as an agent does."""
    start, last, written, looks = datetime(2026, 1, 1, tzinfo=UTC), None, 0, 241
    for look in range(looks):
        passed = timedelta(seconds=age + look * LOOK_SECONDS)
        seconds = int(passed.total_seconds())
        pod = PodUsage("a", "a", 0, 8, seconds, started_at=start)
        now = UsageReading(look + 1, 8 * seconds, start, None, start + passed, (pod,))
        if worth_writing(last, now, age=passed, shortest=timedelta(seconds=LOOK_SECONDS)):
            written += last is not None
            last = now
    return round(LEASES * written / ((looks - 1) * LOOK_SECONDS), 1)


def build(source: Path, port: int, ca: Path, idle: int) -> dict[str, Any]:
    """All runs of one build."""
    found: dict[str, Any] = {}
    for name, (member, agents, counts) in RUNS.items():
        found[name] = measure(source, port, ca, member, agents, counts)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    found[f"idle-{idle}"] = measure(source, port, ca, "empty", idle, 1)
    print(f"idle: {json.dumps(found[f'idle-{idle}'])}", flush=True)
    empty = found["empty"].get("residentMostMiB")
    for name in RUNS:
        if empty is not None and "residentMostMiB" in found[name]:
            found[name]["moreThanEmptyMiB"] = round(found[name]["residentMostMiB"] - empty, 1)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="what members cost the operator")
    parser.add_argument("--beside", type=Path, help="the src folder of another build")
    parser.add_argument("--idle", type=int, default=IDLE, help="members that have nothing to do")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine("aiohttp", "kubernetes")}
    result["writesPerSecondOf10000Leases"] = {
        "everyLook": round(LEASES / LOOK_SECONDS, 1),
        **{f"{hours:g}h": writes(hours * 3600) for hours in (0, 1, 4, 48)},
    }
    print(json.dumps(result["writesPerSecondOf10000Leases"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        identity = new_server_identity(Path(folder))
        ca = Path(folder) / "ca.pem"
        ca.write_text(identity.ca_pem)
        command = [sys.executable, "-m", "benchmarks.member.server", str(identity.cert_file), str(identity.key_file)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            port = int(cast("IO[str]", server.stdout).readline())
            result["this"] = build(ROOT / "src", port, ca, arguments.idle)
            if arguments.beside is not None:
                result["beside"] = build(arguments.beside.resolve(), port, ca, arguments.idle)
            server.kill()
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
