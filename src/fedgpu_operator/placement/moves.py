"""All moves of one pass in their order: what goes on, then room for what waits, then what moves for its own sake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.running import Hysteresis, Move, RunningJob
from fedgpu_operator.placement.preempt import preempt
from fedgpu_operator.placement.rebalance import carry_on, rebalance
from fedgpu_operator.placement.reservations import Reservations


def replan(
    reservations: Reservations,
    waiting: Iterable[Job],
    running: Sequence[RunningJob],
    *,
    draining: frozenset[str] = frozenset(),
    nominated: frozenset[str] = frozenset(),
    rules: Hysteresis | None = None,
) -> tuple[Move, ...]:
    """Every move that is right now, those announced before among them; what is announced and not here is called off.

    `waiting` are the jobs that this pass placed nowhere, `running` those that may be moved. Without `rules` nothing new
    moves for its own sake. Pure and level-triggered: the same facts give the same moves, however often it is asked.
    """
    going = carry_on(reservations, running, draining)
    rest = _without(running, going)
    forced = preempt(reservations, waiting, rest, nominated)
    if rules is None:
        return (*going, *forced)
    return (*going, *forced, *rebalance(reservations, _without(rest, forced), draining, rules))


def _without(running: Sequence[RunningJob], moves: Sequence[Move]) -> tuple[RunningJob, ...]:
    going = {move.uid for move in moves}
    return tuple(each for each in running if each.uid not in going)
