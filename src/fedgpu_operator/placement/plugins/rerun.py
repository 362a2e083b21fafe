"""Re-run: the work that an interruption is expected to lose, for jobs that save theirs; prices only."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import numpy as np

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, Context, IntVector
from fedgpu_operator.placement.table import OfferTable

PRIOR_PER_MH: Final = 1_000
"""Interruptions per million hours of an owner of whom nothing was seen: one in a thousand hours. Meta counted 2.3 and
6.5 failures per thousand node-days on two clusters of 8-GPU nodes, one in 10,000 and in 3,700 hours (Kokolis et al.,
Revisiting Reliability in Large-Scale Machine Learning Research Clusters, HPCA 2025); a stranger is held to be worse."""

HOURS_PER_MH: Final = 1_000_000
WHOLE: Final = 2 * 3600 * HOURS_PER_MH
"""Twice the seconds of the hours that a rate counts in: half an interval is lost."""
ROOM: Final = 2**62
"""What is below it is multiplied in 64 bits, the rest exactly and slowly; the answers are the same."""


def key(ctx: Context) -> Hashable:
    """What one interruption loses; None for a job without checkpoints: what it loses is bounded by its retries."""
    return None if ctx.job.checkpoint_seconds is None else _at_stake(ctx.job, ctx.job.checkpoint_seconds)


def price(ctx: Context, table: OfferTable) -> IntVector:
    """µUSD per GPU-hour: price × interruptions per hour × half of what lies between two checkpoints. Shape (offers,).

    An interruption falls on each instant alike, so it loses half an interval in the mean.
    """
    interval = ctx.job.checkpoint_seconds
    seconds = 0 if interval is None else _at_stake(ctx.job, interval)
    hourly, per_mh = table.price, table.numbers(_per_mh)
    if 2 * int(hourly.max(initial=0)) * int(per_mh.max(initial=0)) * seconds < ROOM:
        row: IntVector = (2 * hourly * per_mh * seconds + WHOLE) // (2 * WHOLE)
        return row.clip(max=MAX_COMPONENT)
    pairs = zip(hourly.tolist(), per_mh.tolist(), strict=True)
    priced = [min(MAX_COMPONENT, (2 * usd * rate * seconds + WHOLE) // (2 * WHOLE)) for usd, rate in pairs]
    return np.array(priced, dtype=np.int64)


def _at_stake(job: Job, interval: int) -> int:
    """Seconds of work between two checkpoints; a run that ends before the first one loses no more than itself."""
    return min(interval, job.run_limit)


def _per_mh(offer: Offer) -> int:
    return PRIOR_PER_MH if offer.interruptions_per_mh is None else offer.interruptions_per_mh
