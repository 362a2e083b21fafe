"""Price cap: the most the job pays per GPU-hour, compared with the price in money and never the effective one."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer above the cap; a price equal to the cap fits."""
    cap = ctx.job.max_price
    if cap is None or offer.price <= cap:
        return None
    return Refusal(
        Reason.PRICE_ABOVE_LIMIT,
        f"{format_usd(offer.price)} USD per GPU-hour is above the limit of {format_usd(cap)} USD",
    )
