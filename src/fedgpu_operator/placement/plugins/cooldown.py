"""Cooldown: an offer at which an attempt just failed through no fault of the tenant is not tried again yet."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer that the job avoids for now, with the reason given there."""
    why = ctx.job.avoid.get(offer.name)
    return None if why is None else OfferRefusal(Reason.COOLING_DOWN, why or "cooling down after a failed attempt")


def key(ctx: Context) -> Hashable:
    """What is avoided, and why; None when nothing is."""
    return tuple(sorted(ctx.job.avoid.items())) or None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers the job does not avoid. Shape (offers,)."""
    return table.kinds(_name).where(lambda name: name not in ctx.job.avoid)


def _name(offer: Offer) -> str:
    return offer.name
