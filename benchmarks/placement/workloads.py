"""The workloads by name: what each is made of, how it is timed in a process of its own, and what it must reach."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from benchmarks.placement import rules, worlds
from benchmarks.placement.peers import Pairs
from benchmarks.placement.worlds import Size

from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement import Snapshot, place
from fedgpu_operator.placement.engine import Placement

Figures = dict[str, float]
BASIC: Final = Size(jobs=10_000, offers=5_000, classes=500, load=0.8, multi=0.2)
SCALE: Final = Size(jobs=1_000_000, offers=10_000, classes=1_000, load=0.8)
SLOPES: Final = {"slope": "seconds", "slopeCPU": "cpuSeconds"}
MIXED: Final = Size(jobs=100_000, offers=10_000, classes=2_000, load=0.8, multi=0.5)


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table. `targets` bounds figures: positive from above, negative from below."""

    size: Size
    measure: Callable[[Size], Figures]
    targets: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 5


def missed(figures: Mapping[str, float], targets: Mapping[str, float]) -> list[str]:
    """The targets that these figures do not reach, in words."""
    return [
        f"{name} is {figures[name]:g}, must be {'at least' if bound < 0 else 'at most'} {abs(bound):g}"
        for name, bound in targets.items()
        if (figures[name] < -bound if bound < 0 else figures[name] > bound)
    ]


def full(size: Size) -> Figures:
    """Everything from ungrouped jobs through one cold solve; then judged by rules.py."""
    world = _built(size)
    answer, figures = _timed(lambda: place(world))
    return figures | _quality(world, answer)


def scale(size: Size) -> Figures:
    """The first answer with its gap, then the whole as in `full`, each cold, on one world."""
    world = _built(size)
    early, taken = _timed(lambda: place(world, first_only=True))
    figures = {"firstSeconds": taken["seconds"], "firstCPUSeconds": taken["cpuSeconds"]}
    figures |= {"firstGap": round(early.solution.gap, 6), "firstPlaced": early.solution.placed}
    del early
    gc.collect()
    answer, taken = _timed(lambda: place(world))
    return taken | _quality(world, answer) | figures


def growth(size: Size) -> Figures:
    """A full solve of an eighth, a quarter, a half and all of the jobs."""
    runs = {
        times: full(replace(size, jobs=size.jobs * times // 8, classes=size.classes * times // 8))
        for times in (1, 2, 4, 8)
    }
    figures = {f"{what}{times}x": run[what] for what in ("seconds", "cpuSeconds") for times, run in runs.items()}
    slopes = {f"{name}": _slope({times: run[what] for times, run in runs.items()}) for name, what in SLOPES.items()}
    return figures | slopes


def _slope(seconds: Mapping[int, float]) -> float:
    """The exponent of growth: the straight line through the logarithms, by least squares."""
    return round(float(np.polyfit(np.log2(list(seconds)), np.log2(list(seconds.values())), 1)[0]), 3)


def _built(size: Size) -> Snapshot:
    gc.disable()
    world = worlds.make(size)
    gc.enable()
    gc.collect()
    return world


def _timed(work: Callable[[], Placement]) -> tuple[Placement, Figures]:
    began, used = time.perf_counter(), time.process_time()
    answer = work()
    return answer, {
        "seconds": round(time.perf_counter() - began, 4),
        "cpuSeconds": round(time.process_time() - used, 4),
        "peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _quality(world: Snapshot, answer: Placement) -> Figures:
    """What was reached; lawfulness and cost come from rules.py, which reads the jobs and offers by itself."""
    offers = sorted(world.offers, key=lambda offer: (offer.provider, offer.gpu.product))
    bill = rules.judged(world.jobs, offers, world.policies, pairs(world.jobs, answer))
    solution = answer.solution
    return {
        "jobs": len(world.jobs),
        "classes": len(answer.classes),
        "placed": bill.jobs,
        "most": solution.most,
        "usd": bill.usd,
        "gpuHours": bill.gpu_hours,
        "gap": round(solution.gap, 6),
        "certified": int(solution.certified),
        "rounds": solution.rounds,
    }


def pairs(jobs: Sequence[Job], answer: Placement) -> Pairs:
    """(index of job, index of offer in name order) of everything placed."""
    index = {job.uid: i for i, job in enumerate(jobs)}
    placed = Pairs()
    for group, flows in zip(answer.classes, answer.solution.flows, strict=True):
        members = iter(group.members)
        placed += [(index[next(members)], offer) for offer, count in flows for _ in range(count)]
    return placed


GIB: Final = 2**30
SCALE_TARGETS: Final = {"seconds": 5.0, "firstSeconds": 2.5, "certified": -1, "peakBytes": 1.5 * GIB}
WORKLOADS: Final = {
    "FED-Basic": Workload(BASIC, full, {"seconds": 1.0}),
    "FED-Basic, all distinct": Workload(replace(BASIC, distinct=True), full, {"seconds": 1.0}),
    "Policy-heavy": Workload(replace(BASIC, policies=200, groups=50), full, {"seconds": 2.0}),
    "FED-Scale": Workload(SCALE, scale, SCALE_TARGETS),
    "FED-Scale, every pair": Workload(replace(SCALE, open=True), scale, SCALE_TARGETS),
    "FED-Scale, scarce": Workload(replace(SCALE, load=1.25), scale, SCALE_TARGETS, repeats=1),
    "FED-Mixed": Workload(MIXED, full, {"seconds": 5.0, "gap": 0.03}),
    "FED-Mixed, scarce": Workload(replace(MIXED, load=1.25), full, {"seconds": 5.0, "gap": 0.03}, repeats=1),
    "Growth": Workload(MIXED, growth, {"slope": 1.05}),
    "Growth, single GPUs": Workload(SCALE, growth, {"slope": 1.05}, repeats=3),
}
"""FED-Basic's bound is 10,000 placements a second, so a second for its jobs."""
