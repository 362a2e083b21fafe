"""Clearing prices: what one more GPU-hour of a product in a region is worth now; pure, from classes and offers.

Every waiting job asks for one hour of all its GPUs, each GPU for itself, at any offer that is lawful for it and within
its price, whether something is free there or not. The exact flow (flow/transport.py) places as many of these GPU-hours
as the free GPUs hold, by priority, at least effective cost. Its dual prices tell of each offer what one GPU more or
less would change, beyond the offer's own list price. For a market, which is a GPU product in a region:

    low  = min over its offers of (list price + least optimal dual)
    high = min over its offers of (list price + greatest optimal dual); none where every offer's is unbounded

over the offers with something free, or over all of them where nothing is. The optimal duals form a lattice, so
[low, high] is exactly the range of "the cheapest way into this market" over all of them. In other words: `high` is
by how much the cost of everybody together would rise if one more GPU-hour had to be served here, with no upper end
where some waiting work would then be left without a GPU; `low` is the same after one more GPU came free where that
helps most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np

from fedgpu_operator.domain.geo import GROUPS, Location, is_country
from fedgpu_operator.domain.market import GLOBAL, Market, Premium, PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Snapshot
from fedgpu_operator.placement.engine import demand
from fedgpu_operator.placement.flow import Flow, Transport, transport
from fedgpu_operator.placement.problem import UNBOUNDED, IntVector, JobClass
from fedgpu_operator.placement.registry import BUILT_IN, Plugins

MARKET_GROUPS: Final = ("EU", "EEA")
"""Groups of countries that have a market of their own, beside each country and each region that owners name."""
ROOMY: Final = 10_000
"""Nodes, and GPUs on each, of an offer that is judged as if it were empty: more than any job may ask for."""

MOST_STEPS: Final = 100
"""Prices that a market's depth shows."""


@dataclass(frozen=True, slots=True)
class MarketView:
    """All markets, by product and region; the premium of each offer by its name; whether the duals are proven."""

    markets: tuple[Market, ...]
    premiums: Mapping[str, Premium]
    certified: bool


def emptied(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """The offers as if nothing ran there: classes judged on them say what is lawful, not what happens to be free."""
    return tuple(replace(offer, free={ROOMY: ROOMY}, lease_slots=None) for offer in offers)


def saleable(offer: Offer) -> int:
    """GPUs that the offer can sell now: none while its provider is not ready or takes no further lease."""
    return offer.free_gpus if offer.ready and offer.lease_slots != 0 else 0


def regions_of(location: Location) -> tuple[str, ...]:
    """The regions that a place lies in: everywhere, groups, its country, and the owner's own name for it."""
    country, named = location.country, location.region
    found = [GLOBAL, *(group for group in MARKET_GROUPS if country in GROUPS[group])]
    found += [country] if is_country(country) else []
    taken = named in GROUPS or named == GLOBAL or is_country(named)
    return tuple(found if taken or not named else [*found, named])


def survey(classes: Sequence[JobClass], offers: Sequence[Offer], now: datetime) -> MarketView:
    """The markets of these offers under this demand.

    `offers` stand in name order and are what is really free; `classes` were judged on the same, better `emptied`.
    Raises FedGPUError when the flow solver fails.
    """
    if not offers:
        return MarketView((), {}, certified=True)
    asked = np.array([each.size * each.gpus * each.replicas for each in classes], dtype=np.int64)
    flow = _flow(classes, asked, offers)
    missing = asked.copy()
    np.subtract.at(missing, flow.rows, flow.units)
    premiums = {offer.name: _premium(flow, i, saleable(offer)) for i, offer in enumerate(offers)}
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, offer in enumerate(offers):
        for region in regions_of(offer.location):
            members[offer.gpu.product, region].append(i)
    keys = sorted(members)
    wanted, unmet = _demand(classes, asked, missing, [members[key] for key in keys])
    markets = []
    for key, wants, lacks in zip(keys, wanted.tolist(), unmet.tolist(), strict=True):
        here = [offers[i] for i in members[key]]
        low, high = _interval(here, premiums)
        point = PricePoint(
            at=now,
            product=key[0],
            region=key[1],
            low=low,
            high=high,
            cheapest=min(offer.price for offer in here),
            dearest=max(offer.price for offer in here),
            free=sum(map(saleable, here)),
            wanted=wants,
            unmet=lacks,
        )
        markets.append(Market(point, len(here), depth_of(here)))
    return MarketView(tuple(markets), premiums, flow.certified)


def survey_snapshot(snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> MarketView:
    """The markets of a snapshot: its jobs are the demand, judged wherever they might lawfully run.

    Raises FedGPUError when the flow solver fails.
    """
    offers = sorted(snapshot.offers, key=lambda offer: (offer.provider, offer.gpu.product))
    return survey(demand(replace(snapshot, offers=emptied(offers)), plugins), offers, snapshot.now)


def depth_of(offers: Iterable[Offer]) -> tuple[tuple[MicroUSD, int], ...]:
    """(list price, GPUs that can be sold at it), cheapest first; prices at which nothing is free are left out."""
    steps: dict[MicroUSD, int] = defaultdict(int)
    for offer in offers:
        steps[offer.price] += saleable(offer)
    return tuple((price, gpus) for price, gpus in sorted(steps.items()) if gpus)[:MOST_STEPS]


def _demand(
    classes: Sequence[JobClass], asked: IntVector, missing: IntVector, markets: Sequence[Sequence[int]]
) -> tuple[IntVector, IntVector]:
    """GPUs asked for and GPUs missing of the classes that may run in each market, by market."""
    wanted, unmet = np.zeros(len(markets), dtype=np.int64), np.zeros(len(markets), dtype=np.int64)
    of_market = np.repeat(np.arange(len(markets)), [len(each) for each in markets])
    of_offer = np.array([i for each in markets for i in each], dtype=np.int64)
    # Classes under the same law share one mask: it is looked at once.
    shared: dict[int, list[int]] = defaultdict(list)
    for row, each in enumerate(classes):
        shared[id(each.eligible)].append(row)
    for rows in shared.values():
        inside = np.zeros(len(markets), dtype=np.bool_)
        inside[of_market[classes[rows[0]].eligible[of_offer]]] = True
        wanted[inside] += asked[rows].sum()
        unmet[inside] += missing[rows].sum()
    return wanted, unmet


def _flow(classes: Sequence[JobClass], asked: IntVector, offers: Sequence[Offer]) -> Flow:
    # A unit is one GPU for one hour, so costs and duals are µUSD per GPU-hour. Lease slots count leases, not GPUs:
    # as a bound they would be too tight here, so only a provider without any is held back, by `saleable`.
    return transport(
        Transport(
            demand=asked,
            priority=tuple(each.priority for each in classes),
            seconds=np.ones(len(classes), dtype=np.int64),
            price=[each.price for each in classes],
            eligible=[each.eligible for each in classes],
            supply=np.array([saleable(offer) for offer in offers], dtype=np.int64),
            provider=np.zeros(len(offers), dtype=np.int64),
            slots=(None,),
        ),
        clearing=True,
    )


def _premium(flow: Flow, offer: int, free: int) -> Premium:
    if flow.clearing is None:
        raise ValueError("the flow was solved without its clearing prices")
    low, high = int(flow.clearing.low[offer]), int(flow.clearing.high[offer])
    return Premium(MicroUSD(low), None if high == UNBOUNDED or not free else MicroUSD(high))


def _interval(offers: Sequence[Offer], premiums: Mapping[str, Premium]) -> tuple[MicroUSD, MicroUSD | None]:
    open_ones = [offer for offer in offers if saleable(offer)] or offers
    low = min(offer.price + premiums[offer.name].low for offer in open_ones)
    ends = [offer.price + high for offer in open_ones if (high := premiums[offer.name].high) is not None]
    return MicroUSD(low), MicroUSD(min(ends)) if ends else None
