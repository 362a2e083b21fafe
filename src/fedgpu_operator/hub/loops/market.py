"""The market loop: what GPUs cost now, computed from the hub's state, kept in the ledger, published for everybody."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.market import PriceBucket, PricePoint
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.costs import CostBook
from fedgpu_operator.hub.services.hubstate import HubState, load
from fedgpu_operator.hub.services.market import MarketDocument, QuotedOffer, publish_market
from fedgpu_operator.hub.services.priorities import PriorityBook
from fedgpu_operator.hub.services.snapshot import (
    all_offers,
    domain_job,
    funds_by_namespace,
    hosts_of,
    policies_by_namespace,
)
from fedgpu_operator.hub.services.solvency import Obligations
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.views.jobfacts import JobFacts, Phase, phase
from fedgpu_operator.placement import Plugins, Snapshot
from fedgpu_operator.placement.market import MarketView, survey_snapshot
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics

log = logging.getLogger(__name__)


REPEAT: Final = timedelta(hours=1)
"""Every market has a point at least this often, so that forgetting old ones never loses the present price."""
REPUBLISH: Final = timedelta(minutes=10)
"""A document is not older than this while the operator lives: its age tells readers whether it does."""
WINDOW_HOURS: Final = 24
HOURS: Final = timedelta(hours=48)
DAYS: Final = timedelta(days=30)
SHARE: Final = 20
"""A pass that took a second is not repeated for so many seconds: surveying takes at most 5 % of one core."""


@dataclass(frozen=True, slots=True)
class RecentPrices:
    """What the ledger says of the past, read at `at`: GPUs that came free, by provider and product, and prices."""

    at: datetime
    freed: Mapping[tuple[str, str], int]
    history: tuple[PriceBucket, ...]


@dataclass(frozen=True, slots=True)
class SurveyedMarket:
    """What the last survey was made of and what came of it."""

    snapshot: Snapshot
    view: MarketView


class MarketLoop:
    """Load → survey → keep → publish; solves again only where demand or offers changed.

    It waits `settle` before its first look: until providers have reported, a new process sees an empty market.
    """

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        *,
        namespace: str,
        proofs: ProofBook | None,
        costs: CostBook,
        priorities: PriorityBook,
        plugins: Plugins,
        default_deny: bool,
        vantages: tuple[Vantage, ...],
        settle: timedelta,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._namespace = namespace
        self._proofs = proofs
        self._default_deny = default_deny
        self._vantages = vantages
        self._costs = costs
        self._plugins = plugins
        self._seen: SurveyedMarket | None = None
        self._kept: dict[tuple[str, str], PricePoint] = {}
        self._past: RecentPrices | None = None
        self._published: MarketDocument | None = None
        self._priorities = priorities
        self._rest_until = clock.now() + settle

    async def pass_once(self) -> float | None:
        """One look at the market."""
        began = self._clock.now()
        if began < self._rest_until:
            return (self._rest_until - began).total_seconds()
        state = await load(self._kube, self._proofs, self._costs)
        snapshot = await self._snapshot(state, began)
        view = await self._surveyed(snapshot)
        points = [replace(market.point, at=began) for market in view.markets]
        self._metrics.market(points)
        await self._keep(points, began)
        await self._publish(await self._document(snapshot, view, began))
        self._rest_until = began + SHARE * (self._clock.now() - began)
        return None

    async def _snapshot(self, state: HubState, now: datetime) -> Snapshot:
        """The work that waits, under its laws and funds, and every offer."""
        waiting = [facts for job in state.jobs if (facts := JobFacts(job)) and _waits(facts, now)]
        laws, broken = policies_by_namespace(state, {facts.job.metadata.namespace for facts in waiting})
        jobs: list[Job] = []
        hosts, priorities = hosts_of(state.providers), await self._priorities.look()
        for facts in waiting:
            namespace = facts.job.metadata.namespace
            try:
                if namespace not in broken:
                    account = state.accounts.get(namespace)
                    job = domain_job(facts, account, now, timedelta(0), hosts=hosts, vantages=self._vantages)
                    jobs.append(replace(job, priority=priorities.of(facts.job).value))
            except InvalidResourceError as error:
                log.debug("%s is not counted as demand: %s", facts.job.key, error)
        owed = Obligations()
        if state.wallets is not None:
            owed = Obligations(await self._ledger.pair_totals(), await self._ledger.open_attempts())
        funds = funds_by_namespace(state, {job.namespace for job in jobs}, owed)
        return Snapshot(now, tuple(jobs), all_offers(state), laws, funds, self._default_deny)

    async def _surveyed(self, snapshot: Snapshot) -> MarketView:
        if self._seen is not None and replace(self._seen.snapshot, now=snapshot.now) == snapshot:
            return self._seen.view
        # In a thread: a market of a million GPUs takes seconds, and the other loops must not wait for it.
        view = await asyncio.to_thread(survey_snapshot, snapshot, self._plugins)
        self._seen = SurveyedMarket(snapshot, view)
        return view

    async def _keep(self, points: Sequence[PricePoint], now: datetime) -> None:
        """Points that say something new, or whose market has had none for an hour; and the old ones go."""
        fresh = []
        for point in points:
            known = self._kept.get(point.market)
            if known is None or point.at - known.at >= REPEAT or replace(known, at=point.at) != point:
                fresh.append(point)
        if fresh:
            await self._ledger.record_prices(fresh)
            await self._ledger.forget_prices(now)
        self._kept = {point.market: self._kept.get(point.market, point) for point in points}
        self._kept |= {point.market: point for point in fresh}

    async def _document(self, snapshot: Snapshot, view: MarketView, now: datetime) -> MarketDocument:
        past = await self._read_past(now)
        quoted = (
            QuotedOffer(offer, view.premiums[offer.name], past.freed.get((offer.provider, offer.gpu.product), 0))
            for offer in snapshot.offers
        )
        return MarketDocument(
            at=now,
            certified=view.certified,
            markets=view.markets,
            offers=tuple(sorted(quoted, key=lambda each: each.offer.name)),
            history=past.history,
            window=WINDOW_HOURS,
            waiting_jobs=len(snapshot.jobs),
            waiting_gpus=sum(job.gpus for job in snapshot.jobs),
            default_deny=self._default_deny,
            vantages=self._vantages,
            own_rules=(
                *(each.name for each in self._plugins.extra_filters),
                *(each.name for each in self._plugins.extra_pricers),
            ),
        )

    async def _read_past(self, now: datetime) -> RecentPrices:
        """Read anew where it is older than a document may be: these are the largest queries of a pass."""
        if self._past is None or now - self._past.at >= REPUBLISH:
            freed: Counter[tuple[str, str]] = Counter()
            for record in await self._ledger.provider_records(now - timedelta(hours=WINDOW_HOURS)):
                freed[record.provider, record.product] += record.gpus
            hours = await self._ledger.price_history(now - HOURS, span=3600)
            days = await self._ledger.price_history(now - DAYS, span=86400)
            self._past = RecentPrices(now, freed, (*hours, *days))
        return self._past

    async def _publish(self, document: MarketDocument) -> None:
        old = self._published
        if old is not None and document.at - old.at < REPUBLISH and _timeless(old) == _timeless(document):
            return
        await publish_market(self._kube, self._namespace, document)
        self._published = document


def _waits(facts: JobFacts, now: datetime) -> bool:
    """Whether the job is demand: nothing of it runs, and it may run now. Its status is taken for that."""
    return facts.job.status.waits and phase(facts, now) is Phase.PENDING


def _timeless(document: MarketDocument) -> object:
    """What readers learn from a document: all but the instants, which always differ."""
    markets = [replace(each, point=replace(each.point, at=_NEVER)) for each in document.markets]
    return markets, document.offers, document.waiting_jobs, document.waiting_gpus, document.certified


_NEVER: Final = datetime.min.replace(tzinfo=UTC)
