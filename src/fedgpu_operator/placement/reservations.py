"""What moves take of the offers and what a move costs: shared by preemption and rebalancing, which decide the moves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD
from fedgpu_operator.domain.offer import Histogram, Load, Offer, pack, room
from fedgpu_operator.domain.running import RESTART_SECONDS, RunningJob
from fedgpu_operator.placement.context import Snapshot
from fedgpu_operator.placement.engine import evaluate
from fedgpu_operator.placement.registry import BUILT_IN, Plugins
from fedgpu_operator.placement.table import slots_of

Freed = Callable[[str, frozenset[str]], Histogram]
"""What would be free at an offer (by name) if these leases (by name) had ended; decided as the snapshot's `free` is."""

ONE_OFF: Final = frozenset({"egress", "egressAssumed", "gas"})
"""Components that a run pays once: to whoever stays they are paid already, whoever moves pays them again."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is taken: `gone` leases by offer, loads by offer that need room `now`, and all loads that come."""

    gone: Mapping[str, frozenset[str]]
    now: Mapping[str, tuple[Load, ...]]
    coming: Mapping[str, tuple[Load, ...]]
    funds: Mapping[str, MicroUSD | None]


class Reservations:
    """The offers while moves are thought out: nothing is promised twice, neither now nor after what goes has gone.

    `snapshot` is as this pass's placements left it: offers and funds. `leaving` names, by offer, the leases that were
    told to stop already and soon end.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        freed: Freed,
        leaving: Mapping[str, frozenset[str]] | None = None,
        plugins: Plugins = BUILT_IN,
    ) -> None:
        self._plugins = plugins
        self.offers = {offer.name: offer for offer in snapshot.offers}
        self.leaving = dict(leaving or {})
        self._snapshot = snapshot
        self._freed = freed
        self._slots = slots_of(snapshot.offers)
        self._state = _State(dict(self.leaving), {}, {}, dict(snapshot.funds))
        self._verdicts: dict[Hashable, tuple[Verdict, ...]] = {}
        self._here: dict[tuple[Hashable, str], Verdict | None] = {}
        self._keys: dict[str, Hashable] = {}

    # ---- room

    def room_now(self, name: str, load: Load) -> bool:
        """Whether the load fits this instant, and beside everything that comes later."""
        offer, state = self.offers.get(name), self._state
        if offer is None or self._slots_left(offer.provider, self._state.now, {}) == 0:
            return False
        if self._slots_left(offer.provider, state.coming, state.gone) == 0:
            return False
        if pack(offer.free, (*state.now.get(name, ()), load)) is None:
            return False
        return not (name in state.gone or name in state.coming) or self.room_after(name, load)

    def room_after(self, name: str, load: Load, without: frozenset[str] = frozenset()) -> bool:
        """Whether the load fits once the leases `without`, and all that go anyway, have ended."""
        offer, state = self.offers.get(name), self._state
        if offer is None:
            return False
        gone = {**state.gone, name: state.gone.get(name, frozenset()) | without}
        if self._slots_left(offer.provider, state.coming, gone) == 0:
            return False
        return pack(self._freed(name, gone[name]), (*state.coming.get(name, ()), load)) is not None

    def take_now(self, name: str, load: Load) -> None:
        """Keep room that is there."""
        now = {**self._state.now, name: (*self._state.now.get(name, ()), load)}
        self._state = replace(self._state, now=now)
        self.take_after(name, load)

    def take_after(self, name: str, load: Load) -> None:
        """Keep room that is there once what goes has gone."""
        coming = {**self._state.coming, name: (*self._state.coming.get(name, ()), load)}
        self._state = replace(self._state, coming=coming)

    def clear(self, name: str, leases: frozenset[str]) -> None:
        """These leases go."""
        gone = {**self._state.gone, name: self._state.gone.get(name, frozenset()) | leases}
        self._state = replace(self._state, gone=gone)

    def mark(self) -> _State:
        """The state now, for `reset`."""
        return self._state

    def reset(self, mark: _State) -> None:
        """Back to a marked state."""
        self._state = mark

    def _slots_left(
        self, provider: str, loads: Mapping[str, tuple[Load, ...]], gone: Mapping[str, frozenset[str]]
    ) -> int | None:
        slots = self._slots[provider]
        if slots is None:
            return None
        taken = sum(len(each) for name, each in loads.items() if self.offers[name].provider == provider)
        back = sum(len(each) for name, each in gone.items() if name.rpartition("/")[0] == provider)
        return max(0, slots + back - taken)

    # ---- law and money

    def options(self, job: Job, *, credit: int = 0, at: frozenset[str] | None = None) -> Iterator[Verdict]:
        """The offers that may lawfully serve the job and that its namespace can pay, by effective price and name.

        `credit` is µUSD that the namespace gets back when the job stops. Offers of the names `at` are asked whatever
        room they have; without them, those that have room for the job now.
        """
        key = (self._key(job), at)
        if key not in self._verdicts:
            self._verdicts[key] = self._judged(job, at)
        return (verdict for verdict in self._verdicts[key] if self.affords(job, verdict, credit=credit))

    def affords(self, job: Job, verdict: Verdict, *, credit: int = 0) -> bool:
        """Whether the job's budget and its namespace can still pay the whole run."""
        if job.budget_left is not None and verdict.cost > job.budget_left:
            return False
        funds = self._state.funds.get(job.namespace, MicroUSD(0))
        return funds is None or verdict.cost <= funds + credit

    @property
    def going(self) -> list[str]:
        """Offers at which something goes, by name."""
        return sorted(self._state.gone)

    @property
    def near_going(self) -> frozenset[str]:
        """All offers of the providers at which something goes: its lease slot serves any of them."""
        providers = {name.rpartition("/")[0] for name in self._state.gone}
        return frozenset(name for name, offer in self.offers.items() if offer.provider in providers)

    def pay(self, namespace: str, amount: int) -> None:
        """Money of a namespace that is promised (µUSD)."""
        left = self._state.funds.get(namespace, MicroUSD(0))
        if left is not None:
            funds = {**self._state.funds, namespace: MicroUSD(max(0, left - amount))}
            self._state = replace(self._state, funds=funds)

    def here(self, running: RunningJob) -> Verdict | None:
        """Its own offer as it is today, had it room; None if it is no longer offered."""
        key = (self._key(running.job), running.offer)
        if key not in self._here:
            self.prime((running,))
        return self._here[key]

    def prime(self, running: Iterable[RunningJob]) -> None:
        """Judge the offers that these run at, each kind of job once for all its offers."""
        groups: dict[Hashable, tuple[Job, set[str]]] = {}
        for each in running:
            key = self._key(each.job)
            if (key, each.offer) not in self._here:
                self._here[key, each.offer] = None
                groups.setdefault(key, (each.job, set()))[1].add(each.offer)
        for key, (job, names) in groups.items():
            for verdict in self._evaluated(job, [self.offers[name] for name in sorted(names) if name in self.offers]):
                self._here[key, verdict.offer] = verdict

    def _key(self, job: Job) -> Hashable:
        """The job's likeness, computed once."""
        if job.uid not in self._keys:
            self._keys[job.uid] = likeness(job)
        return self._keys[job.uid]

    def _judged(self, job: Job, at: frozenset[str] | None) -> tuple[Verdict, ...]:
        if at is None:
            count, times = job.gpu.count, job.replicas
            asked = [each for each in self.offers.values() if each.lease_slots != 0 and room(each.free, count) >= times]
        else:
            asked = [self.offers[name] for name in sorted(at) if name in self.offers]
        return tuple(takewhile(lambda verdict: verdict.eligible, self._evaluated(job, asked)))

    def _evaluated(self, job: Job, offers: Iterable[Offer]) -> Sequence[Verdict]:
        """Verdicts with neither room nor money short: both are this reservations's to judge."""
        ample = tuple(replace(each, free={job.gpu.count: job.replicas}, lease_slots=None) for each in offers)
        asked = replace(job, budget_left=None)
        alone = replace(self._snapshot, jobs=(asked,), offers=ample, funds={job.namespace: None})
        return evaluate(asked, alone, self._plugins).verdicts


def load_of(job: Job) -> Load:
    """What the job takes of an offer."""
    return job.gpu.count, job.replicas


def mover(running: RunningJob) -> Job:
    """The job as it will wait once it has stopped: what it costs until then is gone from its budget."""
    job = running.job
    if job.budget_left is None:
        return job
    more = running.price * job.gpus * (running.warning + running.grace) // SECONDS_PER_HOUR
    return replace(job, budget_left=MicroUSD(max(0, job.budget_left - more)))


def saving(running: RunningJob, here: Verdict | None, there: Verdict | None) -> int:
    """What moving saves over the rest of the run (µUSD, rounded down), everything that moving costs paid.

    Staying costs the frozen price, with latency, carbon and expected re-runs as they are today, for all the time left.
    Going costs that until the stop, its grace paid, then the new price for the rest, for the start, for the work lost
    since the last checkpoint, and once more what a run pays once. Without a new place (`there` is None) the loss alone
    counts, at the old price.
    """
    gpus = running.job.gpus
    again = running.lost + (RESTART_SECONDS if running.seconds else 0)
    old = running.price + hourly(here)
    if there is None:
        return -(old * gpus * again // SECONDS_PER_HOUR)
    until = min(running.warning, running.left)
    new = there.price + hourly(there)
    once = sum(there.components.get(name, 0) for name in ONE_OFF) * running.job.run_limit
    go = old * (until + running.grace) + new * (running.left - until + again) + once
    return (old * running.left - go) * gpus // SECONDS_PER_HOUR


def run_cost(job: Job, verdict: Verdict) -> int:
    """The effective cost of a whole run (µUSD), rounded up."""
    return -(-verdict.effective_price * job.gpus * job.run_limit // SECONDS_PER_HOUR)


def hourly(verdict: Verdict | None) -> int:
    """What is added to the price for each hour that it runs there (µUSD per GPU-hour)."""
    components = verdict.components if verdict is not None else {}
    return sum(amount for name, amount in components.items() if name not in ONE_OFF)


def likeness(job: Job) -> Hashable:
    """Equal for jobs that law and prices cannot tell apart; room and money are not part of it."""
    rules = (job.namespace, job.gpu, job.replicas, job.run_limit, job.rules, job.latency, job.max_price, job.deadline)
    data = (job.data, job.output_mib, job.checkpoint_seconds, job.checkpoint_country)
    return rules, data, job.rates, tuple(sorted(job.avoid.items()))
