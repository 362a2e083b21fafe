"""What a transaction offers for its place in a block, and how it is raised: wei per gas, no chain and no clock."""

from __future__ import annotations

from fedgpu_operator.domain.transactions import Fees, FeeView

BUMP = (9, 8)
"""A replacement offers at least 9/8 of both figures: nodes refuse less than 11/10 (geth's default price bump)."""

BASE_FEE_ROOM = 2
"""The base fee can rise by 1/8 per block (EIP-1559): twice its present value lasts for at least five full blocks."""


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


def cost_bound(gas: int, fees: Fees) -> int:
    """The most wei that a transaction with that gas limit can cost."""
    return gas * fees.max_fee


def _raised(price: int) -> int:
    return max(price + 1, -(-price * BUMP[0] // BUMP[1]))
