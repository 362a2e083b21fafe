"""How long the settler's coins last: wei in, a verdict out; pure. They pay for gas alone and are nobody's credit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from fedgpu_operator.domain.transactions import Fees, FeeView
from fedgpu_operator.settlement.batches import GAS_MARGIN, MAX_TX_GAS
from fedgpu_operator.settlement.economy import LONELY, Extent
from fedgpu_operator.settlement.fees import cost_bound, first_fees

DAY: Final = timedelta(days=1)
WINDOW: Final = timedelta(days=7)
"""What was spent before says little about what is spent now."""
FEW_EPOCHS: Final = 10
"""So few that a rise of fees, or a day on which nobody looks, ends them."""


class Standing(IntEnum):
    """How urgent it is."""

    FUNDED = 0
    LOW = 1
    EMPTY = 2


@dataclass(frozen=True, slots=True)
class Purse:
    """The settler's coins, all in wei.

    `epoch` is what posting and claiming an epoch costs at present fees, `next` what must be there for a node to take
    the next transaction, `burn` what was spent per day lately.
    """

    balance: int
    epoch: int
    next: int
    burn: int

    @property
    def epochs(self) -> float:
        """How many more epochs it pays for at present fees: a whole number, or infinite if gas costs nothing."""
        if self.balance < self.next:
            return 0
        return self.balance // self.epoch if self.epoch else float("inf")

    @property
    def lasts(self) -> float:
        """Seconds until it is empty at the present burn; infinite if nothing was spent."""
        return self.balance * DAY.total_seconds() / self.burn if self.burn else float("inf")

    def standing(self, warn: float) -> Standing:
        """Empty if the next transaction is not paid for, low if it lasts less than `warn` seconds or FEW_EPOCHS."""
        if self.balance < self.next:
            return Standing.EMPTY
        return Standing.LOW if self.lasts < warn or self.epochs < FEW_EPOCHS else Standing.FUNDED


def purse_of(
    balance: int,
    view: FeeView,
    cap: int,
    past: Extent,
    data_fee: int,
    burn: int,
    waiting: Iterable[tuple[int, Fees]] = (),
) -> Purse:
    """The purse at the fees of `view`, under a cap of `cap` wei per gas, if epochs go on as in `past`.

    `data_fee` is wei per epoch that a rollup takes besides gas times price. `waiting` are gas limit and offer of the
    transaction that is on its way, in each version that is sent again: they cost what they were signed with.
    """
    seen = past if past.epochs else LONELY
    gas = -(-seen.gas // seen.epochs)
    # A node wants the most that a transaction may cost, which is what is offered and not what the block will ask.
    limit = min(int(gas * GAS_MARGIN), MAX_TX_GAS)
    most = max((cost_bound(*each) for each in waiting), default=0) or cost_bound(limit, first_fees(view, cap))
    return Purse(
        balance=balance,
        epoch=gas * (view.base_fee + view.tip) + data_fee,
        next=most + data_fee,
        burn=burn,
    )


def dearest(view: FeeView, cap: int, data_fee: int) -> int:
    """Wei that the largest transaction can cost at the fees of `view`, under a cap of `cap` wei per gas."""
    return MAX_TX_GAS * first_fees(view, cap).max_fee + data_fee


def burn_of(spent: Iterable[int], since: datetime, now: datetime) -> int:
    """Wei per day of what was spent since then; what happened within less than a day counts as that of one."""
    return round(sum(spent) * (DAY / max(DAY, now - since)))


class Ebb:
    """What a balance lost in fees of every kind, as seen by looking at it often.

    Money that comes in is no spending in reverse: only falls count. Nor is a transfer: a fall beyond what the largest
    transaction could cost when it was sent is somebody taking coins out.
    """

    def __init__(self) -> None:
        self._began: datetime | None = None
        self._last = 0
        self._most = 0
        self._falls: list[tuple[datetime, int]] = []

    def see(self, balance: int, most: int, now: datetime) -> int:
        """Wei per day that it fell by lately, this look included; `most` is what the largest transaction costs now."""
        if self._began is None:
            self._began, self._last = now, balance
        if 0 < self._last - balance <= max(self._most, most):
            self._falls.append((now, self._last - balance))
        self._last, self._most = balance, most
        self._falls = [(at, fall) for at, fall in self._falls if now - at < WINDOW]
        return burn_of((fall for _, fall in self._falls), max(self._began, now - WINDOW), now)
