"""What a replay is judged by: money, GPUs in use, waiting, and fragmentation; figures only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from fedgpu_operator.replay.fleet import Fleet, State
from fedgpu_operator.replay.trace import Task

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """From `at` on until the next one: GPUs in use, tasks waiting, and the share of free GPUs that is fragmented."""

    at: int
    used: int
    waiting: int
    fragmented: float


@dataclass(slots=True)
class Replayed:
    """What came of a replay. `cost` is µUSD · s per hour; `waits` are seconds, one for each task that ran."""

    cost: int = 0
    gpu_seconds: int = 0
    asked_milli_seconds: int = 0
    waits: list[int] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    never_ran: int = 0


class Shapes:
    """How often the trace asks for what: the target workload against which fragmentation is measured.

    The measure is that of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023, section 3.2), for whole GPUs: a
    node's free GPUs are fragmented for a task that they cannot hold, and a node's fragmentation is the mean over tasks,
    each as often as it occurs. Tasks without GPUs are left out, CPU and memory are not looked at.
    """

    def __init__(self, tasks: Sequence[Task], fleet: Fleet) -> None:
        self.counts = Counter((task.gpus, task.models) for task in tasks)
        self.models = [fleet.offers[owner].gpu.product for owner in fleet.owner]
        self.total = len(tasks)
        self.known: dict[tuple[str, int], float] = {}

    def fragmented(self, state: State) -> float:
        """Of the GPUs free now, the share that the mean task cannot use; 0 where none is free."""
        free = sum(state.free)
        if not free:
            return 0.0
        kinds = Counter(zip(self.models, state.free, strict=True))
        return sum(left * self._unusable(model, left) * nodes for (model, left), nodes in kinds.items()) / free

    def _unusable(self, model: str, left: int) -> float:
        key = (model, left)
        if key not in self.known:
            refused = sum(
                times
                for (gpus, models), times in self.counts.items()
                if gpus > left or (models and model not in models)
            )
            self.known[key] = refused / self.total
        return self.known[key]


def figures(replayed: Replayed, fleet: Fleet) -> Figures:
    """The replay in figures; means over time run from the first moment to the last."""
    moments = replayed.moments
    span = max(1, moments[-1].at - moments[0].at)
    spans = [(each, after.at - each.at) for each, after in pairwise(moments)]
    hours = replayed.gpu_seconds / 3600
    usd = replayed.cost / 3600 / 1_000_000
    waits = sorted(replayed.waits)
    used = sum(each.used * seconds for each, seconds in spans)
    return {
        "tasks": len(waits),
        "neverRan": replayed.never_ran,
        "usd": round(usd, 2),
        "usdPerGPUHour": round(usd / hours, 6),
        "gpuHours": round(hours, 2),
        "askedShare": round(replayed.asked_milli_seconds / 1000 / replayed.gpu_seconds, 4),
        "meanGPUsUsed": round(used / span, 2),
        "mostGPUsUsed": max(each.used for each in moments),
        "utilization": round(used / span / fleet.total, 4),
        "fragmentation": round(sum(each.fragmented * seconds for each, seconds in spans) / span, 4),
        "waitMean": round(sum(waits) / len(waits), 1),
        "waitP50": percentile(waits, 50),
        "waitP99": percentile(waits, 99),
        "waitMost": waits[-1],
        "makespanHours": round(span / 3600, 2),
    }


def percentile(ordered: Sequence[int], share: float) -> int:
    """The least value that so many per cent of the values do not exceed (nearest rank)."""
    return ordered[max(0, ceil(len(ordered) * share / 100) - 1)]
