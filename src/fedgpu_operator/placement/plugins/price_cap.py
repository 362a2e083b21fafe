"""Price cap: the most the job pays per GPU-hour, compared with the price in money and never the effective one."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer above the cap; a price equal to the cap fits."""
    cap = ctx.job.max_price
    if cap is None or offer.price <= cap:
        return None
    return OfferRefusal(
        Reason.PRICE_ABOVE_LIMIT,
        f"{format_usd(offer.price)} USD per GPU-hour is above the limit of {format_usd(cap)} USD",
    )


def key(ctx: Context) -> Hashable:
    """The cap; None if there is none."""
    return ctx.job.max_price


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers cost no more than the cap. Shape (offers,)."""
    cap = ctx.job.max_price
    return np.ones(len(table), dtype=np.bool_) if cap is None else table.within(cap)
