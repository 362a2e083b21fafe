"""Budget: an offer on which the whole run limit would cost more than the job may still spend is no offer."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD, charge, format_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def run_cost(job: Job, offer: Offer) -> MicroUSD:
    """The price of one attempt that lasts the whole run limit, in µUSD: the most that an attempt can be billed."""
    return charge(offer.price, job.gpus * job.run_limit)


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer whose whole run limit is beyond the budget; a cost equal to it fits."""
    left = ctx.job.budget_left
    if left is None:
        return None
    cost = run_cost(ctx.job, offer)
    if cost <= left:
        return None
    return Refusal(
        Reason.OVER_BUDGET,
        f"the run limit of {ctx.job.run_limit} s would cost {format_usd(cost)} USD, "
        f"{format_usd(left)} USD of the budget is left",
    )
