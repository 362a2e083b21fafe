"""The replay itself: tasks come, wait, run as long as they ran, and leave, in virtual time; no clock is read here."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import ceil

from fedgpu_operator.replay.fleet import Fleet, State
from fedgpu_operator.replay.measure import Moment, Replayed, Shapes
from fedgpu_operator.replay.schedulers import Scheduler
from fedgpu_operator.replay.trace import Task


def replay(tasks: Sequence[Task], fleet: Fleet, scheduler: Scheduler, *, every: int, load: float = 1.0) -> Replayed:
    """Run all tasks; a decision is made at most once in `every` seconds, when something came or went.

    Tasks come `load` times as fast as in the trace and run as long as they did.
    """
    came = [(int(task.created / load), task) for task in tasks]
    since = dict[str, int]()
    state, result, shapes = State(fleet), Replayed(), Shapes(tasks, fleet)
    ends: list[tuple[int, int, int]] = []
    waiting: list[Task] = []
    position, now = 0, came[0][0] if came else 0
    while True:
        while ends and ends[0][0] <= now:
            _, node, gpus = heappop(ends)
            state.take(node, -gpus)
        while position < len(came) and came[position][0] <= now:
            waiting.append(came[position][1])
            since[came[position][1].name] = came[position][0]
            position += 1
        for task, node in scheduler(waiting, state) if waiting else ():
            heappush(ends, (now + task.seconds, node, task.gpus))
            _account(result, task, fleet.offers[fleet.owner[node]].price, now - since.pop(task.name))
        waiting = [task for task in waiting if task.name in since]
        used = fleet.total - sum(state.free)
        result.moments.append(Moment(now, used, len(waiting), shapes.fragmented(state)))
        ahead = [came[position][0]] if position < len(came) else []
        ahead += [ends[0][0]] if ends else []
        if not ahead:
            result.never_ran = len(waiting)
            return result
        # The first tick at which something will have come or gone.
        now += max(1, ceil((min(ahead) - now) / every)) * every


def _account(result: Replayed, task: Task, price: int, waited: int) -> None:
    work = task.gpus * task.seconds
    result.cost += price * work
    result.gpu_seconds += work
    result.asked_milli_seconds += work * task.milli
    result.waits.append(waited)
