"""Cooldown: a provider that just rejected this job, or holds a fenced attempt of it, is not asked again yet."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses a provider that the job avoids for now, with the reason given there."""
    why = ctx.job.avoid.get(offer.provider)
    return None if why is None else Refusal(Reason.COOLING_DOWN, why or "asked too recently")
