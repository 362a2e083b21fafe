"""Small worlds of running and waiting work for the tests of moves, and a judge of ways that is written anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations, product
from random import Random
from typing import Any

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job, PlacementRules
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer, take
from fedgpu_operator.domain.running import Announced, Move, RunningJob
from fedgpu_operator.placement import Snapshot
from fedgpu_operator.placement.reservations import Reservations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
H100 = "H100"
USD = 1_000_000


def job(uid: str, *, gpus: int = 1, replicas: int = 1, priority: int = 0, countries: str = "", **more: Any) -> Job:
    """A job of one hour in namespace `lab` that may push others aside."""
    rules = PlacementRules(countries=frozenset(countries.split(",")) if countries else None)
    made = Job(uid, "lab", uid, GpuNeed(gpus), replicas, 3600, priority=priority, rules=rules, preempts=True)
    return replace(made, **more)


def runs(
    job: Job,
    provider: str,
    *,
    price: int = USD,
    seconds: int = 600,
    moves: int = 1,
    notice: int = 60,
    resident: int = -1,
    grace: int = 0,
) -> RunningJob:
    """The job where it runs; its lease is named after it."""
    since = seconds if resident < 0 else resident
    return RunningJob(job, f"{job.uid}-1", provider, H100, MicroUSD(price), seconds, since, moves, notice, grace)


@dataclass
class MoveWorld:
    """Nodes by provider (their GPUs), prices and countries; what runs takes GPUs of the nodes in order."""

    nodes: dict[str, dict[int, int]]
    prices: dict[str, int]
    running: list[RunningJob]
    countries: dict[str, str]
    slots: dict[str, int]

    def freed(self, offer: str, gone: frozenset[str]) -> dict[int, int]:
        """As the hub counts: what the nodes have, less every lease that stays."""
        free: dict[int, int] | None = dict(self.nodes[offer.split("/")[0]])
        for each in self.running:
            if each.offer == offer and each.lease not in gone and free is not None:
                free = take(free, each.job.gpu.count, each.job.replicas)
        return free or {}

    def snapshot(self, funds: int | None = None) -> Snapshot:
        offers = tuple(
            Offer(
                provider=name,
                gpu=GpuModel(H100, 80_000, "hopper"),
                price=MicroUSD(price),
                location=Location(self.countries.get(name, "DE")),
                free=self.freed(f"{name}/{H100}", frozenset()),
                interruptions_per_mh=0,
                lease_slots=self.slots[name] - sum(each.provider == name for each in self.running)
                if name in self.slots
                else None,
            )
            for name, price in self.prices.items()
        )
        return Snapshot(NOW, (), offers, {}, {"lab": None if funds is None else MicroUSD(funds)})

    def board(self, funds: int | None = None, leaving: dict[str, frozenset[str]] | None = None) -> Reservations:
        return Reservations(self.snapshot(funds), self.freed, leaving)

    def told(self, moves: Sequence[Move]) -> list[RunningJob]:
        """What runs, each with what it was told of."""
        by_uid = {move.uid: move for move in moves}
        return [
            replace(each, announced=Announced(move.reason, move.to, move.serves))
            if (move := by_uid.get(each.uid)) is not None
            else replace(each, announced=None)
            for each in self.running
        ]


def world(
    nodes: dict[str, dict[int, int]],
    running: Sequence[RunningJob] = (),
    prices: dict[str, int] | None = None,
    countries: dict[str, str] | None = None,
    slots: dict[str, int] | None = None,
) -> MoveWorld:
    """A world; every provider asks 1 USD and stands in Germany where nothing else is said."""
    asked = dict.fromkeys(nodes, USD) | (prices or {})
    return MoveWorld(nodes, asked, list(running), countries or {}, slots or {})


def random_world(rng: Random) -> tuple[MoveWorld, list[Job]]:
    """Two or three full-ish providers, up to five running jobs, one or two that wait for more than is free."""
    names = ["p", "q", "r"][: rng.choice([2, 3])]
    made = world(
        {name: {rng.choice([2, 4]): rng.choice([1, 2])} for name in names},
        prices={name: rng.choice([1, 2, 3]) * USD for name in names},
        countries={name: rng.choice(["DE", "US"]) for name in names},
        slots={name: rng.choice([1, 2, 3]) for name in names if rng.random() < 0.3},
    )
    for number in range(rng.randint(3, 12)):
        name = rng.choice(names)
        wanted = job(
            f"r{number}",
            gpus=rng.choice([1, 1, 2]),
            replicas=rng.choice([1, 1, 2]),
            priority=rng.choice([0, 0, 0, 1, 5]),
            countries=rng.choice(["", "", "", "DE", "US"]),
            checkpoint_seconds=rng.choice([None, 300]),
        )
        if wanted.rules.countries and made.countries[name] not in wanted.rules.countries:
            continue
        free = take(made.freed(f"{name}/{H100}", frozenset()), wanted.gpu.count, wanted.replicas)
        if free is None or made.slots.get(name, 9) <= sum(each.provider == name for each in made.running):
            continue
        seconds = rng.choice([0, 60, 1200, 3000])
        made.running.append(
            runs(
                wanted,
                name,
                price=made.prices[name],
                seconds=seconds,
                moves=rng.choice([0, 1, 1, 1, 2]),
                resident=seconds,
                # By number and not by chance, so that worlds stay the same beside it.
                notice=(60, 60, 60, 300)[number % 4],
                grace=(90, 30, 0)[number % 3],
            )
        )
    waiting = [
        job(
            f"w{number}",
            gpus=rng.choice([1, 2, 2, 4]),
            replicas=rng.choice([1, 1, 2]),
            priority=rng.choice([1, 5, 9, 9]),
            countries=rng.choice(["", "DE"]),
        )
        for number in range(rng.choice([1, 1, 2]))
    ]
    return made, waiting


Way = tuple[int, int, int, int, int, str, tuple[str, ...]]
"""Highest priority, how many must wait, how many are stopped, µUSD, seconds until all have gone, then names."""


class Judge:
    """Every way for one waiting job by plain search: sets of running jobs at one offer, and where they could go."""

    def __init__(self, made: MoveWorld, wanted: Job) -> None:
        self._world, self._wanted = made, wanted

    def fits_now(self, wanted: Job) -> bool:
        """Whether some lawful provider has room for the job without anybody's leaving."""
        return any(self._holds(name, frozenset(), [wanted], wanted) for name in self._world.prices)

    def ways(self) -> Iterator[Way]:
        for name in self._world.prices:
            there = [each for each in self._world.running if each.provider == name and self._may_stop(each)]
            for size in range(1, len(there) + 1):
                for gone in combinations(there, size):
                    if self._holds(name, frozenset(each.lease for each in gone), [self._wanted], self._wanted):
                        yield from self._places(name, gone)

    def worth(self, name: str, gone: Sequence[RunningJob], targets: Sequence[str]) -> Way | None:
        """What stopping these and sending them there is worth; None where it cannot be."""
        leases = frozenset(each.lease for each in gone)
        if not self._holds(name, leases, [self._wanted], self._wanted):
            return None
        for target in set(targets) - {""}:
            comers = [each.job for each, to in zip(gone, targets, strict=True) if to == target]
            if target == name or any(not self._holds(target, frozenset(), comers, comer) for comer in comers):
                return None
        money = -(-self._world.prices[name] * self._wanted.gpus * self._wanted.run_limit // 3600)
        money -= sum(self.saved(each, to) for each, to in zip(gone, targets, strict=True))
        highest = max(each.job.priority for each in gone)
        uids = tuple(sorted(each.uid for each in gone))
        seconds = max((each.notice if each.seconds else 0) + each.grace for each in gone)
        return highest, list(targets).count(""), len(gone), money, seconds, f"{name}/{H100}", uids

    def saved(self, each: RunningJob, to: str) -> int:
        """µUSD that going there saves; notice and grace are paid, and work since the last checkpoint is done again."""
        notice = each.notice if each.seconds else 0
        lost = each.seconds + notice
        if each.job.checkpoint_seconds is not None:
            lost = min(lost, each.job.checkpoint_seconds)
        again = lost + (120 if each.seconds else 0)
        if not to:
            return -(each.price * each.job.gpus * again // 3600)
        left = max(0, 3600 - each.grace - each.seconds)
        until = min(left, notice)
        stay = each.price * left
        go = each.price * (until + each.grace) + self._world.prices[to] * (left - until + again)
        return (stay - go) * each.job.gpus // 3600

    def _may_stop(self, each: RunningJob) -> bool:
        return each.job.priority < self._wanted.priority and each.moves_left > 0

    def _places(self, name: str, gone: Sequence[RunningJob]) -> Iterator[Way]:
        others = ["", *(other for other in self._world.prices if other != name)]
        for targets in product(others, repeat=len(gone)):
            found = self.worth(name, gone, targets)
            if found is not None:
                yield found

    def _holds(self, name: str, gone: frozenset[str], comers: Sequence[Job], one: Job) -> bool:
        rules = one.rules.countries
        if rules is not None and self._world.countries.get(name, "DE") not in rules:
            return False
        here = [each for each in self._world.running if each.provider == name and each.lease not in gone]
        if name in self._world.slots and self._world.slots[name] < len(here) + len(comers):
            return False
        free: dict[int, int] | None = self._world.freed(f"{name}/{H100}", gone)
        for comer in comers:
            free = None if free is None else take(free, comer.gpu.count, comer.replicas)
        return free is not None
