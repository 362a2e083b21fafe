"""Policy: the platform admin's guardrails, each intersected with the job's own rules; none of them loosens."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Policy
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal
from fedgpu_operator.placement.plugins import compliance, residency, selector


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer that breaks any policy, or every offer where a policy is required and none matches."""
    if not ctx.policies and ctx.default_deny:
        return Refusal(Reason.POLICY_DENIED, "no PlacementPolicy matches the namespace, and the hub denies by default")
    for policy in ctx.policies:
        if why := _breach(policy, offer):
            return Refusal(Reason.POLICY_DENIED, f"policy {policy.name}: {why}")
    return None


def _breach(policy: Policy, offer: Offer) -> str:
    return (
        residency.breach(policy.rules, offer.location)
        or compliance.breach(policy.rules, offer)
        or selector.breach(policy.rules, offer)
        or _too_dear(policy, offer)
    )


def _too_dear(policy: Policy, offer: Offer) -> str:
    if policy.max_price is None or offer.price <= policy.max_price:
        return ""
    return f"{format_usd(offer.price)} USD per GPU-hour is above its limit of {format_usd(policy.max_price)} USD"
