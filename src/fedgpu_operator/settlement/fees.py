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


FIRST_TIP = 1024
"""A tip that is too low becomes at least this part of the maximum: from there it doubles to all of it in ten steps."""

SAVES = 32
"""A lower offer saves at least this part of the base fee, so that a base fee that creeps down makes few versions."""


class Move(Enum):
    """What to do about a nonce whose transaction is in no block."""

    KEEP = auto()
    """Send the kept bytes again, and wait."""
    REPRICE = auto()
    """Sign the same call with other fees."""
    RESIZE = auto()
    """Sign the same call with a higher gas limit."""
    SHRINK = auto()
    """Sign a smaller call; where there is none, free the nonce if no node will ever take it (TOO_LARGE), else wait."""


@dataclass(frozen=True, slots=True)
class NonceState:
    """How the newest version of a nonce stands.

    `refusal` is why every node refuses it now, None where one has it. `taken` is the highest offer among all versions
    that a node ever took, None where none did: what replaces one of those has to offer more. `waited` is whether it
    was taken longer ago than patience lasts, and blocks have come since. `capped` is the least offer of the same call
    that nodes refused for their own limit on its cost, None where they refused none.
    """

    fees: Fees
    refusal: Refusal | None = None
    taken: Fees | None = None
    waited: bool = False
    capped: int | None = None


def next_move(now: NonceState, view: FeeView, cap: int) -> tuple[Move, Fees]:
    """What to do next, and at which fees; fees rise only where nothing but inclusion is missing.

    That is where a node wants more for this nonce, or has the transaction while blocks go by without it. A node that
    refuses for the sender's balance, for its own limit on the cost, for the size, or in words that nobody knows, gets
    nothing dearer.
    """
    keep = Move.KEEP, now.fees
    if now.refusal is None:
        raises = now.waited or underpriced(now.fees, view)
        higher = bumped(_highest_of(now), view, cap) if raises else None
        return keep if higher is None else (Move.REPRICE, higher)
    if now.refusal is Refusal.UNDERPRICED:
        higher = _wanted_more(now, view, cap)
        return keep if higher is None else (Move.REPRICE, higher)
    if now.refusal is Refusal.GAS_TOO_LOW:
        if now.taken is None or _replaces(now.fees, now.taken):
            return Move.RESIZE, now.fees
        higher = bumped(_highest_of(now), view, cap)
        return keep if higher is None else (Move.RESIZE, higher)
    if now.refusal is Refusal.FEE_CAPPED and (lower := lowered(now.fees, now.taken, view)) is not None:
        return Move.REPRICE, lower
    if now.refusal in (Refusal.FEE_CAPPED, Refusal.TOO_LARGE):
        wanted = replacing(now.taken, view, cap)
        least = _least(now.fees, now.taken, view, _raised(view.base_fee))
        return Move.SHRINK, least if now.refusal is Refusal.FEE_CAPPED and least.max_fee < wanted.max_fee else wanted
    return keep


def _highest_of(now: NonceState) -> Fees:
    return now.fees if now.taken is None else highest([now.fees, now.taken])


def _wanted_more(now: NonceState, view: FeeView, cap: int) -> Fees | None:
    """What follows an offer that nodes call too low; None where nothing more may be offered.

    An offer that pays for whatever blocks may ask lacks a tip: it alone rises, up to the maximum. Else both do. Beyond
    what nodes refused for its cost nothing is offered.
    """
    paid = first_fees(view, cap).max_fee if now.capped is None else min(cap, view.base_fee + view.tip)
    more = _tipped(now, view)
    if now.fees.max_fee < paid or more.max_fee > cap or more.tip <= now.fees.tip:
        offers = _highest_of(now)
        higher = bumped(offers, view, cap)
        if higher is not None and now.capped is not None and higher.max_fee >= now.capped:
            higher = bumped(offers, FeeView(0, 0), cap)
        if higher is None and now.taken is None and now.fees.max_fee < cap:
            higher = Fees(cap, min(cap, _raised(now.fees.tip)))
        if higher is None and more.max_fee <= cap and more.tip > now.fees.tip:
            higher = more
        more = higher if higher is not None else now.fees
    beyond = now.capped is not None and more.max_fee >= now.capped
    return None if more == now.fees or beyond else more


def _tipped(now: NonceState, view: FeeView) -> Fees:
    """The same maximum with at least twice the tip; where a node has a version, what replaces that."""
    max_fee, tip = now.fees.max_fee, max(1, 2 * now.fees.tip, view.tip, now.fees.max_fee // FIRST_TIP)
    if now.taken is not None:
        max_fee, tip = max(max_fee, _raised(now.taken.max_fee)), max(tip, _raised(now.taken.tip))
    return Fees(max_fee, min(max_fee, tip))


def _replaces(new: Fees, old: Fees) -> bool:
    return new.max_fee >= _raised(old.max_fee) and new.tip >= _raised(old.tip)


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


def lowered(fees: Fees, taken: Fees | None, view: FeeView) -> Fees | None:
    """The next lower offer, for a node that refuses `fees` since it allows no more than some gas times fee.

    First the least that the next block takes whatever its base fee, then the least that suits the present one; neither
    less than what replaces `taken`, the highest offer that a node has. None where the least of them was refused: then
    only a smaller call, a lower base fee, or another limit of the node helps.
    """
    for base_fee in (_raised(view.base_fee), view.base_fee):
        least = _least(fees, taken, view, base_fee)
        saved = fees.max_fee - least.max_fee
        if saved > 0 and saved * SAVES >= view.base_fee:
            return least
    return None


def _least(fees: Fees, taken: Fees | None, view: FeeView, base_fee: int) -> Fees:
    """The least that replaces `taken` and suits a block of that base fee; its tip is no less than before."""
    tip, floor = fees.tip, 0
    if taken is not None:
        tip, floor = max(tip, _raised(taken.tip)), max(_raised(taken.max_fee), _raised(taken.tip))
    max_fee = max(floor, base_fee + min(tip, view.tip))
    return Fees(max_fee=max_fee, tip=min(max_fee, tip))


def highest(offers: Iterable[Fees]) -> Fees:
    """The highest of both figures, which a replacement of any of them has to exceed; nothing of no offer."""
    both = list(offers)
    return Fees(max((each.max_fee for each in both), default=0), max((each.tip for each in both), default=0))


def cost_bound(gas: int, fees: Fees) -> int:
    """The most wei that a transaction with that gas limit can cost."""
    return gas * fees.max_fee


def _raised(price: int) -> int:
    return max(price + 1, -(-price * BUMP[0] // BUMP[1]))
