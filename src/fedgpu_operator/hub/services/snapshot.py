"""The snapshot that placement decides on, built from a reading of the hub and kept from pass to pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computelease import MAX_GPUS_PER_REPLICA
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.faults import avoided
from fedgpu_operator.domain.job import DataSet, Job, Policy
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.domain.vantage import Vantage, with_vantages
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.changes import ChangeDetector, same_objects
from fedgpu_operator.hub.services.costs import UNKNOWN, FaultBook, RunCosts, ending_of
from fedgpu_operator.hub.services.hubstate import HubState, cut, offers
from fedgpu_operator.hub.services.priorities import Priorities, PriorityBook
from fedgpu_operator.hub.services.solvency import Obligations
from fedgpu_operator.hub.views.accounts import account_funds
from fedgpu_operator.hub.views.jobfacts import JobFacts
from fedgpu_operator.hub.views.providers import awaits_report, is_ready
from fedgpu_operator.placement import Snapshot

SHOWN: Final = 256
"""Letters of a member's message that a verdict shows; the status cuts the whole at as many."""
NOT_COOLING: Final[Mapping[str, str]] = MappingProxyType({})


def domain_job(
    facts: JobFacts,
    account: ComputeAccount | None,
    now: datetime,
    cooldown: timedelta,
    *,
    hosts: Mapping[str, MicroUSD | None],
    vantages: tuple[Vantage, ...] = (),
    cooling: Mapping[str, str] = NOT_COOLING,
) -> Job:
    """The job as placement sees it: an account's cap per job tightens its budget, places that failed are avoided.

    `cooling` maps offers at which no job of the tenant is placed now to why; `cooldown` is the first one's length.
    `hosts` maps every provider to what it charges for one GiB that leaves (µUSD, None where not stated); `vantages` are
    the hub's measuring points. Raises InvalidResourceError where the job names what does not exist, or where its data
    leaves it no lawful place.
    """
    job = facts.job.to_domain(spent=facts.cost, avoid=_avoid(facts, now, cooldown, cooling))
    if job.data:
        job = replace(job, data=tuple(_hosted(each, hosts) for each in job.data))
    if job.latency is not None:
        try:
            job = replace(job, latency=with_vantages(job.latency, vantages))
        except ValueError as error:
            raise InvalidResourceError(ConditionReason.UNKNOWN_PLACE, f"spec.latency.from.vantage: {error}") from error
    cap = account.spec.max_per_job if account is not None else None
    if cap is None:
        return job
    left = MicroUSD(max(0, parse_usd(cap) - facts.cost))
    return job.within(left)


def hosts_of(providers: Mapping[str, GPUProvider]) -> dict[str, MicroUSD | None]:
    """What each provider charges for one GiB that leaves (µUSD), None where it does not say."""
    tariffs = {
        name: each.spec.network.egress_price_per_gi_b if each.spec.network else None for name, each in providers.items()
    }
    return {name: None if usd is None else parse_usd(usd) for name, usd in tariffs.items()}


def _hosted(data: DataSet, hosts: Mapping[str, MicroUSD | None]) -> DataSet:
    """The data set with the egress price of the provider at which it lies, where the job names none."""
    if not data.provider:
        return data
    if data.provider not in hosts:
        raise InvalidResourceError(
            ConditionReason.UNKNOWN_PROVIDER,
            f"spec.data.sets[{data.name}].provider: this hub has no GPUProvider {data.provider}; name one that "
            "`kubectl get gpup` lists, or the country in which the data lies",
        )
    return replace(data, egress_per_gib=hosts[data.provider]) if data.egress_per_gib is None else data


def _avoid(facts: JobFacts, now: datetime, cooldown: timedelta, cooling: Mapping[str, str]) -> Mapping[str, str]:
    """Offers that the job keeps away from, and why; what it runs at is never among them."""
    own = avoided(filter(None, map(ending_of, facts.attempts)), now, cooldown)
    newest, lease = facts.newest, facts.lease
    at = f"{newest.terms.provider}/{newest.terms.product}" if newest is not None else ""
    if newest is not None and newest.is_open:
        own.pop(at, None)
        cooling = {offer: why for offer, why in cooling.items() if offer != at} if at in cooling else cooling
    elif at in own and lease is not None and lease.status.exit_message:
        own[at] += f": {lease.status.exit_message[:SHOWN]}"
    return {**cooling, **own} if own else cooling


def all_offers(state: HubState) -> tuple[Offer, ...]:
    """Every offer of every provider, the hub's own leases subtracted; what cannot be paid for is not ready."""
    return tuple(offer for name in state.providers for offer in offers_of(name, state))


def offers_of(name: str, state: HubState) -> tuple[Offer, ...]:
    """The offers of one provider of the state, as `all_offers` has them."""
    provider = state.providers[name]
    payable = state.wallets is None or name in state.wallets.payouts
    ready = is_ready(provider) and not provider.spec.drain and payable
    return tuple(offers(provider, state.reports.get(name), state.leases_of(name), ready=ready, costs=state.costs))


def policies_by_namespace(
    state: HubState, namespaces: Iterable[str]
) -> tuple[dict[str, tuple[Policy, ...]], dict[str, InvalidResourceError]]:
    """The policies that bind each namespace, and the namespaces whose law cannot be read: nothing is placed there."""
    bound: dict[str, tuple[Policy, ...]] = {}
    broken: dict[str, InvalidResourceError] = {}
    for namespace in set(namespaces):
        for name in state.unreadable_policies:
            text = f"PlacementPolicy {name} cannot be read by this version, so it is not known what it forbids"
            broken[namespace] = InvalidResourceError(ConditionReason.INVALID_POLICY, text)
        labels = dict(state.namespaces.get(namespace, {}))
        policies = []
        for policy in state.policies:
            if policy.binds(labels):
                try:
                    policies.append(policy.to_domain())
                except InvalidResourceError as error:
                    text = (
                        f"PlacementPolicy {policy.metadata.name} binds this namespace and cannot be honoured: {error}"
                    )
                    broken[namespace] = InvalidResourceError(ConditionReason.INVALID_POLICY, text)
        bound[namespace] = tuple(policies)
    return bound, broken


def funds_by_namespace(state: HubState, namespaces: Iterable[str], owed: Obligations) -> dict[str, MicroUSD | None]:
    """What each namespace may still commit; None (unlimited) where nothing is settled on chain at all."""
    if state.wallets is None:
        return dict.fromkeys(namespaces)
    funds: dict[str, MicroUSD | None] = {}
    for namespace in set(namespaces):
        wallet = state.wallets.tenants.get(namespace)
        known = account_funds(state.accounts[namespace]) if wallet is not None else None
        funds[namespace] = known.available(owed.exposure(wallet or "")) if known is not None else MicroUSD(0)
    return funds


@dataclass(frozen=True, slots=True)
class _Known:
    """The offers of one provider, and the objects that they follow from."""

    rests_on: tuple[object, ...]
    costs: object
    payable: bool
    offers: tuple[Offer, ...]


class OfferBook:
    """Answers with the same tuple as long as no offer changed, and with the same Offer as long as it did not.

    What is remembered spares work and decides nothing: a new book gives the same offers.
    """

    def __init__(self) -> None:
        self._objects = ChangeDetector()
        self._costs: RunCosts = UNKNOWN
        self._known: dict[str, _Known] = {}
        self._all: tuple[Offer, ...] = ()

    def look(self, state: HubState) -> tuple[Offer, ...]:
        """What is for sale, the hub's own leases subtracted, by provider as the state holds them."""
        objects = (state.wallets, *state.providers.values(), *state.reports.values(), *state.leases.values())
        if self._objects.changed(objects) or state.costs is not self._costs:
            self._costs = state.costs
            self._known = {name: self._look(name, state) for name in state.providers}
            found = tuple(offer for known in self._known.values() for offer in known.offers)
            if not same_objects(self._all, found):
                self._all = found
        return self._all

    def _look(self, name: str, state: HubState) -> _Known:
        rests_on = (state.providers[name], state.reports.get(name), *state.leases_of(name))
        costs = state.costs.gas_share, state.costs.interruptions_per_mh.get(name)
        payable = state.wallets is None or name in state.wallets.payouts
        known = self._known.get(name)
        if known is None:
            return _Known(rests_on, costs, payable, offers_of(name, state))
        same = (known.costs, known.payable) == (costs, payable)
        if same and same_objects(known.rests_on, rests_on):
            return known
        before = {offer.gpu.product: offer for offer in known.offers}
        found = tuple(
            old if (old := before.get(offer.gpu.product)) == offer else offer for offer in offers_of(name, state)
        )
        return _Known(rests_on, costs, payable, found)


SETTLE: Final = timedelta(seconds=10)
"""How long a job waits for a new provider's first report; members answered within 1 s in the lab."""
NODES: Final = 4_096
"""So many free nodes a provider is imagined to have that has not said: more than any job asks for."""

Awaiting = frozenset[str]
"""The names of providers that are waited for."""


class Newcomers:
    """The providers whose first report is waited for: SETTLE after they were created and after this process began."""

    def __init__(self, began: datetime) -> None:
        self._began = began
        self._watched = ChangeDetector()
        self._since: dict[str, datetime] = {}

    def awaited(self, state: HubState, now: datetime) -> Awaiting:
        """Who is waited for now."""
        if self._watched.changed(state.providers.values()):
            self._since = {
                name: max(self._began, provider.metadata.creation_timestamp or self._began)
                for name, provider in state.providers.items()
                if awaits_report(provider)
            }
        return frozenset(name for name, since in self._since.items() if now - since < SETTLE)


def imagined(offers: Iterable[Offer], state: HubState, awaited: Awaiting) -> tuple[Offer, ...]:
    """The offers as they may come to be: those that are waited for are ready and hold as much as their owner allows.

    What a card is comes with the report. Until then it is taken from another member that reported the same product; a
    job that asks for more than the product waits for no other.
    """
    found = list(offers)
    models: dict[str, GpuModel] = {}
    for each in found:
        if each.gpu.memory_mib:
            models.setdefault(each.gpu.product, each.gpu)
    return tuple(_imagined(each, state, models) if each.provider in awaited else each for each in found)


def _imagined(offer: Offer, state: HubState, models: Mapping[str, GpuModel]) -> Offer:
    provider, paid = state.providers[offer.provider], state.wallets is not None
    ready = provider.metadata.deletion_timestamp is None and not provider.spec.drain
    limit = next((each.max_gpus for each in provider.spec.offers if each.product == offer.gpu.product), None)
    free: Mapping[int, int] = {MAX_GPUS_PER_REPLICA: NODES}
    return replace(
        offer,
        gpu=offer.gpu if offer.gpu.memory_mib else models.get(offer.gpu.product, offer.gpu),
        free=free if limit is None else cut(free, limit),
        ready=ready and (not paid or provider.spec.payout is not None),
    )


def charged(view: Snapshot, later: Iterable[Decision]) -> Snapshot:
    """The snapshot without the jobs that wait for a provider, and without the money that they will need there."""
    costs = {each.job_uid: each.chosen.cost for each in later if each.chosen is not None}
    funds = dict(view.funds)
    for job in view.jobs:
        if job.uid in costs and (left := funds.get(job.namespace)) is not None:
            funds[job.namespace] = MicroUSD(max(0, left - costs[job.uid]))
    return replace(view, jobs=tuple(job for job in view.jobs if job.uid not in costs), funds=funds)


RETRY_SECONDS = 30
"""A job that found no place is judged again at least so often: deadlines, cool-downs and measurements go by time."""
SHARED: Final = ("gpu", "rules", "latency", "rates", "data")
"""The parts of a job that many jobs have alike."""
MOST_PARTS: Final = 50_000


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that asks for a place, or why it cannot be read; `against` and `tick` are what it was read against."""

    facts: JobFacts
    against: object
    tick: int
    job: Job | None
    error: InvalidResourceError | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What the jobs of one pass are read against, beside themselves.

    `laws` are the policies of each namespace, `broken` why its law cannot be read, `against` an object per namespace
    that is the same one as long as a job there would be read as it was, but for what goes by time alone: that is read
    again in each half minute, which `tick` counts.
    """

    now: datetime
    tick: int
    laws: Mapping[str, tuple[Policy, ...]]
    broken: Mapping[str, InvalidResourceError]
    hosts: Mapping[str, MicroUSD | None]
    priorities: Priorities
    cooling: Mapping[str, Mapping[str, str]]
    against: Mapping[str, object]


class JobReader:
    """Reads the jobs of one loop; what is remembered spares work, and a fresh reader gives equal jobs."""

    def __init__(
        self, priorities: PriorityBook, faults: FaultBook, *, cooldown: timedelta, vantages: tuple[Vantage, ...]
    ) -> None:
        self._priorities = priorities
        self._faults = faults
        self._cooldown = cooldown
        self._vantages = vantages
        self._providers = ChangeDetector()
        self._hosts: dict[str, MicroUSD | None] = {}
        self._law: object = None
        self._laws: dict[str, tuple[Policy, ...]] = {}
        self._broken: dict[str, InvalidResourceError] = {}
        self._against: dict[str, tuple[object, ...]] = {}
        self._asked: dict[str, PendingJob] = {}
        self._parts: dict[object, Any] = {}

    async def frame(self, state: HubState, namespaces: Iterable[str], now: datetime) -> Frame:
        """What jobs of these namespaces are read against now; raises KubeError where the priorities cannot be known."""
        spaces = set(namespaces)
        if self._providers.changed(state.providers.values()):
            hosts = hosts_of(state.providers)
            self._hosts = self._hosts if hosts == self._hosts else hosts
        law = state.policies, state.unreadable_policies, state.namespaces
        if law != self._law:
            self._law, self._laws, self._broken = law, {}, {}
        if new := spaces - self._laws.keys():
            laws, broken = policies_by_namespace(state, new)
            self._laws |= laws
            self._broken |= broken
        priorities, tick = await self._priorities.look(), int(now.timestamp()) // RETRY_SECONDS
        cooling = {namespace: self._faults.cooling(namespace, now) for namespace in spaces}
        for namespace in spaces:
            account = state.accounts.get(namespace)
            cap = account.spec.max_per_job if account is not None else None
            why = str(self._broken.get(namespace, ""))
            stamp = (cap, why, dict(cooling[namespace]), self._hosts, priorities)
            if self._against.get(namespace) != stamp:
                self._against[namespace] = stamp
        return Frame(
            now, tick, self._laws, self._broken, self._hosts, priorities, cooling, {n: self._against[n] for n in spaces}
        )

    def known(self, uid: str) -> PendingJob | None:
        """How the job was read the last time."""
        return self._asked.get(uid)

    def read(self, facts: JobFacts, frame: Frame, state: HubState) -> PendingJob:
        """The job as placement sees it; the very same answer, or at least job, where nothing of it changed."""
        uid, namespace = facts.job.metadata.uid, facts.job.metadata.namespace
        known, against = self._asked.get(uid), frame.against[namespace]
        if known is not None and known.against is against and _same_facts(known.facts, facts):
            # By time alone go the cool-downs of its own attempts, and another try at what could not be read or started.
            timeless = not (facts.usage or facts.invalid or known.error)
            if timeless or known.tick == frame.tick:
                return known
        try:
            job: Job | None = self._read(facts, frame, state)
            error = None
        except InvalidResourceError as refused:
            job, error = None, refused
        if known is not None and known.job == job:
            # The very object, so that placement sees at a glance that it is no other job.
            job = known.job
        elif job is not None:
            job = self._shared(job)
        self._asked[uid] = asked = PendingJob(facts, against, frame.tick, job, error)
        return asked

    def _shared(self, job: Job) -> Job:
        """The job with parts that are the same objects as those of jobs that are alike: grouping goes by that."""
        if len(self._parts) > MOST_PARTS:
            self._parts.clear()
        parts = {name: getattr(job, name) for name in SHARED}
        return replace(job, **{name: self._parts.setdefault((name, part), part) for name, part in parts.items()})

    def only(self, uids: Iterable[str]) -> None:
        """Forget all jobs but these."""
        self._asked = {uid: known for uid in uids if (known := self._asked.get(uid)) is not None}

    def _read(self, facts: JobFacts, frame: Frame, state: HubState) -> Job:
        namespace = facts.job.metadata.namespace
        if namespace in frame.broken:
            raise frame.broken[namespace]
        job = domain_job(
            facts,
            state.accounts.get(namespace),
            frame.now,
            self._cooldown,
            hosts=frame.hosts,
            vantages=self._vantages,
            cooling=frame.cooling[namespace],
        )
        priority = frame.priorities.of(facts.job)
        return replace(job, priority=priority.value, preempts=priority.preempts)


def _same_facts(one: JobFacts, two: JobFacts) -> bool:
    """Whether both have the same objects in all that a job is read from."""
    return one.job is two.job and one.usage is two.usage and one.lease is two.lease
