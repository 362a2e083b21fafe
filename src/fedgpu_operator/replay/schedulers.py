"""Who decides in a replay: our placement and two others, each given the tasks that wait and what is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import GpuNeed
from fedgpu_operator.placement import Snapshot, place
from fedgpu_operator.replay.fleet import State
from fedgpu_operator.replay.trace import Task

Started = list[tuple[Task, int]]
"""Tasks with the node that each runs on; their GPUs are taken."""

Scheduler = Callable[[Sequence[Task], State], Started]

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
RUN_LIMIT: Final = 3600
"""Every task asks for an hour: no scheduler is told how long a task will run."""


def fedgpu(waiting: Sequence[Task], state: State) -> Started:
    """All that wait in one pass: as many as can run, then the least price. The provider picks the fullest node."""
    offers = tuple(replace(offer, free=state.histogram(index)) for index, offer in enumerate(state.fleet.offers))
    jobs = tuple(Job(task.name, "replay", task.name, GpuNeed(task.gpus, task.models), 1, RUN_LIMIT) for task in waiting)
    chosen = place(Snapshot(NOW, jobs, offers, funds={"replay": None})).assigned()
    started = Started()
    # The largest first, as they were laid when it was decided that they fit.
    for task in sorted(waiting, key=lambda task: (-task.gpus, task.name)):
        node = state.fullest(chosen[task.name], task.gpus) if task.name in chosen else None
        if node is not None:
            state.take(node, task.gpus)
            started.append((task, node))
    return started


def greedy(waiting: Sequence[Task], state: State) -> Started:
    """One after the other in the order of creation: the cheapest offer that has room, there the fullest node."""
    offers = state.fleet.offers
    cheapest = sorted(range(len(offers)), key=lambda index: (offers[index].price, index))
    started = Started()
    for task in waiting:
        nodes = (state.fullest(index, task.gpus) for index in cheapest if _suits(task, offers[index].gpu.product))
        node = next((each for each in nodes if each is not None), None)
        if node is not None:
            state.take(node, task.gpus)
            started.append((task, node))
    return started


def kube(waiting: Sequence[Task], state: State) -> Started:
    """One after the other, all nodes in one cluster, blind to price: the node with the largest share of its GPUs free.

    So kube-scheduler's NodeResourcesFit scores by default (LeastAllocated); here with GPUs as the only resource.
    """
    fleet, started = state.fleet, Started()
    models = [fleet.offers[owner].gpu.product for owner in fleet.owner]
    for task in waiting:
        fit = (node for node, free in enumerate(state.free) if free >= task.gpus and _suits(task, models[node]))
        best = max(fit, key=lambda node: (state.free[node] / fleet.gpus[node], -node), default=None)
        if best is not None:
            state.take(best, task.gpus)
            started.append((task, best))
    return started


def _suits(task: Task, model: str) -> bool:
    return not task.models or model in task.models


SCHEDULERS: Final[dict[str, Scheduler]] = {"fedgpu": fedgpu, "greedy": greedy, "kube": kube}
