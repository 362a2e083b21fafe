"""Compliance: every claim the work needs must be among the claims the hub accepted of the owner."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import PlacementRules
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer that lacks a claim."""
    why = breach(ctx.job.rules, offer)
    return OfferRefusal(Reason.COMPLIANCE_MISSING, why) if why else None


def key(ctx: Context) -> Hashable:
    """The claims that the job needs; None if it needs none."""
    return ctx.job.rules.compliance or None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers have every claim. Shape (offers,)."""
    return having(ctx.job.rules, table)


def having(rules: PlacementRules, table: OfferTable) -> BoolVector:
    """Which offers have every claim that `rules` need, asked once per distinct set of claims. Shape (offers,)."""
    return table.kinds(_claims).where(lambda claims: rules.compliance <= claims)


def _claims(offer: Offer) -> frozenset[str]:
    return offer.compliance


def breach(rules: PlacementRules, offer: Offer) -> str:
    """Which claims are missing, as a sentence; empty if none is. Case is exact."""
    missing = rules.compliance - offer.compliance
    return f"missing accepted compliance claims: {', '.join(sorted(missing))}" if missing else ""
