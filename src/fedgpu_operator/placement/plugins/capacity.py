"""Capacity: whether the offer could hold the job if it were the only one; shares among jobs are the solver's."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer, room
from fedgpu_operator.domain.text import counted
from fedgpu_operator.placement.context import BoolVector, Context, IntVector, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses a provider that takes no more leases, and free GPUs that do not hold all replicas.

    The GPUs of one replica lie on one node; all replicas lie at one offer.
    """
    if offer.lease_slots is not None and offer.lease_slots < 1:
        return OfferRefusal(Reason.PROVIDER_FULL, "no lease slots left at the provider")
    need = ctx.job.gpu.count
    fits = room(offer.free, need)
    if fits >= ctx.job.replicas:
        return None
    return OfferRefusal(
        Reason.INSUFFICIENT_GPUS,
        f"insufficient GPUs: {counted(ctx.job.replicas, 'replica')} with {counted(need, 'GPU')} on one node requested, "
        f"{fits} fit ({counted(offer.free_gpus, 'GPU')} free)",
    )


def key(ctx: Context) -> Hashable:
    """The shape of the job."""
    return ctx.job.gpu.count, ctx.job.replicas


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers hold all replicas and take one more lease. Shape (offers,)."""
    return (table.room(ctx.job.gpu.count) >= ctx.job.replicas) & ~_full(table)


def reason_index(_ctx: Context, table: OfferTable) -> IntVector:
    """1 if the provider is full, else 0: too few GPUs. Shape (offers,)."""
    return _full(table).astype(np.int64)


def _full(table: OfferTable) -> BoolVector:
    return table.kinds(_slots).where(lambda slots: slots is not None and slots < 1)


def _slots(offer: Offer) -> int | None:
    return offer.lease_slots
