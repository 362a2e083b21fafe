"""Measures one build on one ledger that holds a month; `python -m benchmarks.month` starts it, once per build and part.

    python -m benchmarks.month.drive passes SCENE    a pass with one change, settlement on; memory
    python -m benchmarks.month.drive on SCENE        an unchanged pass on the hub that `passes` left
    python -m benchmarks.month.drive off SCENE       the same without settlement
    python -m benchmarks.month.drive restart SCENE   from an operator that knows nothing to the end of its first pass
    python -m benchmarks.month.drive verify SCENE    the audit of all of it

The ledger's place is in LOCATION: an argument list is there for everybody to read. The answer is JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.month.build import IS_BEFORE, Assembled, StepClock, assemble
from benchmarks.month.chain import StillChain
from benchmarks.month.history import Attempt, Month
from benchmarks.month.hub import JOBS, JSON, LEASES, MemoryHub, leases, objects_of, running_status, waiting_job
from sqlalchemy import Engine, event

from fedgpu_operator.adapters.ledger import SqlLedger

STEP_S: Final = 10
"""Between two passes by the operator's clock; all passes together stay within the time in which jobs at rest are not
looked at again."""
MOST_SETTLING: Final = 8
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
Figures = dict[str, Any]


@dataclass
class Scene:
    """What the parent made once for all builds: the month without its past, and what the chain shows of it."""

    month: Month
    paid: dict[tuple[str, str], int]
    hub: str
    """Path of the file in which `passes` leaves its hub for the other parts."""
    repeats: int
    changes: int

    def chain(self) -> StillChain:
        return StillChain(self.month, self.paid)


@dataclass
class Meter:
    """CPU seconds, wall seconds, SQL statements and writes on the hub of what runs under it."""

    hub: MemoryHub
    statements: int = 0
    taken: list[Figures] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(Engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.statements += 1

    @contextmanager
    def measured(self) -> Any:
        cpu, wall, sql, writes = time.process_time(), time.perf_counter(), self.statements, self.hub.writes
        yield
        self.taken.append(
            {
                "cpuSeconds": time.process_time() - cpu,
                "seconds": time.perf_counter() - wall,
                "statements": self.statements - sql,
                "writes": self.hub.writes - writes,
            }
        )

    def medians(self) -> Figures:
        """Of all that was taken since the last time."""
        taken, self.taken = self.taken, []
        return {name: round(median(each[name] for each in taken), 4) for name in taken[0]}


class Stage:
    """An operator on its hub, and what others do to that."""

    def __init__(self, scene: Scene, hub: MemoryHub, clock: StepClock, operator: Assembled) -> None:
        self.scene, self.hub, self.clock, self.operator = scene, hub, clock, operator
        self.meter = Meter(hub)
        self.hub_mib = 0.0
        """Resident memory before the operator was assembled."""
        self.at = scene.month.end
        self.by_lease: dict[str, Attempt] = {each.lease: each for each in scene.month.running}

    async def pass_(self, name: str = "jobs") -> None:
        """One pass of a loop some seconds after the last; the watches have told of all before it and after it."""
        self.clock.forward(STEP_S)
        self.at += STEP_S
        await told()
        with self.meter.measured():
            await self.operator.passes[name]()
        await told()

    async def settle(self) -> int:
        """Passes until one writes nothing; how many."""
        for count in range(1, MOST_SETTLING + 1):
            writes = self.hub.writes
            await self.pass_()
            if self.hub.writes == writes:
                self.meter.taken.clear()
                return count
        raise SystemExit(f"the jobs' loop did not come to rest in {MOST_SETTLING} passes")

    async def report(self, lease: JSON, *, ended: bool = False) -> None:
        """The agent writes the lease's status."""
        attempt, meta = self.by_lease[lease["metadata"]["name"]], lease["metadata"]
        status = running_status(attempt, lease, self.at, self.clock.now(), ended=ended)
        await self.hub.patch_status(LEASES, meta["name"], meta["namespace"], {"status": status})

    async def report_all(self) -> None:
        for lease in list(leases(self.hub).values()):
            await self.report(lease)

    async def one_reading(self, index: int) -> None:
        """A running lease has a newer reading."""
        await self.report(self._running()[index])

    async def one_end(self, index: int) -> None:
        """A running lease ends, so that its GPUs are free."""
        await self.report(self._running()[-1 - index], ended=True)

    async def one_job(self, index: int) -> None:
        """A job is created, like others that wait."""
        made = waiting_job(self.scene.month, 7 * index)
        made["metadata"]["name"] = f"late-{index}"
        await self.hub.create(JOBS, made)

    def keep_hub(self) -> None:
        """Leave the hub for the other parts, as it is now."""
        Path(self.scene.hub).write_text(self.hub.save())

    def _running(self) -> list[JSON]:
        found = leases(self.hub)
        ours = [found[name] for name in sorted(self.by_lease) if name in found]
        return [lease for lease in ours if ("Running", "True") in _conditions(lease)]


def _conditions(found: JSON) -> set[tuple[str, str]]:
    return {(each["type"], each["status"]) for each in (found.get("status") or {}).get("conditions", [])}


async def passes(scene: Scene, location: str) -> Figures:
    """Settlement on: the first pass over a month, passes with a change, and the memory after them."""
    opened = time.perf_counter()
    await (await SqlLedger.open(location)).close()
    found: Figures = {"openSeconds": round(time.perf_counter() - opened, 2)}
    stage = await _begun(scene, location, scene.chain(), _filled(scene))
    began = rss()
    await stage.pass_("accounts")
    await stage.pass_()
    found["first"] = stage.meter.taken[-1]
    await stage.report_all()
    found["passesToRest"] = await stage.settle()
    if not IS_BEFORE:
        found |= await _other_loops(stage)
    changes: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
        "reading": stage.one_reading,
        "job": stage.one_job,
        "end": stage.one_end,
    }
    stage.keep_hub()
    for name, change in changes.items():
        taken = []
        # Once in the earlier build, whose passes take seconds.
        for index in range(1 if IS_BEFORE else scene.changes):
            await change(index)
            await stage.pass_()
            taken.append(stage.meter.taken[-1])
            await stage.settle()
        stage.meter.taken = taken
        found[f"change.{name}"] = stage.meter.medians()
    found["memoryMiB"] = round(rss() - stage.hub_mib, 1)
    found["memoryAssembledMiB"] = round(began - stage.hub_mib, 1)
    await stage.operator.close()
    return found


async def on(scene: Scene, location: str) -> Figures:
    """Settlement on: an unchanged pass."""
    return {"unchanged": await _unchanged(scene, location, scene.chain())}


async def off(scene: Scene, location: str) -> Figures:
    """Settlement off: an unchanged pass, over the same hub."""
    return {"unchangedOff": await _unchanged(scene, location, None)}


async def _unchanged(scene: Scene, location: str, chain: StillChain | None) -> Figures:
    """Both begin in a new process on the hub that `passes` left, so that their objects lie in memory alike."""
    stage = await _begun(scene, location, chain, _left(scene))
    if chain is not None:
        await stage.pass_("accounts")
    await stage.settle()
    for _ in range(scene.repeats):
        await stage.pass_()
    found = stage.meter.medians()
    await stage.operator.close()
    return found


async def restart(scene: Scene, location: str) -> Figures:
    """From nothing in memory to the end of the first pass of jobs; making Python and the hub ready is not counted."""
    hub, clock = _left(scene)
    cpu, wall = time.process_time(), time.perf_counter()
    operator = await assemble(location, hub, clock, scene.chain())
    await operator.passes["jobs"]()
    found = {"cpuSeconds": round(time.process_time() - cpu, 3), "seconds": round(time.perf_counter() - wall, 3)}
    await operator.close()
    return {"restart": found}


async def verify(_: Scene, location: str) -> Figures:
    """The audit finds nothing, and how long that takes."""
    began = time.perf_counter()
    async with await SqlLedger.open(location) as ledger:
        audit = await ledger.verify()
    if not audit.sound:
        raise SystemExit(f"the audit found {audit.faults}")
    return {"verifySeconds": round(time.perf_counter() - began, 2)}


async def _other_loops(stage: Stage) -> Figures:
    """Unchanged passes of the other loops that read the books, as far as they run here."""
    found: Figures = {}
    for name in ("accounts", "market"):
        for _ in range(2):
            await stage.pass_(name)
        stage.meter.taken.clear()
        for _ in range(3):
            await stage.pass_(name)
        found[f"unchanged.{name}"] = stage.meter.medians()
    return found


async def _begun(scene: Scene, location: str, chain: StillChain | None, made: tuple[MemoryHub, StepClock]) -> Stage:
    hub, clock = made
    filled = rss()
    operator = await assemble(location, hub, clock, chain)
    stage = Stage(scene, hub, clock, operator)
    stage.hub_mib = filled
    await told()
    return stage


def _filled(scene: Scene) -> tuple[MemoryHub, StepClock]:
    hub = MemoryHub(scene.month.now)
    hub.fill(objects_of(scene.month))
    return hub, StepClock(scene.month.now)


def _left(scene: Scene) -> tuple[MemoryHub, StepClock]:
    """The hub as `passes` left it before anything changed, some minutes later."""
    hub = MemoryHub(scene.month.now)
    hub.restore(Path(scene.hub).read_text())
    return hub, StepClock(scene.month.now + timedelta(minutes=10))


async def told() -> None:
    """Until the watches have delivered what was written: they are queues, and need a few turns of the event loop."""
    for _ in range(50):
        await asyncio.sleep(0)


def rss() -> float:
    """Resident memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def main() -> None:
    part, path = sys.argv[1:]
    logging.disable(logging.WARNING)
    scene: Scene = pickle.loads(Path(path).read_bytes())  # noqa: S301  # our parent's own file
    parts = {"passes": passes, "on": on, "off": off, "restart": restart, "verify": verify}
    print(json.dumps(asyncio.run(parts[part](scene, os.environ["LOCATION"]))))


if __name__ == "__main__":
    main()
