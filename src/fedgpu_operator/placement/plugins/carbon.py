"""Carbon: grams of CO2e per GPU-hour in money, pessimistic where the owner stated no figure; prices only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context

ASSUMED_G_PER_KWH: Final = 820
"""Median life-cycle emission of coal power, IPCC AR5 WG III, Annex III, table A.III.2 (g CO2e per kWh)."""

ASSUMED_WATTS: Final = 1400
"""The largest power rating of one data-centre GPU as of 2025 (NVIDIA GB300, vendor's figure, W)."""


def stated_price(ctx: Context, offers: Sequence[Offer]) -> NDArray[np.int64]:
    """µUSD per GPU-hour of the carbon an owner states; 0 where a figure is missing. Shape (offers,)."""
    return np.array([_price(ctx, offer) if _stated(offer) else 0 for offer in offers], dtype=np.int64)


def assumed_price(ctx: Context, offers: Sequence[Offer]) -> NDArray[np.int64]:
    """µUSD per GPU-hour with the pessimistic default for each missing figure, else 0. Shape (offers,)."""
    return np.array([0 if _stated(offer) else _price(ctx, offer) for offer in offers], dtype=np.int64)


def _stated(offer: Offer) -> bool:
    return offer.carbon_g_per_kwh is not None and offer.watts is not None


def _price(ctx: Context, offer: Offer) -> int:
    watts = ASSUMED_WATTS if offer.watts is None else offer.watts
    grams = ASSUMED_G_PER_KWH if offer.carbon_g_per_kwh is None else offer.carbon_g_per_kwh
    # W / 1000 is kW, g / 1000 is kg: kW · kg/kWh over one hour; half a unit rounds up.
    return min(MAX_COMPONENT, (ctx.job.rates.per_kg_co2e * watts * grams + 500_000) // 1_000_000)
