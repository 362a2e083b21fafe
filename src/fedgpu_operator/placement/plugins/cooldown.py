"""Cooldown: a provider that just rejected this job, or holds a fenced attempt of it, is not asked again yet."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, Refusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses a provider that the job avoids for now, with the reason given there."""
    why = ctx.job.avoid.get(offer.provider)
    return None if why is None else Refusal(Reason.COOLING_DOWN, why or "asked too recently")


def key(ctx: Context) -> Hashable:
    """Who is avoided, and why; None where nobody is."""
    return tuple(sorted(ctx.job.avoid.items())) or None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers are of nobody whom the job avoids. Shape (offers,)."""
    return table.kinds(_provider).where(lambda provider: provider not in ctx.job.avoid)


def _provider(offer: Offer) -> str:
    return offer.provider
