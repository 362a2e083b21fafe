"""From create to workload on real API servers: throughput, cost and requests per job, latency, 10,000 resident jobs.

    python -m benchmarks.e2e                      all phases, into benchmarks/results and the docs (15 minutes)
    python -m benchmarks.e2e --jobs 200 --quick   one burst, no resident jobs, nothing written

Hub and three members are real kube-apiservers on one etcd; nothing else runs there: no controllers, no scheduler, no
kubelet, no pods. The operator is a process with its Push agents, as the chart runs it. Settlement is off, the ledger is
an SQLite file. CPU seconds are those of etcd, all API servers and the operator, from the first create until the system
has come to rest after the last workload; the client that creates and watches is not among them, though it shares the
cores. Requests are the API servers' own counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx
from benchmarks import page
from benchmarks.e2e import report
from benchmarks.e2e.load import Load, load
from benchmarks.e2e.report import Document
from benchmarks.e2e.world import World, versions, world
from benchmarks.machine import machine

from fedgpu_lab.process import end

SETTINGS = {"REJECT_AFTER_SECONDS": "86400"}
"""Nothing makes pods here: an agent that waited no longer than usual would take every workload back."""
REST_S = 2.0
"""The system is at rest when it used less than a twentieth of a core for so long."""


@dataclass
class Result:
    """What was measured; `facts` is for the JSON alone."""

    figures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--singles", type=int, default=60)
    parser.add_argument("--resident", type=int, default=10_000)
    parser.add_argument("--bursts", type=int, default=5, help="worlds, each with one burst; the last has the rest too")
    parser.add_argument("--quick", action="store_true", help="one burst, no resident jobs, nothing written")
    options = parser.parse_args()
    result = Result(facts={"machine": machine()})
    began = time.monotonic()
    runs = []
    for left in reversed(range(1 if options.quick else options.bursts)):
        with world(SETTINGS) as made:
            say(began, "API servers and operator are up")
            result.facts["versions"] = versions(made)
            runs.append(asyncio.run(run(made, options, result, began, whole=not left)))
    result.figures |= {name: median(each[name] for each in runs) for name in runs[0]}
    result.facts["bursts"] = runs
    whole = document(result, options, time.monotonic() - began)
    print(f"\n{report.table(whole)}\n\n{json.dumps(result.facts['burst'])}")
    if not options.quick:
        report.write(whole)
        page.draw("e2e", report.table(whole))


async def run(
    made: World, options: argparse.Namespace, result: Result, began: float, *, whole: bool
) -> dict[str, float]:
    """A burst in one world, and its figures; the other phases, too, where it is to be the whole."""
    resident = 0 if options.quick else options.resident
    async with load(made) as client:
        await supply(made, options.jobs + options.singles + 10)
        await warm(client)
        say(began, f"{options.jobs} jobs at once")
        figures = await burst(made, client, options.jobs, result)
        if not whole:
            return figures
        say(began, f"{options.singles} single jobs on a calm system")
        await calm(client, options.singles, result)
        if resident:
            await supply(made, resident + 100)
            say(began, f"filling up to {resident} resident jobs")
            await fill(made, client, resident - len(client.watcher.placed), began)
            result.figures["resident_rss_mib"] = made.rss() / 2**20
            say(began, f"{result.figures['resident_rss_mib']:.0f} MiB; restart")
            await restart(made, client, result)
    result.facts["doubled_workloads"] = client.watcher.doubled
    return figures


async def supply(made: World, jobs: int) -> None:
    """Wait until the hub offers GPUs for all of them."""
    made.grow(jobs)
    await asyncio.to_thread(made.until, "free GPUs", lambda: made.free() >= jobs)


async def warm(client: Load) -> None:
    """The first job at each member makes its namespace there; pools and caches fill."""
    uids = await client.create([f"warm-{index}" for index in range(8)])
    await client.watcher.until(uids, 120)


async def burst(made: World, client: Load, jobs: int, result: Result) -> dict[str, float]:
    """Jobs created at once by a fast client: what they cost each."""
    await at_rest(made)
    before, spent, first = made.requests(), made.cpu(), time.monotonic()
    names = [f"burst-{index}" for index in range(jobs)]
    uids = await client.create(names)
    created = time.monotonic()
    await client.watcher.until(uids, 60 + jobs)
    last = max(client.watcher.placed[uid] for uid in uids)
    await at_rest(made)
    cpu = {name: used - spent[name] for name, used in made.cpu().items()}
    counted = {name: difference(before[name], after) for name, after in made.requests().items()}
    latencies = client.latencies(uids)
    hub, members = counted["hub"], Counter[str]()
    for name, found in counted.items():
        if name != "hub":
            members.update(found)
    result.facts["burst"] = {
        "jobs": jobs,
        "created_in_s": round(created - first, 3),
        "placed_in_s": round(last - first, 3),
        "latency_p50_s": round(quantile(latencies, 0.5), 3),
        "cpu_s": {name: round(used, 2) for name, used in cpu.items()},
        "hub_requests": hub,
        "member_requests": dict(members),
    }
    return {
        "jobs_per_second": jobs / (last - first),
        "core_seconds_per_job": sum(cpu.values()) / jobs,
        "operator_seconds_per_job": cpu["operator"] / jobs,
        "hub_writes_before_run": before_run(hub) / jobs,
        "requests_per_job": sum(n for found in counted.values() for n in found.values()) / jobs,
    }


def before_run(hub: dict[str, int]) -> int:
    """Our writes on the hub up to the workload: the finalizers, the jobs' statuses and the leases.

    A lease's status is written when its workload is there, and Events go out when all is dispatched; they are counted
    among the requests. Nothing starts here, so a job's status has no later reason to change.
    """
    return sum(hub.get(name, 0) for name in ("PATCH computejobs", "PATCH computejobs/status", "POST computeleases"))


async def calm(client: Load, singles: int, result: Result) -> None:
    """One job after another, each on a system at rest."""
    uids: list[str] = []
    for index in range(singles):
        await asyncio.sleep(0.3 + 0.037 * (index % 7))
        uids += await client.create([f"single-{index}"], 1)
        await client.watcher.until(uids[-1:], 60)
    latencies = client.latencies(uids)
    result.figures |= {
        "latency_p50_s": quantile(latencies, 0.5),
        "latency_p99_s": quantile(latencies, 0.99),
    }
    result.facts["single_latencies_s"] = [round(each, 3) for each in latencies]


async def fill(made: World, client: Load, jobs: int, began: float) -> None:
    """Create the rest and wait until all are placed and at rest."""
    for start in range(0, jobs, 1000):
        uids = await client.create([f"resident-{index}" for index in range(start, min(jobs, start + 1000))])
        await client.watcher.until(uids, 600)
        say(began, f"{len(client.watcher.placed)} placed; operator at {made.rss() / 2**20:.0f} MiB")
    await at_rest(made, 120)


async def restart(made: World, client: Load, result: Result) -> None:
    """End the operator, create a job while it is down, start it: how long until that job runs and all is followed."""
    end([made.operator], grace=30.0)
    uids = await client.create(["while-down"])
    first, spent = time.monotonic(), made.cpu()["operator"]
    made.operator.start()
    await client.watcher.until(uids, 600)
    placed = time.monotonic()
    wanted = len(client.watcher.placed)
    await asyncio.to_thread(made.until, "all jobs followed", lambda: followed(made) >= wanted, 600)
    result.figures["restart_s"] = time.monotonic() - first
    result.figures["restart_rss_mib"] = made.rss() / 2**20
    result.facts["restart"] = {
        "first_new_job_s": round(placed - first, 2),
        "operator_cpu_s": round(made.cpu()["operator"] - spent, 2),
    }


def followed(made: World) -> int:
    """Jobs that the operator says are placed, by its own metrics."""
    try:
        text = httpx.get(f"http://127.0.0.1:{made.metrics_port}/metrics", trust_env=False, timeout=10).text
    except httpx.TransportError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("fedgpu_jobs{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'state="Placed"' in line))


async def at_rest(made: World, patience: float = 60.0) -> None:
    """Until the operator uses less than a twentieth of a core over REST_S; a busy one is measured to `patience`."""
    deadline, used = time.monotonic() + patience, made.cpu()["operator"]
    while time.monotonic() < deadline:
        await asyncio.sleep(REST_S)
        now = made.cpu()["operator"]
        if now - used < 0.05 * REST_S:
            return
        used = now


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was added, without the reading of metrics itself."""
    return {name: after[name] - before.get(name, 0) for name in sorted(after) if after[name] > before.get(name, 0)}


def quantile(values: list[float], share: float) -> float:
    """The nearest-rank quantile of sorted values."""
    return values[min(len(values) - 1, max(0, -(-int(share * 1000) * len(values) // 1000) - 1))]


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def document(result: Result, options: argparse.Namespace, seconds: float) -> Document:
    """The result as it is kept."""
    return {
        "what": "create to workload on real API servers: hub and 3 members, no controllers, no kubelet",
        "settlement": "off",
        "ledger": "SQLite",
        "jobs": options.jobs,
        "resident": 0 if options.quick else options.resident,
        "figures": {name: round(value, 4) for name, value in result.figures.items()},
        "facts": result.facts,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
