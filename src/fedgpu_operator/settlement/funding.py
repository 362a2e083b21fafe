"""What the chain can carry of what is owed, and how long the settler's coins last; values in, values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, Funding, Pair
from fedgpu_operator.domain.transactions import Fees, FeeView
from fedgpu_operator.settlement.fees import GAS_MARGIN, LONELY, MAX_TX_GAS, Extent, cost_bound, first_fees

MAX_DEBITS = 500
"""Debits that the contract takes in one epoch."""

MAX_DEBIT = 2**48 - 1
"""The largest single debit (uint48), about 281 million USD."""


def fund(
    cumulatives: Mapping[Pair, MicroUSD],
    chain: ChainSnapshot,
    committed: Mapping[Pair, MicroUSD] | None = None,
    *,
    min_payout: MicroUSD = NOTHING,
    most: int = MAX_DEBITS,
) -> Funding:
    """Decide debits and payable totals from what is owed and what finalized chain state shows.

    `cumulatives` is all that each tenant ever owed each provider, `committed` the pairs of the newest root on the
    chain. Per tenant, debit = Σ max(0, cumulative − deducted − paid − reserved) − (allocated + pending + held), never
    below zero: an equation over state, so a cancelled epoch is billed again, a refund and an exit are accounted for,
    and nothing is billed twice.

    A debit is clipped to min(limit, balance): work is done already, so an announced withdrawal does not reduce it.
    What cannot be debited stays `unfunded` and comes back by itself in the next epoch. Its money is *not* promised
    in the root: a tenant's money is shared pro rata among its providers, what an earlier root already promised
    first. So Σ payable ≤ allocated + pending + debit, and no provider is paid less for claiming later than another.

    A pair that is owed less than `min_payout` waits until it is worth a transfer, unless a root promises it already or
    its tenant has announced to take money out or to lower its limit.

    At most `most` tenants are debited, those that owe most; the others wait for the next epoch.

    Raises ValueError when the snapshot was not taken for these tenants and pairs.
    """
    missing = [pair for pair in cumulatives if pair[0] not in chain.accounts or pair not in chain.books]
    if missing:
        raise ValueError(f"the snapshot lacks {len(missing)} of the pairs, such as {missing[0]}")
    dues: dict[str, dict[Pair, int]] = defaultdict(dict)
    for pair in sorted(cumulatives, key=_order):
        due = max(0, cumulatives[pair] - chain.books[pair].base)
        promised = (committed or {}).get(pair, NOTHING) > chain.books[pair].base
        account = chain.accounts[pair[0]]
        waits = due < min_payout and not promised and not (account.withdraw_at or account.limit_at)
        dues[pair[0]][pair] = 0 if waits else due
    debits = _debits({tenant: sum(owed.values()) for tenant, owed in dues.items()}, chain.accounts, most)
    payable: dict[Pair, MicroUSD] = {}
    unfunded: dict[str, MicroUSD] = {}
    for tenant, owed in dues.items():
        account = chain.accounts[tenant]
        available = account.allocated + account.pending + debits.get(tenant, 0)
        shares = _shares(available, owed, _promised(owed, chain, committed or {}))
        payable |= {pair: MicroUSD(chain.books[pair].base + share) for pair, share in shares.items() if share}
        short = sum(owed.values()) - sum(shares.values())
        if short:
            unfunded[tenant] = MicroUSD(short)
    return Funding(debits=debits, payable=payable, unfunded=unfunded)


def advances(funding: Funding, committed: Mapping[Pair, MicroUSD]) -> bool:
    """Whether an epoch of this funding would change anything against the newest root's pairs."""
    return bool(funding.debits) or any(total > committed.get(pair, NOTHING) for pair, total in funding.payable.items())


def _debits(owed: Mapping[str, int], accounts: Mapping[str, AccountState], most: int) -> dict[str, MicroUSD]:
    """What to take from each tenant; beyond `most` tenants the smallest wait for the next epoch."""
    wanted = {}
    for tenant, due in owed.items():
        account = accounts[tenant]
        lacking = due - account.allocated - account.pending - account.held
        amount = min(lacking, account.limit, account.balance, MAX_DEBIT)
        if amount > 0:
            wanted[tenant] = MicroUSD(amount)
    chosen = sorted(wanted, key=lambda tenant: (-wanted[tenant], tenant.lower()))[: min(most, MAX_DEBITS)]
    return {tenant: wanted[tenant] for tenant in sorted(chosen, key=str.lower)}


def _promised(owed: Mapping[Pair, int], chain: ChainSnapshot, committed: Mapping[Pair, MicroUSD]) -> dict[Pair, int]:
    """The part of each due that the newest root shows already."""
    return {pair: min(due, max(0, committed.get(pair, NOTHING) - chain.books[pair].base)) for pair, due in owed.items()}


def _shares(available: int, owed: Mapping[Pair, int], promised: Mapping[Pair, int]) -> dict[Pair, int]:
    """Split `available` over the dues, the promised part first."""
    first = _split(available, promised)
    rest = _split(available - sum(first.values()), {pair: owed[pair] - first[pair] for pair in owed})
    return {pair: first[pair] + rest[pair] for pair in owed}


def _split(amount: int, wants: Mapping[Pair, int]) -> dict[Pair, int]:
    """All wants where they fit, else pro rata rounded down, the odd units to the first in order."""
    total = sum(wants.values())
    if total <= amount:
        return dict(wants)
    split = {pair: amount * want // total for pair, want in wants.items()}
    odd = amount - sum(split.values())
    for pair in sorted((pair for pair, want in wants.items() if want), key=_order)[:odd]:
        split[pair] += 1
    return split


def _order(pair: Pair) -> tuple[str, str]:
    return pair[0].lower(), pair[1].lower()


DAY: Final = timedelta(days=1)
WINDOW: Final = timedelta(days=7)
"""What was spent before says little about what is spent now."""
FEW_EPOCHS: Final = 10
"""So few that a rise of fees, or a day on which nobody looks, ends them."""


class PurseLevel(IntEnum):
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

    def standing(self, warn: float) -> PurseLevel:
        """Empty if the next transaction is not paid for, low if it lasts less than `warn` seconds or FEW_EPOCHS."""
        if self.balance < self.next:
            return PurseLevel.EMPTY
        return PurseLevel.LOW if self.lasts < warn or self.epochs < FEW_EPOCHS else PurseLevel.FUNDED


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
