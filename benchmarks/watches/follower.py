"""One process that follows ComputeJobs and keeps each as the operator does, by its own watch or by Kopf's.

    python -m benchmarks.watches.follower own|kopf JOBS    against the API server of KUBECONFIG

Prints one JSON object once all are listed and at rest, and another after one event of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

import kopf

from fedgpu_operator.adapters.kube.connect import connect, own_configuration
from fedgpu_operator.adapters.kube.holding import HoldingKube, _parser
from fedgpu_operator.api.base import GROUP, VERSION
from fedgpu_operator.api.computejob import ComputeJob

REST_SECONDS: Final = 7.0
"""Kopf keeps a worker per object for five seconds after its last event."""
PAGE: Final = 500


class Meter:
    """Counts what was handled and prints what it took."""

    def __init__(self, jobs: int) -> None:
        self._jobs, self._seen, self._spent, self._begun = jobs, 0, time.process_time(), time.monotonic()
        self._all = asyncio.Event()

    def count(self) -> None:
        self._seen += 1
        if self._seen >= self._jobs:
            self._all.set()

    async def report(self) -> None:
        """After the list, and after the events."""
        for phase in ("list", "events"):
            await self._all.wait()
            seconds = time.monotonic() - self._begun
            await asyncio.sleep(REST_SECONDS)
            spent = time.process_time() - self._spent
            found = {
                "phase": phase,
                "cpu_ms_per_object": round(1000 * spent / self._jobs, 4),
                "seconds": round(seconds, 2),
                "rss_mib": round(_resident() / 2**20, 1),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
            }
            self._seen, self._spent, self._begun = 0, time.process_time(), time.monotonic()
            self._all.clear()
            print(json.dumps(found), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def own(meter: Meter) -> None:
    """By list-and-watch of our own."""
    kube = HoldingKube(await connect(), [ComputeJob], lambda *_: meter.count())
    await kube.run()


async def by_kopf(meter: Meter) -> None:
    """By handlers of `kopf.on.event` that keep the same."""
    parse, held = _parser(ComputeJob), dict[tuple[str, str], Any]()
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.chunk_size = PAGE

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=(await own_configuration()).host)

    @kopf.on.event(GROUP, VERSION, ComputeJob.info.plural, registry=registry)
    async def event(event: Any, **_: Any) -> None:
        obj = event["object"]
        held[obj["metadata"]["namespace"], obj["metadata"]["name"]] = parse(obj)
        meter.count()

    await kopf.operator(registry=registry, settings=settings, clusterwide=True, standalone=True)


async def main() -> None:
    meter = Meter(int(sys.argv[2]))
    following = asyncio.create_task(own(meter) if sys.argv[1] == "own" else by_kopf(meter))
    reporting = asyncio.create_task(meter.report())
    await asyncio.wait({following, reporting}, return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        await following
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
