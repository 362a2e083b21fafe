"""The escrow's accounting in plain Python, written from docs/settlement.md and never reading the contract.

Every action checks first that the escrow must accept it and raises Refused where it must not; only then it moves money.
Amounts are units of 10^-6; `now` is Unix time, `clock` the settlement clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HOUR, DAY = 3600, 86_400
CHALLENGE, RULING, EXIT_AFTER, LONGEST = HOUR, 4 * HOUR, 3 * HOUR, HOUR
MAX_PAUSE, COOLDOWN = 3 * DAY, 30 * DAY
NOTICE = LONGEST + 2 * CHALLENGE + RULING + MAX_PAUSE + DAY
NOBODY = "0x" + "00" * 20
Pair = tuple[str, str]


class Refused(Exception):  # noqa: N818 (what the escrow says, not a fault of the model)
    """The escrow must not accept this call."""


def must(condition: bool) -> None:
    """Refuse unless `condition`."""
    if not condition:
        raise Refused


@dataclass
class Tenant:
    """One account with its announcements."""

    balance: int = 0
    allocated: int = 0
    pending: int = 0
    limit: int = 0
    held: int = 0
    epoch: int = 0
    exit_from: int = 0
    wanted: tuple[int, int] | None = None
    lower: tuple[int, int] | None = None


@dataclass
class Books:
    """One pair; `base` is what a line must exceed to be due."""

    paid: int = 0
    deducted: int = 0
    reserved: int = 0
    dead: int = 0

    def unpaid(self, cumulative: int) -> int:
        """What a cumulative amount shows beyond what is decided."""
        return max(0, cumulative - self.paid - self.deducted - self.reserved)


@dataclass
class Epoch:
    """A posted epoch; `lines` is what its root shows."""

    root: str
    active_at: int
    prev: int
    lines: Mapping[Pair, int]
    debits: dict[str, int] = field(default_factory=dict)
    disputed: dict[str, int] = field(default_factory=dict)
    cancelled: bool = False


@dataclass
class Dispute:
    """An open dispute; provider NOBODY for a debit that no line explains."""

    epoch: int
    tenant: str
    provider: str
    amount: int
    bond: int
    floor: int
    shown: int = 0
    forfeited: int = 0
    ruled: bool = False


@dataclass
class Exit:
    """An open exit; `from_balance` is what was drawn on free money."""

    tenant: str
    provider: str
    amount: int
    active_at: int
    bond: int = 0
    refund: int = 0
    ruled: bool = False


class Model:
    """All tenants, pairs, epochs, disputes and exits of one escrow."""

    def __init__(self, tenants: Sequence[str], providers: Sequence[str], reserve: str, now: int) -> None:
        self.now = now
        self.tenants = {tenant: Tenant() for tenant in tenants}
        self.books = {(tenant, provider): Books() for tenant in tenants for provider in providers}
        self.reserve = reserve
        self.owed = dict.fromkeys([*tenants, *providers, reserve], 0)
        self.epochs: dict[int, Epoch] = {0: Epoch("0x" + "00" * 32, 0, 0, {})}
        self.head = self.last = self.seq = 0
        self.disputes: dict[tuple[int, str, str], Dispute] = {}
        self.exits: dict[Pair, Exit] = {}
        self.paused_at = self.paused_until = self.paused_total = 0
        self.inflow = self.outflow = 0

    @property
    def clock(self) -> int:
        """Unix time less all pauses."""
        return self.now - self.paused_total - (min(self.now, self.paused_until) - self.paused_at)

    @property
    def paused(self) -> bool:
        """Whether settlement stands still."""
        return self.now < self.paused_until

    @property
    def in_window(self) -> bool:
        """Whether the head can still be cancelled and disputed."""
        return self.head != 0 and self.clock < self.epochs[self.head].active_at

    @property
    def active(self) -> int:
        """The epoch that claims go against."""
        return self.epochs[self.head].prev if self.in_window else self.head

    def roll(self, name: str) -> Tenant:
        """The tenant, with its pending money where its epoch's outcome puts it."""
        tenant = self.tenants[name]
        epoch = self.epochs[tenant.epoch]
        if tenant.epoch and epoch.cancelled:
            tenant.balance += tenant.pending
        elif tenant.epoch and self.clock >= epoch.active_at:
            tenant.allocated += tenant.pending
        else:
            return tenant
        tenant.pending = tenant.epoch = 0
        return tenant

    # ------------------------------------------------------------------ accounts

    def deposit(self, name: str, units: int) -> None:
        must(units > 0)
        self.tenants[name].balance += units
        self.inflow += units

    def set_limit(self, name: str, limit: int) -> None:
        tenant = self.tenants[name]
        if limit >= tenant.limit:
            tenant.limit, tenant.lower = limit, None
        else:
            tenant.lower = (limit, self.now + NOTICE)

    def apply_limit(self, name: str) -> None:
        tenant = self.tenants[name]
        must(tenant.lower is not None and self.now >= tenant.lower[1])
        assert tenant.lower is not None
        tenant.limit, tenant.lower = tenant.lower[0], None

    def request_withdraw(self, name: str, units: int) -> None:
        self.tenants[name].wanted = (units, self.now + NOTICE) if units else None

    def withdraw(self, name: str) -> None:
        tenant = self.roll(name)
        must(tenant.wanted is not None and self.now >= tenant.wanted[1] and tenant.balance > 0)
        assert tenant.wanted is not None
        units = min(tenant.wanted[0], tenant.balance)
        tenant.balance -= units
        tenant.wanted = None
        self.outflow += units

    def collect(self, who: str) -> None:
        must(self.owed[who] > 0)
        self.outflow += self.owed[who]
        self.owed[who] = 0

    # ------------------------------------------------------------------ epochs

    def post(self, seq: int, prev: str, root: str, lines: Mapping[Pair, int], debits: Mapping[str, int]) -> None:
        must(not self.paused and not self.in_window)
        must(seq == self.seq and prev == self.epochs[self.head].root)
        self.last += 1
        epoch = Epoch(root, self.clock + CHALLENGE, self.head, dict(lines))
        for name, amount in debits.items():
            tenant = self.roll(name)
            tenant.epoch = self.last
            if amount <= min(tenant.limit, tenant.balance):
                tenant.balance -= amount
                tenant.pending = amount
                epoch.debits[name] = amount
        self.epochs[self.last] = epoch
        self.head = self.last
        self.seq += 1

    def cancel(self, number: int) -> None:
        must(number == self.head and self.in_window)
        self.epochs[number].cancelled = True
        self.head = self.epochs[number].prev
        self.seq += 1

    def claim(self, number: int, lines: Sequence[tuple[Pair, int]]) -> int:
        """Units paid for lines that are in the root; the payees always take it."""
        must(not self.paused and number != 0 and number == self.active)
        total = 0
        for pair, cumulative in lines:
            tenant, books = self.roll(pair[0]), self.books[pair]
            due = min(books.unpaid(cumulative), tenant.allocated) if number > books.dead else 0
            tenant.allocated -= due
            books.paid += due
            total += due
        self.outflow += total
        return total

    # ------------------------------------------------------------------ time

    def pause(self) -> None:
        must(self.now >= self.paused_until + COOLDOWN)
        self.paused_total += self.paused_until - self.paused_at
        self.paused_at, self.paused_until = self.now, self.now + MAX_PAUSE

    def unpause(self) -> None:
        must(self.paused)
        self.paused_until = self.now
