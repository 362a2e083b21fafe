"""Disputes and exits, on top of everything else: the machine that the test runs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.contract.escrow_model.chainside import Tree
from tests.contract.escrow_model.machine import ALICE, MONEY, SEED, WHICH, WHO, Company
from tests.contract.escrow_model.model import CHALLENGE, DAY, EXIT_AFTER, HOUR, NOBODY, RULING
from tests.contract.escrow_model.quarrels import bond_for


class EscrowMachine(Company):
    """Tenants that dispute, keepers that answer and close, an arbiter, and providers that leave."""

    # ------------------------------------------------------------------ disputes

    @precondition(lambda self: any(self._pending(who) for who in range(3)))
    @rule(
        who=WHO,
        which=st.sampled_from([0, 1, 2, 2]),
        part=st.integers(1, 8),
        total=MONEY,
        honest=st.booleans(),
        refund=st.integers(0, 16),
        to_the_end=st.booleans(),
    )
    def quarrel(self, who: int, which: int, part: int, total: int, honest: bool, refund: int, to_the_end: bool) -> None:
        """A dispute as most go: answered, ruled on or not, and closed at once or left open for others to come."""
        open_ones = len(self.model.disputes)
        self.dispute(who, which, part)
        if len(self.model.disputes) == open_ones:
            return
        self.answer(open_ones, [total, total // 2], honest)
        if refund <= 8:
            self.judge(open_ones, refund, True)
        if to_the_end:
            self.close(open_ones, True)

    @rule(who=WHO, which=WHICH, units=MONEY, disputed=st.booleans(), refund=st.integers(0, 16))
    def leave(self, who: int, which: int, units: int, disputed: bool, refund: int) -> None:
        """An exit as most go, with work that no epoch has billed."""
        open_ones = len(self.model.exits)
        self.work(who, [units, units])
        self.exit(who, which, units, HOUR)
        if len(self.model.exits) == open_ones:
            return
        if disputed:
            self.dispute_exit(open_ones)
            if refund <= 8:
                self.judge_exit(open_ones, refund, True)
        if refund % 2:
            self.finish_exit(open_ones, RULING + CHALLENGE)

    @precondition(lambda self: self.model.in_window)
    @rule(who=WHO, which=st.integers(0, 2), part=st.integers(1, 9))
    def dispute(self, who: int, which: int, part: int) -> None:
        # Whoever has something to dispute, from `who` on.
        who = next((each % 3 for each in (who, who + 1, who + 2) if self._pending(each % 3)), who)
        name = self.tenants[who]
        provider = NOBODY if which == 2 else self.providers[which]
        most = self._pending(who)
        credit: Any = ("", (), ())
        if which < 2:
            lines = self.model.epochs[self.model.head].lines
            most = min(most, self.model.books[name, provider].unpaid(lines[name, provider]))
            credit = Tree.of(lines, self.providers).credit(provider)
        amount = most + 1 if part == 9 else most * part // 8
        self.side.mint(name, bond_for(amount))
        call = self.calls.dispute(provider, amount, b"\2" * 32, credit[1], who, credit[2])
        self.both("dispute", name, call, lambda: self.model.dispute(name, provider, amount))

    def _pending(self, who: int) -> int:
        return self.model.roll(self.tenants[who]).pending

    @precondition(lambda self: self.model.disputes)
    @rule(seed=SEED, false=st.lists(st.integers(0, 2 * 10**9), min_size=2, max_size=2), honest=st.booleans())
    def answer(self, seed: int, false: list[int], honest: bool) -> None:
        """With true receipts, or with made up ones of meter and provider together, never about the first tenant."""
        epoch, name, provider = self._some_dispute(seed)
        honest = honest or name == self.tenants[ALICE]
        answers, totals = [], {}
        for which in sorted((0, 1), key=lambda index: int(self.providers[index], 16)):
            one = self.providers[which]
            if provider not in (NOBODY, one):
                continue
            totals[one] = self.earned[name, one] if honest else false[which]
            credit = Tree.of(self.model.epochs[epoch].lines, self.providers).credit(one)
            receipt, sigs = self.side.receipt(name, which, totals[one], self.side.now)
            answers.append((one, credit[1], self.tenants.index(name), credit[2], receipt, sigs))
        call = self.calls.answer(epoch, name, provider, answers)
        self.both("answer", self.side.anybody, call, lambda: self.model.answer(epoch, name, provider, totals))

    @precondition(lambda self: self.model.disputes)
    @rule(seed=SEED, part=st.integers(0, 9), patient=st.booleans())
    def judge(self, seed: int, part: int, patient: bool) -> None:
        epoch, name, provider = self._some_dispute(seed)
        if patient and self.model.in_window:
            self.warp_to_activation(0)
        amount = self.model.disputes[epoch, name, provider].amount
        refund = amount + 1 if part == 9 else amount * part // 8
        call = self.calls.rule(epoch, name, provider, refund)
        step = lambda: self.model.rule(epoch, name, provider, refund)  # noqa: E731
        self.both("rule", self.side.arbiter, call, step, once=True)

    @precondition(lambda self: self.model.disputes)
    @rule(seed=SEED, patient=st.booleans())
    def close(self, seed: int, patient: bool) -> None:
        epoch, name, provider = self._some_dispute(seed)
        left = self.model.epochs[epoch].active_at + RULING - self.model.clock
        if patient and left > 1:
            self.warp(left - 1)
        self._close(epoch, name, provider)

    def _some_dispute(self, seed: int) -> tuple[int, str, str]:
        keys = list(self.model.disputes)
        return keys[seed % len(keys)]

    # ------------------------------------------------------------------ exits

    @rule(who=WHO, which=WHICH, more=st.integers(-(10**8), 10**9), age=st.integers(-HOUR // 4, 2 * DAY))
    def exit(self, who: int, which: int, more: int, age: int) -> None:
        name, provider = self.tenants[who], self.providers[which]
        total = max(0, self.earned[name, provider] + (0 if who == ALICE else more))
        end = self.side.now - EXIT_AFTER - age
        receipt, sigs = self.side.receipt(name, which, total, end)
        allocated = self.model.roll(name).allocated
        step = lambda: self.law.left(name, provider, total, self.model.exit(name, provider, total, end))  # noqa: E731
        if self.both("exit", provider, self.calls.exit(receipt, sigs), step):
            self.law.drained(name, allocated - self.model.tenants[name].allocated)

    @precondition(lambda self: self.model.exits)
    @rule(seed=SEED)
    def dispute_exit(self, seed: int) -> None:
        name, provider = list(self.model.exits)[seed % len(self.model.exits)]
        self.side.mint(name, bond_for(self.model.exits[name, provider].amount))
        call = self.calls.disputeExit(provider, b"\3" * 32)
        self.both("dispute exit", name, call, lambda: self.model.dispute_exit(name, provider))

    @precondition(lambda self: self.model.exits)
    @rule(seed=SEED, part=st.integers(0, 9), patient=st.booleans())
    def judge_exit(self, seed: int, part: int, patient: bool) -> None:
        name, provider = list(self.model.exits)[seed % len(self.model.exits)]
        amount = self.model.exits[name, provider].amount
        left = self.model.exits[name, provider].active_at - self.model.clock
        if patient and left > 1:
            self.warp(left - 1)
        refund = amount + 1 if part == 9 else amount * part // 8
        call = self.calls.ruleExit(name, provider, refund)
        self.both("rule exit", self.side.arbiter, call, lambda: self.model.rule_exit(name, provider, refund))

    @precondition(lambda self: self.model.exits)
    @rule(seed=SEED, span=st.sampled_from([1, CHALLENGE, RULING + CHALLENGE]))
    def finish_exit(self, seed: int, span: int) -> None:
        name, provider = list(self.model.exits)[seed % len(self.model.exits)]
        self.warp(span)
        call = self.calls.finishExit(name, provider)
        self.both("finish exit", self.side.anybody, call, lambda: self.model.finish_exit(name, provider))
