"""An independent audit of the escrow over raw JSON-RPC: it imports nothing of the operator and believes none of it.

Addresses are lower-case hex; amounts are base units of 10^-6 dollar, as the escrow counts them. Everything is read as
of one finalized block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from fedgpu_lab.rawchain import NOBODY, AuditError, Log, RawChain, event, topic_of

__all__ = ["Account", "Audit", "AuditError", "audit"]


@dataclass(frozen=True, slots=True)
class Account:
    """One tenant's money as the escrow's getters show it; `disputed` is held of debits that no line explains."""

    balance: int
    allocated: int
    pending: int
    disputed: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What the chain shows at block `block`.

    `deposited` is what came in by the escrow's own deposits, `bonded` what disputes put up, `unsolicited` what somebody
    sent past it: that belongs to nobody's account and lies in `held` for good. `paid_to` sums the token transfers by
    payee; `collected` is the part of them that somebody fetched, `owed` what still waits to be fetched. `reserved` is
    held for pairs by open disputes and exits, `bonds` lies with them. `problems` is empty when every identity holds to
    the last unit of the token.
    """

    block: int
    deposited: int
    paid: int
    withdrawn: int
    held: int
    accounts: Mapping[str, Account]
    owed: int
    paid_to: Mapping[str, int]
    problems: tuple[str, ...]
    unsolicited: int = 0
    bonded: int = 0
    collected: int = 0
    reserved: int = 0
    bonds: int = 0

    @property
    def balances(self) -> int:
        return sum(account.balance for account in self.accounts.values())

    @property
    def allocated(self) -> int:
        return sum(account.allocated for account in self.accounts.values())

    @property
    def pending(self) -> int:
        return sum(account.pending for account in self.accounts.values())

    @property
    def disputed(self) -> int:
        return sum(account.disputed for account in self.accounts.values())

    @property
    def conserved(self) -> bool:
        """Whether nothing appeared and nothing vanished."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Flows:
    """Token transfers into and out of the escrow, in token units, and what could not be explained."""

    deposited: int
    bonded: int
    unsolicited: int
    paid: int
    collected: int
    withdrawn: int
    paid_to: Mapping[str, int]
    unexplained: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Books:
    """What the getters say belongs to whom, in units."""

    accounts: Mapping[str, Account]
    reserved: int
    bonds: int
    owed: int

    @property
    def total(self) -> int:
        of_tenants = sum(a.balance + a.allocated + a.pending + a.disputed for a in self.accounts.values())
        return of_tenants + self.reserved + self.bonds + self.owed


def audit(
    rpc_url: str, token: str, escrow: str, *, timeout: float = 15.0, transport: httpx.BaseTransport | None = None
) -> Audit:
    """Read the chain and check that in − out = balanceOf = what the getters say belongs to somebody.

    In is deposited + bonded; out is paid (what was collected included) + withdrawn; and what belongs to somebody is
    Σ balance + Σ (allocated + pending) + what disputes and exits hold (reserved of pairs, held of debits without a
    provider, bonds) + Σ owed. A transfer that no event of the same transaction and sender explains is `unsolicited`:
    subtracted on both sides, so that nobody can spoil the verdict, nor cover up a loss, by sending money. Raises
    AuditError.
    """
    # trust_env=False: a proxy of the environment has no business between us and the chain.
    with httpx.Client(base_url=rpc_url, timeout=timeout, trust_env=False, transport=transport) as client:
        return _audit(RawChain(client), token.lower(), escrow.lower())


def _audit(chain: RawChain, token: str, escrow: str) -> Audit:
    block = chain.finalized()
    scale = 10 ** (chain.number(token, "decimals()", block) - 6)
    events = chain.logs(escrow, [], block)
    flows = _flows(chain, token, escrow, events, block, scale)
    books = _books(chain, escrow, events, block)
    held = chain.number(token, "balanceOf(address)", block, escrow)
    return Audit(
        block=block,
        deposited=flows.deposited // scale,
        paid=flows.paid // scale,
        withdrawn=flows.withdrawn // scale,
        held=held // scale,
        accounts=books.accounts,
        owed=books.owed,
        paid_to={payee: units // scale for payee, units in flows.paid_to.items()},
        problems=(*flows.unexplained, *_problems(flows, held, scale, books.total)),
        unsolicited=flows.unsolicited // scale,
        bonded=flows.bonded // scale,
        collected=flows.collected // scale,
        reserved=books.reserved,
        bonds=books.bonds,
    )


def _problems(flows: _Flows, held: int, scale: int, owned: int) -> list[str]:
    """Both equations in the token's own units, so that no division hides a remainder."""
    found = []
    moved = flows.deposited + flows.bonded + flows.unsolicited - flows.paid - flows.withdrawn
    if moved != held:
        found.append(f"transfers leave {moved} units, the token says that the escrow holds {held}")
    if owned * scale + flows.unsolicited != held:
        apart = f" and {flows.unsolicited} were sent unasked" if flows.unsolicited else ""
        found.append(
            f"the accounts add up to {owned * scale} units{apart}, the token says that the escrow holds {held}"
        )
    return found


def _books(chain: RawChain, escrow: str, events: Sequence[Log], block: int) -> _Books:
    """Everything that any event ever named, read from the getters: an event says whom to ask, never how much."""
    disputes = _named(events, {_DISPUTED: (1, 2, 3)})
    exits = _named(events, {_EXIT_STARTED: (1, 2)})
    pairs = dict.fromkeys([*exits, *((tenant, provider) for _, tenant, provider in disputes if provider != NOBODY)])
    tenants = _named(events, {_DEPOSITED: (1,)})
    # Whoever a transfer failed to reach, and both sides of a bond.
    waiting = dict.fromkeys([*_named(events, {_CREDIT_OWED: (2,)}), *((who,) for pair in pairs for who in pair)])
    if disputes:
        reserve = f"0x{chain.number(escrow, 'RESERVE()', block):040x}"
        waiting |= dict.fromkeys([(reserve,), *((tenant,) for _, tenant, _ in disputes)])
    bonds = [
        chain.words(escrow, "disputeOf(uint32,address,address)", block, int(epoch, 16), tenant, provider)[1]
        for epoch, tenant, provider in disputes
    ]
    bonds += [chain.words(escrow, "exitOf(address,address)", block, *each)[1] for each in exits]
    return _Books(
        accounts={tenant: _account(chain, escrow, tenant, block, disputed=bool(disputes)) for (tenant,) in tenants},
        # Of a list's answer, the first two words say where it begins and how long it is.
        reserved=sum(
            chain.words(escrow, "pairsOf(address[],address[])", block, [tenant], [provider])[2 + 2]
            for tenant, provider in pairs
        ),
        bonds=sum(bonds),
        owed=sum(chain.number(escrow, "owed(address)", block, who) for (who,) in waiting),
    )


def _account(chain: RawChain, escrow: str, tenant: str, block: int, *, disputed: bool) -> Account:
    balance, allocated, pending, *_ = chain.words(escrow, "accountOf(address)", block, tenant)
    held = chain.words(escrow, "heldOf(address[])", block, [tenant])[2] if disputed else 0
    return Account(balance, allocated, pending, held)


def _flows(chain: RawChain, token: str, escrow: str, events: Sequence[Log], block: int, scale: int) -> _Flows:
    """Transfers from the token's own logs; the escrow's events only tell what each of them was for."""
    here = topic_of(escrow)
    deposited, bonded, unsolicited, astray = _came_in(chain.logs(token, [_TRANSFER, None, here], block), events, scale)
    withdrawals = {(log.transaction, log.address(2)) for log in events if log.topics[0] == _WITHDRAWN}
    payments = {(log.transaction, log.address(3)) for log in events if log.topics[0] == _CREDIT_PAID}
    collections = {(log.transaction, log.address(2)) for log in events if log.topics[0] == _COLLECTED}
    paid_to: dict[str, int] = defaultdict(int)
    withdrawn, collected, unexplained = 0, 0, [*astray]
    for log in chain.logs(token, [_TRANSFER, here], block):
        units, to = log.number(0), log.address(2)
        if to == escrow:
            # It came in again as unsolicited: both sums still agree, and yet its owner has lost it.
            unexplained.append(f"{units} units went from the escrow to itself in {log.transaction}")
        if (log.transaction, to) in withdrawals:
            withdrawn += units
            continue
        paid_to[to] += units
        if (log.transaction, to) in collections:
            collected += units
        elif (log.transaction, to) not in payments:
            unexplained.append(f"{units} units left for {to} in {log.transaction} without a payment event")
    paid = sum(paid_to.values())
    return _Flows(deposited, bonded, unsolicited, paid, collected, withdrawn, dict(paid_to), tuple(unexplained))


def _came_in(incoming: Sequence[Log], events: Sequence[Log], scale: int) -> tuple[int, int, int, list[str]]:
    """Token units deposited, bonded and unsolicited, and what events book but the token's logs do not bear out.

    A transfer and what it is for share their transaction and the account that paid: Deposited's second argument, the
    disputing tenant, Transfer's first.
    """
    arrived: dict[tuple[str, str], int] = defaultdict(int)
    for log in incoming:
        arrived[log.transaction, log.address(1)] += log.number(0)
    booked: dict[tuple[str, str], int] = defaultdict(int)
    sums = {_DEPOSITED: 0, _DISPUTED: 0, _EXIT_DISPUTED: 0}
    for log in events:
        place = _PAID_IN.get(log.topics[0])
        if place is not None:
            units = log.number(place[1]) * scale
            sums[log.topics[0]] += units
            booked[log.transaction, log.address(place[0])] += units
    problems = [
        f"{units} units are booked as deposited by {sender} in {transaction}, {arrived[transaction, sender]} came in"
        for (transaction, sender), units in booked.items()
        if arrived[transaction, sender] < units
    ]
    bonded = sums[_DISPUTED] + sums[_EXIT_DISPUTED]
    return sums[_DEPOSITED], bonded, sum(arrived.values()) - sum(booked.values()), problems


def _named(events: Sequence[Log], places: Mapping[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    """The distinct indexed arguments at these places of these events, in order of appearance."""
    return list(
        dict.fromkeys(
            tuple(log.address(place) for place in places[log.topics[0]]) for log in events if log.topics[0] in places
        )
    )


_TRANSFER: Final = event("Transfer(address,address,uint256)")
_DEPOSITED: Final = event("Deposited(address,address,uint64)")
_WITHDRAWN: Final = event("Withdrawn(address,address,uint64)")
_CREDIT_PAID: Final = event("CreditPaid(uint32,address,address,uint64)")
_CREDIT_OWED: Final = event("CreditOwed(uint32,address,address,uint64)")
_COLLECTED: Final = event("Collected(address,address,uint64)")
_DISPUTED: Final = event("Disputed(uint32,address,address,uint64,uint64,uint64,uint40,bytes32)")
_EXIT_STARTED: Final = event("ExitStarted(address,address,uint64,uint64,uint40,uint40,bytes32)")
_EXIT_DISPUTED: Final = event("ExitDisputed(address,address,uint64,bytes32)")
_PAID_IN: Final = {_DEPOSITED: (2, 0), _DISPUTED: (2, 1), _EXIT_DISPUTED: (1, 0)}
"""Events that say that money came in: the topic of who paid it, and the word of the data that says how much."""
