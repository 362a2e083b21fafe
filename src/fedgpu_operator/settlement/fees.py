"""What a transaction offers for its place in a block, and how it is raised: wei per gas, no chain and no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from fedgpu_operator.domain.transactions import Fees, FeeView
from fedgpu_operator.errors import Refusal

BUMP = (9, 8)
"""A replacement offers at least 9/8 of both figures: nodes refuse less than 11/10 (geth's default price bump)."""

BASE_FEE_ROOM = 2
"""The base fee can rise by 1/8 per block (EIP-1559): twice its present value lasts for at least five full blocks."""


class Move(Enum):
    """What to do about a nonce whose transaction is in no block."""

    KEEP = auto()
    """Send the kept bytes again, and wait."""
    REPRICE = auto()
    """Sign the same call with other fees."""
    SHRINK = auto()
    """Sign a smaller call; where there is none, free the nonce if no node will ever take it (TOO_LARGE), else wait."""


@dataclass(frozen=True, slots=True)
class NonceState:
    """How the newest version of a nonce stands.

    `refusal` is why every node refuses it now, None where one has it. `taken` is the highest offer among all versions
    that a node ever took, None where none did: what replaces one of those has to offer more. `waited` is whether it
    was taken longer ago than patience lasts, and blocks have come since.
    """

    fees: Fees
    refusal: Refusal | None = None
    taken: Fees | None = None
    waited: bool = False


def next_move(now: NonceState, view: FeeView, cap: int) -> tuple[Move, Fees]:
    """What to do next, and at which fees; fees rise only where nothing but inclusion is missing.

    That is where a node wants more for this nonce, or has the transaction while blocks go by without it. A node that
    refuses for the sender's balance, for its own limit on the cost, for the size, or in words that nobody knows, gets
    nothing dearer.
    """
    offers = [now.fees] if now.taken is None else [now.fees, now.taken]
    if now.refusal is None or now.refusal is Refusal.UNDERPRICED:
        raises = now.refusal is not None or now.waited or underpriced(now.fees, view)
        higher = bumped(highest(offers), view, cap) if raises else None
        return (Move.KEEP, now.fees) if higher is None else (Move.REPRICE, higher)
    if now.refusal is Refusal.FEE_CAPPED and now.taken is None and (lower := lowered(now.fees, view)) is not None:
        return Move.REPRICE, lower
    if now.refusal in (Refusal.FEE_CAPPED, Refusal.TOO_LARGE):
        return Move.SHRINK, replacing(now.taken, view, cap)
    return Move.KEEP, now.fees


def replacing(taken: Fees | None, view: FeeView, cap: int) -> Fees:
    """What another call of a nonce offers: as at first, or more than what a node has of it, but never above the cap."""
    if taken is None:
        return first_fees(view, cap)
    higher = bumped(taken, view, cap)
    return higher if higher is not None else Fees(cap, min(cap, _raised(taken.tip)))


def first_fees(view: FeeView, cap: int) -> Fees:
    """What to offer at first, with `max_fee` never above `cap`; ValueError for a cap below 1.

    Under a cap below the present base fee the transaction waits in the pools until the base fee has come down.
    """
    if cap < 1:
        raise ValueError("a fee cap of less than 1 wei per gas allows no transaction at all")
    max_fee = min(cap, BASE_FEE_ROOM * view.base_fee + view.tip)
    return Fees(max_fee=max_fee, tip=min(view.tip, max_fee))


def underpriced(fees: Fees, view: FeeView) -> bool:
    """Whether the next block asks more than is offered, so that waiting alone may not help."""
    return fees.max_fee < view.base_fee + min(fees.tip, view.tip)


def bumped(fees: Fees, view: FeeView, cap: int) -> Fees | None:
    """The least that replaces a transaction with `fees` and suits `view`; None where that would pass `cap`.

    Both figures rise by at least an eighth, and by at least one wei. Where the view asks for more than the cap
    allows, the offer goes as far as the cap. None means: send the same bytes again and wait.
    """
    least = Fees(max_fee=_raised(fees.max_fee), tip=_raised(fees.tip))
    if least.max_fee > cap:
        return None
    wanted = first_fees(view, cap)
    max_fee = max(least.max_fee, wanted.max_fee)
    return Fees(max_fee=max_fee, tip=min(max_fee, max(least.tip, wanted.tip)))


def lowered(fees: Fees, view: FeeView) -> Fees | None:
    """The least offer that the next block certainly takes, for a node that allows no more than some gas times fee.

    None where that saves less than an eighth: then only a smaller call, or a lower base fee, helps. It is meant for
    bytes that no node has taken, since a cheaper version replaces nothing.
    """
    tip = min(fees.tip, view.tip)
    least = _raised(view.base_fee) + tip
    if least * BUMP[0] > fees.max_fee * BUMP[1]:
        return None
    return Fees(max_fee=least, tip=tip)


def highest(offers: Iterable[Fees]) -> Fees:
    """The highest of both figures, which a replacement of any of them has to exceed; nothing of no offer."""
    both = list(offers)
    return Fees(max((each.max_fee for each in both), default=0), max((each.tip for each in both), default=0))


def cost_bound(gas: int, fees: Fees) -> int:
    """The most wei that a transaction with that gas limit can cost."""
    return gas * fees.max_fee


def _raised(price: int) -> int:
    return max(price + 1, -(-price * BUMP[0] // BUMP[1]))
