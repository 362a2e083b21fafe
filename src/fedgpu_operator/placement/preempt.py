"""Which running jobs go so that one of higher priority gets a place: the cheapest lawful way, or none; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import prod
from typing import Final

from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.running import Move, MoveReason, RunningJob
from fedgpu_operator.placement.reservations import Reservations, likeness, load_of, mover, run_cost, saving

MAX_HOPELESS: Final = 64
"""Kinds of waiting jobs without any way, after which a pass looks at no further ones."""
MAX_SITES: Final = 32
"""Offers that are looked at for one job: those with the least priority, then the least effective price."""
EXACT_CANDIDATES: Final = 8
"""Up to so many jobs at an offer every set of them is tried; beyond that, one minimal set of those that lose least."""
MAX_VICTIMS: Final = 64
"""No job is worth stopping more than this for."""
EXACT_WAYS: Final = 256
"""Up to so many ways of giving the stopped jobs new places are all tried; beyond that, the best one by one."""
MAX_TARGETS: Final = 8
"""New places that are tried for one stopped job."""

Worth = tuple[int, int, int, int, int, str, tuple[str, ...]]
"""How ways are ordered, the least is taken: highest priority among the stopped, how many of them must wait, how many
there are, µUSD, seconds until the last of them has gone (so long the job that is served waits), then names."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Stop `victims` (each with its new place and what that saves) at `offer`, and the job fits there."""

    worth: Worth
    offer: str
    cost: int
    victims: tuple[tuple[RunningJob, Verdict | None, int], ...]


def preempt(
    reservations: Reservations,
    waiting: Iterable[Job],
    running: Sequence[RunningJob],
    nominated: frozenset[str] = frozenset(),
) -> tuple[Move, ...]:
    """The jobs to stop so that `waiting` ones, which no free capacity serves, get a place; all of it is reserved.

    A way is a set of running jobs at one offer, each of lower priority and with moves left, after whose end all
    replicas of the waiting one fit by the book. Of all ways the one with the least `Worth` is taken. What was announced
    for a job stays its way while it works. Where there is room already, or what is leaving anyway makes enough, nobody
    is stopped.
    `nominated` are the waiting jobs for which somebody was stopped already: their room is not given to their equals.
    """
    begun = nominated | {each.announced.serves for each in running if each.announced is not None}
    asking = sorted(
        (job for job in waiting if job.preempts), key=lambda job: (-job.priority, job.uid not in begun, job.uid)
    )
    served = {job.uid: job.priority for job in asking}
    sites = frozenset(each.offer for each in running) | reservations.near_going
    lowest = min((each.job.priority for each in running), default=0)
    moves: list[Move] = []
    taken: set[str] = set()
    hopeless: set[Hashable] = set()
    for job in asking:
        if (job.priority <= lowest and not reservations.going) or len(hopeless) == MAX_HOPELESS:
            break
        alike = (likeness(job), job.priority, job.budget_left)
        if alike in hopeless:
            continue
        if _fits_now(reservations, job):
            continue
        others = [each for each in running if each.uid not in taken and _may_go(each, job, served)]
        search = _Search(reservations, job, others, sites)
        if search.waits():
            continue
        way = search.best()
        if way is None:
            hopeless.add(alike)
            continue
        _accept(reservations, job, way)
        taken |= {victim.uid for victim, _, _ in way.victims}
        moves += _moves(job, way)
    return tuple(moves)


def _fits_now(reservations: Reservations, job: Job) -> bool:
    """Whether the job has a place without anybody's leaving; that place is then kept for it."""
    load = load_of(job)
    for verdict in reservations.options(job):
        if reservations.room_now(verdict.offer, load):
            reservations.take_now(verdict.offer, load)
            reservations.pay(job.namespace, verdict.cost)
            return True
    return False


def _may_go(each: RunningJob, job: Job, served: Mapping[str, int]) -> bool:
    """Whether this one may be stopped for the job: never for its equal, never twice announced to equals."""
    serves = each.announced.serves if each.announced is not None else ""
    if serves != job.uid and served.get(serves, job.priority - 1) >= job.priority:
        return False
    return each.job.priority < job.priority and each.moves_left > 0


def _accept(reservations: Reservations, job: Job, way: _Way) -> None:
    reservations.clear(way.offer, frozenset(victim.lease for victim, _, _ in way.victims))
    reservations.take_after(way.offer, load_of(job))
    reservations.pay(job.namespace, way.cost)
    for victim, there, _ in way.victims:
        if there is not None:
            reservations.take_now(there.offer, load_of(victim.job))
            reservations.pay(victim.job.namespace, max(0, there.cost - victim.released))


def _moves(job: Job, way: _Way) -> Iterator[Move]:
    for victim, there, saved in way.victims:
        to = there.offer if there is not None else ""
        text = f"preempted at {way.offer} by a job of priority {job.priority}, own priority {victim.job.priority}"
        text += f"; {to} is reserved for it" if to else "; queued for another offer"
        yield Move(victim.uid, victim.lease, MoveReason.PREEMPTED, to, job.uid, saved, text)


class _Search:
    """The ways for one job."""

    def __init__(
        self, reservations: Reservations, job: Job, running: Sequence[RunningJob], sites: frozenset[str]
    ) -> None:
        self._reservations, self._job, self._load = reservations, job, load_of(job)
        self._verdicts = {verdict.offer: verdict for verdict in reservations.options(job, at=sites)}
        self._sites: dict[str, list[RunningJob]] = defaultdict(list)
        for each in running:
            if each.offer in self._verdicts:
                self._sites[each.offer].append(each)

    def waits(self) -> bool:
        """Whether what goes anyway makes room for the job; that room is then kept for it."""
        # What leaves one offer of a provider gives its lease slot to the others too.
        going = {name.rpartition("/")[0] for name in self._reservations.going}
        for name in self._verdicts:
            if name.rpartition("/")[0] in going and self._reservations.room_after(name, self._load):
                self._reservations.take_after(name, self._load)
                self._reservations.pay(self._job.namespace, self._verdicts[name].cost)
                return True
        return False

    def best(self) -> _Way | None:
        """What was begun, where it still works; else the way of least worth; None if there is none."""
        found = self._begun()
        if found is not None:
            return found
        for name, victims in self._candidates():
            least = (max(each.job.priority for each in victims), 0, len(victims))
            # Nobody's waiting and no money can make up for a higher priority or more of them.
            if found is None or least <= found.worth[:3]:
                way = self._way(name, victims)
                found = way if found is None or way.worth < found.worth else found
        return found

    def _begun(self) -> _Way | None:
        """The way that was announced, without those of its victims that are not needed any more."""
        for name in sorted(self._sites):
            told = [each for each in self._sites[name] if each.announced and each.announced.serves == self._job.uid]
            if told and self._fits(name, told):
                return self._way(name, self._needed(name, sorted(told, key=_least_loss)))
        return None

    def _candidates(self) -> Iterator[tuple[str, tuple[RunningJob, ...]]]:
        ranked = sorted(
            self._sites,
            key=lambda name: (
                min(each.job.priority for each in self._sites[name]),
                self._verdicts[name].effective_price,
                name,
            ),
        )
        for name in ranked[:MAX_SITES]:
            for victims in self._sets(name):
                yield name, victims

    def _sets(self, name: str) -> Iterator[tuple[RunningJob, ...]]:
        """Sets of jobs at the offer after which the job fits and of which nobody can be left out."""
        candidates = sorted(self._sites[name], key=_least_loss)
        few = candidates[:EXACT_CANDIDATES]
        if self._fits(name, few):
            found: list[frozenset[str]] = []
            for size in range(1, len(few) + 1):
                for chosen in combinations(few, size):
                    names = frozenset(each.lease for each in chosen)
                    if not any(less <= names for less in found) and self._fits(name, chosen):
                        found.append(names)
                        yield chosen
            return
        size = 2 * EXACT_CANDIDATES
        while size <= MAX_VICTIMS and len(candidates) > size // 2:
            if self._fits(name, candidates[:size]):
                yield self._needed(name, candidates[:size])
                return
            size *= 2

    def _needed(self, name: str, victims: Sequence[RunningJob]) -> tuple[RunningJob, ...]:
        """The victims without those that may stay after all, asked in the order of who would lose most."""
        kept = list(victims)
        for each in reversed(victims):
            fewer = [other for other in kept if other is not each]
            if fewer and self._fits(name, fewer):
                kept = fewer
        return tuple(kept)

    def _fits(self, name: str, victims: Sequence[RunningJob]) -> bool:
        return self._reservations.room_after(name, self._load, frozenset(each.lease for each in victims))

    def _way(self, name: str, victims: Sequence[RunningJob]) -> _Way:
        verdict = self._verdicts[name]
        mark = self._reservations.mark()
        self._reservations.clear(name, frozenset(each.lease for each in victims))
        self._reservations.take_after(name, self._load)
        self._reservations.pay(self._job.namespace, verdict.cost)
        ordered = sorted(victims, key=lambda each: (-each.job.priority, -each.job.gpus, each.uid))
        placed = _Places(self._reservations, name).best(ordered)
        self._reservations.reset(mark)
        waits = sum(1 for _, there, _ in placed if there is None)
        money = run_cost(self._job, verdict) - sum(saved for _, _, saved in placed)
        highest = max(each.job.priority for each in victims)
        uids = tuple(sorted(each.uid for each in victims))
        gone = max(_seconds_to_go(each) for each in victims)
        return _Way((highest, waits, len(victims), money, gone, name, uids), name, verdict.cost, placed)


Placed = tuple[tuple[RunningJob, Verdict | None, int], ...]


class _Places:
    """New places for jobs that must leave an offer, none of them there."""

    def __init__(self, reservations: Reservations, left: str) -> None:
        self._reservations, self._left = reservations, left

    def best(self, victims: Sequence[RunningJob]) -> Placed:
        """First as few as possible that wait, then the greatest saving, then the order of offers."""
        exact = prod(len(self._open(each)) + 1 for each in victims) <= EXACT_WAYS
        return max(self._all(victims, exact=exact), key=_served)

    def _all(self, victims: Sequence[RunningJob], *, exact: bool) -> Iterator[Placed]:
        if not victims:
            yield ()
            return
        first, rest = victims[0], victims[1:]
        here = self._reservations.here(first)
        options: list[tuple[Verdict | None, int]] = [(each, saving(first, here, each)) for each in self._open(first)]
        if not exact:
            options = sorted(options, key=lambda option: -option[1])[:1]
        if exact or not options:
            options.append((None, saving(first, here, None)))
        for there, saved in options:
            mark = self._reservations.mark()
            if there is not None:
                self._reservations.take_now(there.offer, load_of(first.job))
                self._reservations.pay(first.job.namespace, max(0, there.cost - first.released))
            for others in self._all(rest, exact=exact):
                yield ((first, there, saved), *others)
            self._reservations.reset(mark)

    def _open(self, victim: RunningJob) -> list[Verdict]:
        load = load_of(victim.job)
        lawful = self._reservations.options(mover(victim), credit=victim.released)
        return list(
            islice(
                (each for each in lawful if each.offer != self._left and self._reservations.room_now(each.offer, load)),
                MAX_TARGETS,
            )
        )


def _served(placed: Placed) -> tuple[int, int]:
    return sum(1 for _, there, _ in placed if there is not None), sum(saved for _, _, saved in placed)


def _seconds_to_go(each: RunningJob) -> int:
    """From the announcement until its room is free: its notice, and the grace of its pods."""
    return each.warning + each.grace


def _least_loss(each: RunningJob) -> tuple[int, int, int, str]:
    """Who is stopped first: the least priority, then the least work lost, then who is gone soonest, then by uid."""
    return each.job.priority, each.price * each.job.gpus * each.lost, _seconds_to_go(each), each.uid
