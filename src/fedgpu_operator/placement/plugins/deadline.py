"""Deadline: a job is not started where its data would arrive no sooner than it must end."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable

ASSUMED_MBPS: Final = 100
"""How fast data comes in where the owner does not say, Mbit/s: a common floor of business lines."""

BITS_PER_MIB: Final = 8 * 1024 * 1024
BITS_PER_MBIT: Final = 10**6


def key(ctx: Context) -> Hashable:
    """The deadline, and while it is ahead the instant and what must arrive; None if no offer can be too late."""
    deadline = ctx.job.deadline
    if deadline is None:
        return None
    if deadline <= ctx.now:
        return (deadline,)
    if _arrival(ctx.now, sum(each.mib for each in ctx.job.data), 1) < deadline:
        return None
    return deadline, ctx.now, tuple((each.provider, each.mib) for each in ctx.job.data)


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer where the data arrives at the deadline or later; from then on, every offer."""
    deadline = ctx.job.deadline
    if deadline is None or not _too_late(ctx, deadline, offer.provider, offer.ingress_mbps):
        return None
    if deadline <= ctx.now:
        return OfferRefusal(Reason.DEADLINE_TOO_NEAR, f"deadline {deadline.isoformat()} has passed")
    mbps = f"{ASSUMED_MBPS} Mbit/s (assumed)" if offer.ingress_mbps is None else f"{offer.ingress_mbps} Mbit/s"
    mib = _to_move(ctx.job, offer.provider)
    seconds = _seconds(mib, offer.ingress_mbps or ASSUMED_MBPS)
    left = int((deadline - ctx.now).total_seconds())
    return OfferRefusal(
        Reason.DEADLINE_TOO_NEAR,
        f"transferring {mib} MiB of data at {mbps} takes {seconds} s, but the deadline is in {left} s",
    )


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """The same for all offers at once: asked per distinct line, and apart of the few providers that hold some data."""
    deadline = ctx.job.deadline
    if deadline is None:
        return np.full(len(table), fill_value=True)
    lines = table.kinds(_mbps)
    fits = lines.where(lambda mbps: not _too_late(ctx, deadline, "", mbps))
    for host in {each.provider for each in ctx.job.data if each.provider}:
        for i in table.of(host):
            fits[i] = not _too_late(ctx, deadline, host, lines.values[lines.codes[i]])
    return fits


def _mbps(offer: Offer) -> int | None:
    return offer.ingress_mbps


def _too_late(ctx: Context, deadline: datetime, provider: str, mbps: int | None) -> bool:
    """Whether the data arrives too late at this provider; an empty name is one that holds none of it."""
    return _arrival(ctx.now, _to_move(ctx.job, provider), mbps or ASSUMED_MBPS) >= deadline


def _to_move(job: Job, provider: str) -> int:
    return sum(each.mib for each in job.data if not provider or each.provider != provider)


def _seconds(mib: int, mbps: int) -> int:
    return -(-mib * BITS_PER_MIB // (mbps * BITS_PER_MBIT))


def _arrival(now: datetime, mib: int, mbps: int) -> datetime:
    seconds = _seconds(mib, mbps)
    latest = int((datetime.max.replace(tzinfo=now.tzinfo) - now).total_seconds()) - 1
    return now + timedelta(seconds=min(seconds, latest))
