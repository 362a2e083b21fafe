"""Readiness: only a provider that the hub holds Ready is asked."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(_ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer of a provider that is not Ready."""
    return None if offer.ready else OfferRefusal(Reason.PROVIDER_NOT_READY, "the provider is not Ready")


def key(_ctx: Context) -> Hashable:
    """The same for every job."""
    return True


def allowed(_ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers' providers are Ready. Shape (offers,)."""
    return table.kinds(_ready).where(bool)


def _ready(offer: Offer) -> bool:
    return offer.ready
