"""Compliance: every claim the work needs must be among the claims the hub accepted of the owner."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import PlacementRules
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer that lacks a claim."""
    why = breach(ctx.job.rules, offer)
    return Refusal(Reason.COMPLIANCE_MISSING, why) if why else None


def breach(rules: PlacementRules, offer: Offer) -> str:
    """Which claims are missing, as a sentence; empty where none is. Case is exact."""
    missing = rules.compliance - offer.compliance
    return f"no accepted claim of {', '.join(sorted(missing))}" if missing else ""
