"""Carbon: grams of CO2e per GPU-hour in money, pessimistic where the owner stated no figure; prices only."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context, IntVector
from fedgpu_operator.placement.table import OfferTable

ASSUMED_G_PER_KWH: Final = 820
"""Median life-cycle emission of coal power, IPCC AR5 WG III, Annex III, table A.III.2 (g CO2e per kWh)."""

ASSUMED_WATTS: Final = 1400
"""The largest power rating of one data-centre GPU as of 2025 (NVIDIA GB300, vendor's figure, W)."""


def key(ctx: Context) -> Hashable:
    """The exchange rate; None if the job pays nothing for carbon."""
    return ctx.job.rates.per_kg_co2e or None


def stated_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour of the carbon an owner states; 0 if a figure is missing. Shape (offers,)."""
    return table.kinds(_figures).map(lambda figures: 0 if None in figures else _price(ctx, *figures))


def assumed_price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour with the pessimistic default for each missing figure, else 0. Shape (offers,)."""
    return table.kinds(_figures).map(lambda figures: _price(ctx, *figures) if None in figures else 0)


def _figures(offer: Offer) -> tuple[int | None, int | None]:
    return offer.watts, offer.carbon_g_per_kwh


def _price(ctx: Context, stated_watts: int | None, stated_grams: int | None) -> int:
    watts = ASSUMED_WATTS if stated_watts is None else stated_watts
    grams = ASSUMED_G_PER_KWH if stated_grams is None else stated_grams
    # W / 1000 is kW, g / 1000 is kg: kW · kg/kWh over one hour; half a unit rounds up.
    return min(MAX_COMPONENT, (ctx.job.rates.per_kg_co2e * watts * grams + 500_000) // 1_000_000)
