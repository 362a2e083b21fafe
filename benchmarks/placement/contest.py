"""The same world placed by us and by others: time, jobs placed and effective cost, each judged by the same rules."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypedDict

from benchmarks.placement import peers, rules, unclassed, worlds
from benchmarks.placement.peers import Pairs
from benchmarks.placement.workloads import BASIC, MIXED, SCALE, pairs
from benchmarks.placement.worlds import Size

from fedgpu_operator.placement import Snapshot, place

PATIENCE: Final = 60.0
"""Seconds of CPU that one scheduler gets; what it has placed by then counts."""

CONTESTS: Final = {
    "Contest: FED-Basic": BASIC,
    "Contest: FED-Basic, single GPUs": replace(BASIC, multi=0.0),
    "Contest: scarce": replace(BASIC, load=1.25),
    "Contest: FED-Mixed": MIXED,
    "Contest: FED-Scale": SCALE,
}


class Entry(TypedDict):
    """One scheduler's result. `looked` is how many jobs it came to before its patience ended."""

    scheduler: str
    seconds: float
    cpuSeconds: float
    looked: int
    placed: int
    usd: float
    gpuHours: float


def run(size: Size) -> list[Entry]:
    """Everybody who can, on one world."""
    world = worlds.make(size)
    world = replace(world, offers=tuple(sorted(world.offers, key=lambda each: (each.provider, each.gpu.product))))
    return [_entry(name, world, scheduler) for name, scheduler in _schedulers(size, world)]


Scheduler = Callable[[], tuple[Pairs, int]]


def _schedulers(size: Size, world: Snapshot) -> Iterator[tuple[str, Scheduler]]:
    jobs, offers, policies = world.jobs, world.offers, world.policies
    yield "fedgpu", lambda: (pairs(jobs, place(world)), len(jobs))
    yield "greedy, least effective price", lambda: peers.greedy(jobs, offers, policies, PATIENCE)
    if len(jobs) <= BASIC.jobs:
        sampled, whole = peers.OneAtATime(sampled=True), peers.OneAtATime(sampled=False)
        yield "one at a time, sampled as kube-scheduler", lambda: sampled(jobs, offers, policies, PATIENCE)
        yield "one at a time, all offers", lambda: whole(jobs, offers, policies, PATIENCE)
    if not size.multi and len(jobs) <= BASIC.jobs:
        yield "OR-Tools, a node for every job", lambda: (unclassed.place(jobs, offers, policies), len(jobs))
    if not size.multi:
        yield "OR-Tools, a node for every class", lambda: (unclassed.place_classes(jobs, offers, policies), len(jobs))


def _entry(name: str, world: Snapshot, scheduler: Scheduler) -> Entry:
    gc.collect()
    began, used = time.perf_counter(), time.process_time()
    placed, looked = scheduler()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    bill = rules.judged(world.jobs, world.offers, world.policies, placed)
    return {
        "scheduler": name,
        "seconds": round(seconds, 3),
        "cpuSeconds": round(cpu, 3),
        "looked": looked,
        "placed": bill.jobs,
        "usd": bill.usd,
        "gpuHours": bill.gpu_hours,
    }
