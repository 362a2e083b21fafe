"""Gas: the share of a settlement's gas that one run there is expected to bear; prices only."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.money import SECONDS_PER_HOUR
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context, IntVector
from fedgpu_operator.placement.table import OfferTable


def key(ctx: Context) -> Hashable:
    """Over how many GPU-seconds it is spread."""
    return ctx.job.gpus * ctx.job.run_limit


def price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour that add up to the offer's share when the run lasts its limit. Shape (offers,)."""
    seconds = ctx.job.gpus * ctx.job.run_limit
    return table.kinds(_share).map(
        lambda share: min(MAX_COMPONENT, (2 * share * SECONDS_PER_HOUR + seconds) // (2 * seconds))
    )


def _share(offer: Offer) -> int:
    return offer.gas_share
