"""Readiness: only a provider that the hub holds Ready is asked."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(_ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer of a provider that is not Ready."""
    return None if offer.ready else Refusal(Reason.PROVIDER_NOT_READY, "the provider is not Ready")
