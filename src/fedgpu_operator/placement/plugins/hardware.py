"""Hardware: the card itself, by the names and figures that GPU feature discovery reads from it."""

from __future__ import annotations

from collections.abc import Hashable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.devices import Form
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


def key(ctx: Context) -> Hashable:
    """The card that the job needs: any whole one, where it names nothing."""
    need = ctx.job.gpu
    return need.products, need.architectures, need.min_memory_mib


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses a card of another product or architecture, or with too little memory; unknown is too little."""
    why = _breach(ctx.job.gpu, offer.gpu)
    return OfferRefusal(Reason.HARDWARE_MISMATCH, why) if why else None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """Which offers have such a card, asked once per distinct card. Shape (offers,)."""
    return table.kinds(_card).where(lambda card: not _breach(ctx.job.gpu, card))


def _card(offer: Offer) -> GpuModel:
    return offer.gpu


def _breach(need: GpuNeed, card: GpuModel) -> str:
    """What the card lacks, as a sentence; empty if it lacks nothing."""
    if need.products and card.product not in need.products:
        return f"product {card.product} is not among {', '.join(sorted(need.products))}"
    if not need.products and card.form is Form.SLICE:
        return f"{card.product} is a slice of a card: only a job that names it in spec.gpu.products gets one"
    if need.architectures and card.architecture not in need.architectures:
        wanted = ", ".join(sorted(need.architectures))
        return f"architecture {card.architecture or 'unknown'} is not among {wanted}"
    if need.min_memory_mib and not card.memory_mib:
        return f"insufficient GPU memory: {need.min_memory_mib} MiB per card requested, the card's memory is not known"
    if card.memory_mib < need.min_memory_mib:
        return f"insufficient GPU memory: {need.min_memory_mib} MiB per card requested, {card.memory_mib} MiB installed"
    return ""
