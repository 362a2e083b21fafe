"""Policy: the platform admin's guardrails, each intersected with the job's own rules; none of them loosens."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Policy
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.plugins import compliance, residency, selector
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer that breaks any policy, or every offer where a policy is required and none matches."""
    if not ctx.policies and ctx.default_deny:
        return OfferRefusal(
            Reason.POLICY_DENIED, "no PlacementPolicy matches the namespace, and the hub denies by default"
        )
    for policy in ctx.policies:
        if why := _breach(policy, offer):
            return OfferRefusal(Reason.POLICY_DENIED, f"policy {policy.name}@{policy.generation}: {why}")
    return None


def key(ctx: Context) -> Hashable:
    """The policies by all that they say; None if there are none and none is required."""
    return (ctx.policies, ctx.default_deny) if ctx.policies or ctx.default_deny else None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers break no policy. Shape (offers,)."""
    fits = np.full(len(table), bool(ctx.policies) or not ctx.default_deny)
    for policy in ctx.policies:
        fits &= _within(policy, table)
    return fits


def _within(policy: Policy, table: OfferTable) -> BoolVector:
    rules = policy.rules
    fits = table.kinds(residency.place).where(lambda place: not residency.breach(rules, place))
    if rules.compliance:
        fits &= compliance.having(rules, table)
    if rules.selector:
        fits &= selector.matching(rules, table)
    if policy.max_price is not None:
        fits &= table.within(policy.max_price)
    return fits


def _breach(policy: Policy, offer: Offer) -> str:
    return (
        residency.breach(policy.rules, residency.place(offer))
        or compliance.breach(policy.rules, offer)
        or selector.breach(policy.rules, offer)
        or _too_dear(policy, offer)
    )


def _too_dear(policy: Policy, offer: Offer) -> str:
    if policy.max_price is None or offer.price <= policy.max_price:
        return ""
    return f"{format_usd(offer.price)} USD per GPU-hour is above its limit of {format_usd(policy.max_price)} USD"
