"""Selector: the labels of the provider that the work asks for, with the meaning Kubernetes gives them."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import PlacementRules, Requirement
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer whose provider's labels do not match."""
    why = breach(ctx.job.rules, offer)
    return OfferRefusal(Reason.SELECTOR_MISMATCH, why) if why else None


def key(ctx: Context) -> Hashable:
    """The labels that the job asks for; None if it asks for none."""
    return ctx.job.rules.selector or None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers' labels match. Shape (offers,)."""
    return matching(ctx.job.rules, table)


def matching(rules: PlacementRules, table: OfferTable) -> BoolVector:
    """Which offers' labels match the selector of `rules`, asked once per distinct set of labels. Shape (offers,)."""
    return table.kinds(_labels).where(
        lambda labels: all(requirement.matches(dict(labels)) for requirement in rules.selector)
    )


def _labels(offer: Offer) -> frozenset[tuple[str, str]]:
    return frozenset(offer.labels.items())


def breach(rules: PlacementRules, offer: Offer) -> str:
    """The first requirement the labels fail, as a sentence; empty if they meet all."""
    for requirement in rules.selector:
        if not requirement.matches(offer.labels):
            has = offer.labels.get(requirement.key)
            return f"{_written(requirement)} is required, but the label is {'not set' if has is None else repr(has)}"
    return ""


def _written(requirement: Requirement) -> str:
    values = f" ({', '.join(sorted(requirement.values))})" if requirement.values else ""
    return f"label {requirement.key} {requirement.operator.value}{values}"
