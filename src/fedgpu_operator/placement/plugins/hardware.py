"""Hardware: the card itself, by the names and figures that GPU feature discovery reads from it."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses a card of another product or architecture, or with too little memory; unknown is too little."""
    need, card = ctx.job.gpu, offer.gpu
    if need.products and card.product not in need.products:
        return _refused(f"product {card.product} is not among {', '.join(sorted(need.products))}")
    if need.architectures and card.architecture not in need.architectures:
        wanted = ", ".join(sorted(need.architectures))
        return _refused(f"architecture {card.architecture or 'unknown'} is not among {wanted}")
    if card.memory_mib < need.min_memory_mib:
        return _refused(f"{card.memory_mib} MiB per card are less than {need.min_memory_mib} MiB")
    return None


def _refused(message: str) -> Refusal:
    return Refusal(Reason.HARDWARE_MISMATCH, message)
