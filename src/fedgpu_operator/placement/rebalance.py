"""Which running jobs go to a cheaper place, or leave a draining provider, and only where that pays; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Final

from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, format_usd
from fedgpu_operator.domain.running import Hysteresis, Move, MoveReason, RunningJob
from fedgpu_operator.placement.reservations import Reservations, hourly, load_of, mover, saving

MAX_TARGETS: Final = 16
"""Offers that are weighed for one job, the least effective price first; those had room when the pass began."""


@dataclass(frozen=True, slots=True)
class _Chance:
    """A job that may go, and its lawful places with what each saves, best first."""

    running: RunningJob
    urgent: bool
    targets: tuple[tuple[int, Verdict], ...]


def carry_on(
    reservations: Reservations, running: Iterable[RunningJob], draining: frozenset[str] = frozenset()
) -> tuple[Move, ...]:
    """The announced moves that go on: their held place is lawful, has room, and still saves anything.

    Work that leaves a draining provider need not save.
    """
    moves = []
    for each in sorted(running, key=lambda each: each.uid):
        known = each.announced
        if known is None or known.reason is not MoveReason.REBALANCED:
            continue
        urgent = each.provider in draining
        here, held = reservations.here(each), frozenset({known.to})
        targets = tuple(
            (saved, verdict)
            for verdict in reservations.options(mover(each), credit=each.released, at=held)
            if (saved := saving(each, here, verdict)) > 0 or urgent
        )
        move = _go(reservations, _Chance(each, urgent, targets))
        if move is not None:
            moves.append(move)
    return tuple(moves)


def rebalance(
    reservations: Reservations,
    running: Iterable[RunningJob],
    draining: frozenset[str] = frozenset(),
    rules: Hysteresis | None = None,
) -> tuple[Move, ...]:
    """New moves for their own sake, each with its reservation. `running` are those that no other move concerns.

    `draining` names providers that want to be empty: what is there leaves for any lawful place, the highest priority
    first. The others go in the order of what they save, each to the best of its places that is left.
    """
    rules, running = rules or Hysteresis(), tuple(running)
    reservations.prime(each for each in running if each.moves_left > 0 and _is_asked(each, rules, draining))
    chances = [
        chance
        for each in running
        if each.moves_left > 0 and _is_asked(each, rules, draining)
        if (chance := _chance(reservations, each, rules, urgent=each.provider in draining)) is not None
    ]
    moves, left = [], rules.most
    for chance in sorted(chances, key=_first):
        if chance.urgent or left > 0:
            move = _go(reservations, chance)
            if move is not None:
                moves.append(move)
                left -= 0 if chance.urgent else 1
    return tuple(moves)


def _is_asked(each: RunningJob, rules: Hysteresis, draining: frozenset[str]) -> bool:
    return each.provider in draining or (each.seconds > 0 and each.resident >= rules.residence)


def _chance(reservations: Reservations, each: RunningJob, rules: Hysteresis, *, urgent: bool) -> _Chance | None:
    here, least = reservations.here(each), _least(each, rules)
    now = each.price + hourly(here)
    targets: list[tuple[int, Verdict]] = []
    for verdict in _options(reservations, each, here):
        if len(targets) == MAX_TARGETS or (not urgent and verdict.effective_price >= now):
            # What is dearer by the hour, its one-off costs spread over the whole run, saves nothing.
            break
        if urgent and verdict.provider == each.provider:
            continue
        saved = saving(each, here, verdict)
        if urgent or saved >= least:
            targets.append((saved, verdict))
    targets.sort(key=lambda option: (-option[0], option[1].offer))
    return _Chance(each, urgent, tuple(targets)) if targets else None


def _least(each: RunningJob, rules: Hysteresis) -> int:
    """The saving from which on it moves (µUSD); never nothing."""
    stay = each.price * each.job.gpus * each.left // SECONDS_PER_HOUR
    return max(1, rules.absolute, stay * rules.relative // 100)


def _first(chance: _Chance) -> tuple[bool, int, int, str]:
    """Who leaves a draining provider first (the higher priority before), then the greatest saving, then uid."""
    priority = -chance.running.job.priority if chance.urgent else 0
    return not chance.urgent, priority, -chance.targets[0][0], chance.running.uid


def _go(reservations: Reservations, chance: _Chance) -> Move | None:
    each, load = chance.running, load_of(chance.running.job)
    for saved, verdict in chance.targets:
        name = verdict.offer
        if not (
            _has_room(reservations, each, name) and reservations.affords(mover(each), verdict, credit=each.released)
        ):
            continue
        reservations.clear(each.offer, frozenset({each.lease}))
        if name == each.offer:
            reservations.take_after(name, load)
        else:
            reservations.take_now(name, load)
        reservations.pay(each.job.namespace, max(0, verdict.cost - each.released))
        why = f"provider {each.provider} is draining" if chance.urgent else f"saves {format_usd(saved)} USD"
        text = f"{why}: from {each.offer} at {format_usd(each.price)} to {name} at {format_usd(verdict.price)} USD"
        return Move(each.uid, each.lease, MoveReason.REBALANCED, name, "", saved, text)
    return None


def _options(reservations: Reservations, each: RunningJob, here: Verdict | None) -> Iterator[Verdict]:
    """Lawful offers by effective price, its own at today's price among them: what it leaves there it can have again."""
    wanted, credit = mover(each), each.released
    can_stay = here is not None and here.eligible and reservations.affords(wanted, here, credit=credit)
    own = [here] if here is not None and can_stay else []
    others = (one for one in reservations.options(wanted, credit=credit) if one.offer != each.offer)
    return merge(own, others, key=lambda verdict: (verdict.effective_price, verdict.offer))


def _has_room(reservations: Reservations, each: RunningJob, name: str) -> bool:
    load = load_of(each.job)
    if name == each.offer:
        return reservations.room_after(name, load, frozenset({each.lease}))
    return reservations.room_now(name, load)
