"""Budget: an offer on which the whole run limit would cost more than the job may still spend is no offer."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, charge, format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def run_cost(job: Job, offer: Offer) -> MicroUSD:
    """The price of one attempt that lasts the whole run limit, in µUSD: the most that an attempt can be billed."""
    return charge(offer.price, job.gpus * job.run_limit)


def dearest(left: int, seconds: int) -> int | None:
    """The highest price per GPU-hour (µUSD) at which so many GPU-seconds cost no more than `left`; None: any does."""
    # price · seconds // 3600 ≤ left  ⇔  price · seconds < (left + 1) · 3600
    return ((left + 1) * SECONDS_PER_HOUR - 1) // seconds if seconds else None


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer whose whole run limit is beyond the budget; a cost equal to it fits."""
    left = ctx.job.budget_left
    if left is None:
        return None
    cost = run_cost(ctx.job, offer)
    if cost <= left:
        return None
    return OfferRefusal(
        Reason.OVER_BUDGET,
        f"insufficient budget: a full run of {ctx.job.run_limit} s costs up to {format_usd(cost)} USD, "
        f"{format_usd(left)} USD is left",
    )


def key(ctx: Context) -> Hashable:
    """What is left and what it must last for; None if there is no budget."""
    left = ctx.job.budget_left
    return None if left is None else (left, ctx.job.run_limit, ctx.job.gpus)


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers cost no more than what is left. Shape (offers,)."""
    left = ctx.job.budget_left
    limit = None if left is None else dearest(left, ctx.job.gpus * ctx.job.run_limit)
    return np.ones(len(table), dtype=np.bool_) if limit is None else table.within(limit)
