"""Providers that are about to report for the first time, and what they may come to offer; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.computelease import MAX_GPUS_PER_REPLICA
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.gpu import GpuModel
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.hub.inventory import cut
from fedgpu_operator.hub.providers import awaits_report
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.placement import Snapshot

SETTLE: Final = timedelta(seconds=10)
"""How long a job waits for a new provider's first report; members answered within 1 s in the lab."""
NODES: Final = 4_096
"""So many free nodes a provider is imagined to have that has not said: more than any job asks for."""

Awaiting = frozenset[str]
"""The names of providers that are waited for."""


def awaited_by(state: HubState, now: datetime, began: datetime) -> Awaiting:
    """The providers whose first report is waited for: SETTLE after they were created and after this process began."""
    return frozenset(
        name
        for name, provider in state.providers.items()
        if now - max(began, provider.metadata.creation_timestamp or began) < SETTLE and awaits_report(provider)
    )


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
    ready = provider.metadata.deletion_timestamp is None and not provider.draining
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
