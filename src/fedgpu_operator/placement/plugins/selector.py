"""Selector: the labels of the provider that the work asks for, with the meaning Kubernetes gives them."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import PlacementRules, Requirement
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer whose provider's labels do not match."""
    why = breach(ctx.job.rules, offer)
    return Refusal(Reason.SELECTOR_MISMATCH, why) if why else None


def breach(rules: PlacementRules, offer: Offer) -> str:
    """The first requirement the labels fail, as a sentence; empty where they meet all."""
    for requirement in rules.selector:
        if not requirement.matches(offer.labels):
            has = offer.labels.get(requirement.key)
            return f"needs {_written(requirement)}, has {'no such label' if has is None else has}"
    return ""


def _written(requirement: Requirement) -> str:
    values = f" ({', '.join(sorted(requirement.values))})" if requirement.values else ""
    return f"label {requirement.key} {requirement.operator.value}{values}"
