"""Latency: a hard bound as a filter and a price per millisecond; first form: estimates only, and marked so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import point_of
from fedgpu_operator.domain.location import EARTH_RADIUS_KM, great_circle_km, round_trip_floor_ms
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context, Refusal

FARTHEST_MS: Final = round_trip_floor_ms(EARTH_RADIUS_KM * np.pi)
"""What an offer of unknown place is priced at: the antipodes, about 200 ms; nowhere on Earth is farther."""


def estimate_ms(ctx: Context, offer: Offer) -> float | None:
    """The least round trip over fibre from the job's origin, in whole µs given as ms; None where a place is unknown.

    Rounded down to a microsecond, so it stays a lower bound and prices are whole numbers everywhere alike.
    """
    rule = ctx.job.latency
    if rule is None:
        return None
    origin, place = point_of(rule.origin), point_of(offer.location)
    if origin is None or place is None:
        return None
    return int(round_trip_floor_ms(great_circle_km(*origin, *place)) * 1000) / 1000


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer beyond the bound, and one that only an estimate says is within it unless that is allowed."""
    rule = ctx.job.latency
    if rule is None or rule.max_ms is None:
        return None
    floor = estimate_ms(ctx, offer)
    if floor is None:
        return Refusal(Reason.LATENCY_UNMEASURED, "no measurement, and no coordinates to estimate from")
    if floor > rule.max_ms:
        return Refusal(
            Reason.LATENCY_TOO_HIGH,
            f"light in fibre needs at least {floor:.1f} ms there and back, the bound is {rule.max_ms} ms",
        )
    if not rule.allow_estimate:
        return Refusal(
            Reason.LATENCY_UNMEASURED,
            f"not measured; {floor:.1f} ms is only an estimate, and the job does not allow estimates",
        )
    return None


def estimated_price(ctx: Context, offers: Sequence[Offer]) -> NDArray[np.int64]:
    """µUSD per GPU-hour for the estimated milliseconds; 0 where there is no estimate. Shape (offers,)."""
    if not ctx.job.rates.per_ms:
        return np.zeros(len(offers), dtype=np.int64)
    return np.array([_price(ctx, estimate_ms(ctx, offer) or 0.0) for offer in offers], dtype=np.int64)


def assumed_price(ctx: Context, offers: Sequence[Offer]) -> NDArray[np.int64]:
    """µUSD per GPU-hour for `FARTHEST_MS`, where the job prices latency and the place is unknown. Shape (offers,)."""
    if ctx.job.latency is None or not ctx.job.rates.per_ms:
        return np.zeros(len(offers), dtype=np.int64)
    worst = _price(ctx, FARTHEST_MS)
    return np.array([worst if estimate_ms(ctx, offer) is None else 0 for offer in offers], dtype=np.int64)


def _price(ctx: Context, milliseconds: float) -> int:
    return min(MAX_COMPONENT, (ctx.job.rates.per_ms * round(milliseconds * 1000) + 500) // 1000)
