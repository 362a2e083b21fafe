"""The invariants of docs/contracts-audit.md, read from the chain after every action, and the settler that is honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.contract.escrow_model.chainside import ChainSide
from tests.contract.escrow_model.model import CHALLENGE, MAX_PAUSE, NOBODY, Dispute, Pair
from tests.contract.escrow_model.quarrels import FullModel


class Rules:
    """What the chain shows is what the model says, and what the model says obeys the ten."""

    def __init__(self, side: ChainSide, model: FullModel, earned: Mapping[Pair, int]) -> None:
        self.side, self.model, self.earned = side, model, earned
        self.alice = next(iter(model.tenants))
        self.most_stated: dict[Pair, int] = dict.fromkeys(model.books, 0)
        self.before: dict[Pair, tuple[int, int]] = dict.fromkeys(model.books, (0, 0))
        self.seq = 0
        self.drawn: dict[str, tuple[int, int]] = {}
        # What an honest root may promise beyond what is set aside: refunds and exits since it was posted.
        self.excused = 0
        self.excused_at: dict[int, int] = {0: 0}

    # ------------------------------------------------------------------ the honest settler

    def honest(self, name: str) -> tuple[int, dict[Pair, int]]:
        """Debit by the equation, and lines that promise what is funded; the present root's promises come first."""
        tenant = self.model.roll(name)
        pairs = [pair for pair in self.model.books if pair[0] == name]
        unpaid = {pair: self.model.books[pair].unpaid(self.earned[pair]) for pair in pairs}
        short = sum(unpaid.values()) - tenant.allocated - tenant.pending - tenant.held
        debit = max(0, min(short, tenant.limit, tenant.balance))
        left, lines = tenant.allocated + debit, {}
        first = {pair: min(self.payable(pair), unpaid[pair]) for pair in pairs}
        shares = dict.fromkeys(pairs, 0)
        for wanted in (first, unpaid):
            for pair in pairs:
                more = min(wanted[pair] - shares[pair], left)
                shares[pair] += more
                left -= more
        for pair in pairs:
            books = self.model.books[pair]
            lines[pair] = books.paid + books.deducted + books.reserved + shares[pair]
        return debit, lines

    def lies(self, name: str, by: Sequence[int]) -> dict[Pair, int]:
        """Lines that have nothing to do with what was earned."""
        pairs = [pair for pair in self.model.books if pair[0] == name]
        books = [self.model.books[pair] for pair in pairs]
        return {
            pair: max(0, book.paid + book.deducted + book.reserved + lie)
            for pair, book, lie in zip(pairs, books, by, strict=True)
        }

    def payable(self, pair: Pair) -> int:
        """What the head's line of the pair would pay if its money were there."""
        line = self.model.epochs[self.model.head].lines.get(pair, 0)
        return self.model.books[pair].unpaid(line) if self.model.head > self.model.books[pair].dead else 0

    # ------------------------------------------------------------------ what has happened

    def posted(self, lines: Mapping[Pair, int], debits: Mapping[str, int]) -> None:
        """Invariant 6: no debit beyond its tenant's limit was taken."""
        head = self.model.epochs[self.model.head]
        for name, amount in head.debits.items():
            assert amount == debits[name] <= self.model.tenants[name].limit, "a debit beyond the limit"
        self.excused_at[self.model.head] = self.excused
        for pair, total in lines.items():
            self.most_stated[pair] = max(self.most_stated[pair], total)

    def closed(self, dispute: Dispute) -> None:
        """Invariant 7: what went back was disputed, and what was disputed was debited."""
        epoch = self.model.epochs[dispute.epoch]
        assert dispute.shown <= dispute.amount
        assert epoch.disputed[dispute.tenant] <= epoch.debits[dispute.tenant], "disputed more than was debited"
        if dispute.tenant == self.alice and dispute.provider == NOBODY and not epoch.cancelled:
            self.excused += dispute.amount - dispute.shown

    def left(self, name: str, provider: str, total: int, drawn: int) -> None:
        """Invariant 6: an exit draws at most the limit from free money, once in CHALLENGE."""
        self.most_stated[name, provider] = max(self.most_stated[name, provider], total)
        if not drawn:
            return
        assert drawn <= self.model.tenants[name].limit, "an exit drew beyond the limit"
        last = self.drawn.get(name, (-CHALLENGE, 0))
        assert self.model.clock >= last[0] + CHALLENGE, "exits drew twice in one CHALLENGE"
        self.drawn[name] = (self.model.clock, drawn)

    def drained(self, name: str, allocated: int) -> None:
        """An exit took money that the root had promised to others as well."""
        if name == self.alice:
            self.excused += allocated

    # ------------------------------------------------------------------ what must hold

    def hold(self) -> None:
        """Read everything once and compare."""
        calls, token = self.side.escrow.functions, self.side.token.functions
        names, pairs = list(self.model.tenants), list(self.model.books)
        accounts, sides, held, books, state, clock, there, *owed = self.side.read(
            calls.accountsOf(names),
            calls.sidesOf(names),
            calls.heldOf(names),
            calls.pairsOf([tenant for tenant, _ in pairs], [provider for _, provider in pairs]),
            calls.state(),
            calls.clock(),
            token.balanceOf(self.side.escrow.address),
            *(calls.owed(who) for who in self.model.owed),
        )
        self._accounts(names, accounts, sides, held)
        self._pairs(pairs, books)
        self._state(state, clock)
        self._money(there, owed)
        self._honest_root()

    def _accounts(self, names: Sequence[str], accounts: Any, sides: Any, held: Any) -> None:
        """Invariants 3 and 5: every account is where its own actions put it, to the unit."""
        for name, account, side, holds in zip(names, accounts, sides, held, strict=True):
            tenant = self.model.roll(name)
            assert tuple(account[:4]) == (tenant.balance, tenant.allocated, tenant.pending, tenant.limit), name
            assert holds == tenant.held
            assert side[-1] == tenant.exit_from

    def _pairs(self, pairs: Sequence[Pair], there: Any) -> None:
        """Invariant 4: nothing falls, and nothing exceeds what a root or a receipt once said."""
        for pair, (paid, deducted, reserved, dead) in zip(pairs, there, strict=True):
            books = self.model.books[pair]
            assert (paid, deducted, reserved, dead) == (books.paid, books.deducted, books.reserved, books.dead), pair
            before = self.before[pair]
            assert paid >= before[0] and deducted >= before[1], "paid or deducted fell"  # noqa: PT018 (one rule)
            assert paid + deducted + reserved <= self.most_stated[pair], "more than anybody ever stated"
            self.before[pair] = (paid, deducted)

    def _state(self, state: Any, clock: int) -> None:
        """Invariants 8 and 9: a pause ends by itself, seq rises with every post, cancel and exit."""
        assert tuple(state[:3]) == (self.model.last, self.model.head, self.model.seq)
        assert clock == self.model.clock
        assert state[4] - state[3] <= MAX_PAUSE
        assert state[2] >= self.seq
        self.seq = state[2]

    def _money(self, there: int, owed: Sequence[int]) -> None:
        """Invariant 1: the token's balance is the books, and in less out."""
        tenants, books = self.model.tenants.values(), self.model.books.values()
        assert owed == list(self.model.owed.values())
        bonds = [dispute.bond for dispute in self.model.disputes.values()]
        bonds += [leaving.bond for leaving in self.model.exits.values()]
        whole = sum(t.balance + t.allocated + t.pending + t.held for t in tenants)
        whole += sum(book.reserved for book in books) + sum(bonds) + sum(owed)
        assert there == whole == self.model.inflow - self.model.outflow

    def _honest_root(self) -> None:
        """Invariant 2: what the root promises of an honestly served tenant is set aside."""
        tenant = self.model.roll(self.alice)
        promised = sum(self.payable(pair) for pair in self.model.books if pair[0] == self.alice)
        excused = self.excused - self.excused_at[self.model.head]
        assert promised <= tenant.allocated + tenant.pending + tenant.held + excused
