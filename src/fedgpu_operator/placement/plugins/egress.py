"""Egress: what it costs to take the job's data out of where it lies, and its results out of the offer; prices only."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import SECONDS_PER_HOUR
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context, IntVector
from fedgpu_operator.placement.table import OfferTable

ASSUMED_PER_GIB: Final = 120_000
"""µUSD per GiB where none is stated: the dearest first tier to the internet among the large clouds' list prices of 2026
(Google Cloud premium tier 0.12 USD, Amazon 0.09, Azure 0.087)."""

MIB_PER_GIB: Final = 1024


def key(ctx: Context) -> Hashable:
    """What moves, from where, at what price, and over how many GPU-seconds it is spread; None if nothing moves."""
    job = ctx.job
    if not job.data and not job.output_mib:
        return None
    moves = tuple((each.provider, each.mib, each.egress_per_gib) for each in job.data if each.mib)
    return (moves, job.output_mib, job.gpus * job.run_limit) if moves or job.output_mib else None


def stated_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour of what hosts and owners state, 0 if nothing moves. Shape (offers,)."""
    return _prices(ctx.job, table, stated=True)


def assumed_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour at `ASSUMED_PER_GIB` of what leaves a provider that states no price. Shape (offers,)."""
    return _prices(ctx.job, table, stated=False)


def _prices(job: Job, table: OfferTable, *, stated: bool) -> IntVector:
    """Asked once per distinct tariff, and apart only of the few providers that hold some of the data."""
    tariffs = table.kinds(_per_gib)
    row = tariffs.map(lambda per_gib: _price(job, None, per_gib, stated=stated))
    for host in {each.provider for each in job.data if each.provider}:
        for i in table.of(host):
            row[i] = _price(job, host, tariffs.values[tariffs.codes[i]], stated=stated)
    return row


def _per_gib(offer: Offer) -> int | None:
    return offer.egress_per_gib


def _price(job: Job, provider: str | None, per_gib: int | None, *, stated: bool) -> int:
    flows: list[tuple[int, int | None]] = [(job.output_mib, per_gib)]
    flows += [(each.mib, each.egress_per_gib) for each in job.data if each.provider != provider]
    if stated:
        total = sum(mib * price for mib, price in flows if price is not None)
    else:
        total = sum(mib * ASSUMED_PER_GIB for mib, price in flows if price is None)
    # Spread over all GPU-hours of the run, so that it adds up to the whole when the run lasts its limit.
    over = MIB_PER_GIB * job.gpus * job.run_limit
    return min(MAX_COMPONENT, (2 * total * SECONDS_PER_HOUR + over) // (2 * over))
