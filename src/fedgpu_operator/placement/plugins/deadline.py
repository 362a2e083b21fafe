"""Deadline: a job whose deadline has come is not started anywhere."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, _offer: Offer) -> Refusal | None:
    """Refuses every offer from the instant of the deadline on."""
    deadline = ctx.job.deadline
    if deadline is None or deadline > ctx.now:
        return None
    return Refusal(Reason.DEADLINE_TOO_NEAR, f"the deadline {deadline.isoformat()} has come")
