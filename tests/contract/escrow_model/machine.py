"""Every call of the escrow as a rule: sent to the chain and told to the model, which must agree on what counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.contract.escrow_model.chainside import ChainSide, Tree
from tests.contract.escrow_model.model import (
    CHALLENGE,
    DAY,
    EXIT_AFTER,
    HOUR,
    LONGEST,
    NOTICE,
    RULING,
    Pair,
    Refused,
)
from tests.contract.escrow_model.quarrels import FullModel
from tests.contract.escrow_model.rules import Rules

WHO, WHICH = st.integers(0, 2), st.integers(0, 1)
MONEY = st.integers(1, 10**9)
SEED = st.integers(0, 2**32)
ALICE = 0
"""The tenant that everybody serves honestly."""


class Company(RuleBasedStateMachine):
    """Money, epochs, time and attackers; what must hold between any two calls is in rules.py."""

    side: ClassVar[ChainSide]
    reached: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.side.reset()
        self.tenants: list[str] = [tenant.address for tenant in self.side.tenants]
        self.providers: list[str] = list(self.side.providers)
        self.model = FullModel(self.tenants, self.providers, self.side.reserve, self.side.now)
        self.earned: dict[Pair, int] = dict.fromkeys(self.model.books, 0)
        self.law = Rules(self.side, self.model, self.earned)
        self.replays: list[tuple[str, Any]] = []
        self.nonce = 0

    def both(self, name: str, sender: str, call: Any, step: Callable[[], object], *, once: bool = False) -> bool:
        """Send and tell; they agree, or one of them is wrong. `once`: what was accepted may never be again."""
        accepted = self.side.send(sender, call)
        self.model.now = self.side.now
        try:
            step()
            expected = True
        except Refused:
            expected = False
        assert accepted == expected, f"{name}: the chain says {accepted}, the model {expected}"
        self.reached[name if accepted else f"{name} refused"] += 1
        if accepted and once:
            self.replays.append((sender, call))
        return accepted

    @property
    def calls(self) -> Any:
        """The escrow's functions."""
        return self.side.escrow.functions

    # ------------------------------------------------------------------ money

    @initialize(limits=st.lists(MONEY, min_size=3, max_size=3))
    def begin(self, limits: list[int]) -> None:
        for who, limit in enumerate(limits):
            self.deposit(who, 10**9)
            self.limit(who, 10**8 + limit // 2)
            self.work(who, [limit, limit // 2])
        self.post([0] * 4, [0, 0], True, 0, True)

    @rule(kind=st.integers(0, 11), who=WHO, units=MONEY)
    def money(self, kind: int, who: int, units: int) -> None:
        """One of the calls that need no company; more often work, so that there is something to settle."""
        acts: list[Callable[[], None]] = [
            lambda: self.deposit(who, units),
            lambda: self.deposit_with_authorization(who, units),
            lambda: self.limit(who, units),
            lambda: self.announce(who, units if units % 8 else 0),
            lambda: self.apply_limit(who),
            lambda: self.withdraw(who),
            lambda: self.withdraw(who),
            lambda: self.collect(units),
            lambda: self.limit(who, units // 16),
        ]
        if kind < len(acts):
            acts[kind]()
        else:
            self.work(who, [units, units // 2])

    @rule(kind=st.integers(0, 15), nudge=st.integers(-2, 0))
    def time_passes(self, kind: int, nudge: int) -> None:
        """A span that matters, the edge of the window, or the guardian's pause."""
        spans = [60, HOUR // 2, CHALLENGE, RULING // 2, RULING, EXIT_AFTER + LONGEST, NOTICE, NOTICE, 31 * DAY]
        if kind < len(spans):
            self.warp(spans[kind])
        elif kind == len(spans):
            self.pause()
        elif kind == len(spans) + 1 and self.model.paused_until:
            self.unpause()
        elif self.model.in_window:
            self.warp_to_activation(nudge)

    def deposit(self, who: int, units: int) -> None:
        name = self.tenants[who]
        self.side.mint(name, units)
        self.both("deposit", name, self.calls.deposit(name, units), lambda: self.model.deposit(name, units))

    def deposit_with_authorization(self, who: int, units: int) -> None:
        name, self.nonce = self.tenants[who], self.nonce + 1
        self.side.mint(name, units)
        nonce = self.nonce.to_bytes(32, "big")
        signature = self.side.authorization(self.side.tenants[who], units, nonce)
        call = self.calls.depositWithAuthorization(name, units, 0, 2**40, nonce, signature)
        step = lambda: self.model.deposit(name, units)  # noqa: E731 (as in every rule here)
        self.both("authorized deposit", self.side.anybody, call, step, once=True)

    def limit(self, who: int, limit: int) -> None:
        name = self.tenants[who]
        self.both("limit", name, self.calls.setSpendLimit(limit), lambda: self.model.set_limit(name, limit))

    def apply_limit(self, who: int) -> None:
        name = self.tenants[who]
        self.both("lower limit", name, self.calls.applySpendLimit(), lambda: self.model.apply_limit(name))

    def announce(self, who: int, units: int) -> None:
        name = self.tenants[who]
        step = lambda: self.model.request_withdraw(name, units)  # noqa: E731
        self.both("announce", name, self.calls.requestWithdraw(units), step)

    def withdraw(self, who: int) -> None:
        """Invariant 8: nothing but its own notice can hold it up."""
        name = self.tenants[who]
        word = "withdraw while paused" if self.model.paused else "withdraw"
        self.both(word, name, self.calls.withdraw(name), lambda: self.model.withdraw(name))

    def collect(self, seed: int) -> None:
        waiting = [who for who, units in self.model.owed.items() if units] or list(self.model.owed)
        who = waiting[seed % len(waiting)]
        self.both("collect", who, self.calls.collect(self.side.till), lambda: self.model.collect(who))

    # ------------------------------------------------------------------ epochs

    def work(self, who: int, units: list[int]) -> None:
        for provider, more in zip(self.providers, units, strict=True):
            self.earned[self.tenants[who], provider] += more // 4

    @rule(
        lies=st.lists(st.integers(-(10**8), 10**9), min_size=4, max_size=4),
        debits=st.lists(st.integers(0, 10**9), min_size=2, max_size=2),
        honest=st.booleans(),
        late=st.sampled_from([0, 0, 0, 0, 1]),
        patient=st.sampled_from([True, True, True, False]),
    )
    def post(self, lies: list[int], debits: list[int], honest: bool, late: int, patient: bool) -> None:
        """The settler; it may lie about all but the first tenant, be a step behind, and too early."""
        if patient and self.model.in_window:
            self.warp_to_activation(0)
        self._close_cancelled()
        lines: dict[Pair, int] = {}
        taken: dict[str, int] = {}
        for who, name in enumerate(self.tenants):
            if who == ALICE or honest:
                debit, shown = self.law.honest(name)
            else:
                debit, shown = debits[who - 1], self.law.lies(name, lies[2 * who - 2 : 2 * who])
            lines |= shown
            if debit:
                taken[name] = debit
        tree = Tree.of(lines, self.providers)
        seq, prev = self.model.seq - late, self.model.epochs[self.model.head].root
        if seq < 0:
            return
        call = self.calls.postEpoch(seq, prev, tree.root, b"\1" * 32, self.model.clock, list(taken.items()))
        step = lambda: self.model.post(seq, prev, tree.root, lines, taken)  # noqa: E731
        if self.both("post", self.side.settler, call, step, once=True):
            self.law.posted(lines, taken)

    def _close_cancelled(self) -> None:
        """What the honest settler does first: a cancelled epoch holds nothing back any more."""
        for epoch, name, provider in list(self.model.disputes):
            if name == self.tenants[ALICE] and self.model.epochs[epoch].cancelled and not self.model.paused:
                self._close(epoch, name, provider)

    def _close(self, epoch: int, name: str, provider: str) -> None:
        call = self.calls.close(epoch, name, provider)
        lost = self.model.disputes[epoch, name, provider]
        step = lambda: self.model.close(epoch, name, provider)  # noqa: E731
        if self.both("close", self.side.anybody, call, step, once=True):
            self.law.closed(lost)

    @precondition(lambda self: self.model.in_window)
    @rule()
    def cancel(self) -> None:
        head = self.model.head
        step = lambda: self.model.cancel(head)  # noqa: E731
        self.both("cancel", self.side.guardian, self.calls.cancelEpoch(head), step, once=True)

    @precondition(lambda self: self.model.active)
    @rule(some=st.lists(WHICH, min_size=1, max_size=3), seed=SEED)
    def claim(self, some: list[int], seed: int) -> None:
        """Mostly of the active epoch; at once a second time, which pays nothing (invariant 4)."""
        number = self.model.active if seed % 4 else seed % (self.model.last + 1)
        if not number:
            return
        tree = Tree.of(self.model.epochs[number].lines, self.providers)
        leaves = [tree.credit(self.providers[which]) for which in some]
        lines = [((name, credit[0]), total) for credit in leaves for name, total in credit[1]]
        call = self.calls.claim(number, leaves)
        if self.both("claim", self.side.anybody, call, lambda: self.model.claim(number, lines)):
            before = self.model.outflow
            self.both("claim again", self.side.anybody, call, lambda: self.model.claim(number, lines))
            assert self.model.outflow == before, "claiming again paid"

    @precondition(lambda self: self.model.in_window and not self.model.paused)
    @rule(some=st.lists(WHICH, min_size=2, max_size=2), who=WHO, which=WHICH, units=MONEY)
    def settle(self, some: list[int], who: int, which: int, units: int) -> None:
        """What happens on most days: the window ends, everything is claimed, more is used, the next epoch is posted."""
        self.warp_to_activation(0)
        self.claim(some, 1)
        self.work(who, [units, units * which])
        self.post([units, -units, units, 0], [units // 2, units // 3], which == 0, 0, False)

    # ------------------------------------------------------------------ time and attackers

    def warp(self, span: int) -> None:
        self.side.warp(span)
        self.model.now = self.side.now

    def warp_to_activation(self, nudge: int) -> None:
        """The next call comes in the second before, at or after the end of the window."""
        left = self.model.epochs[self.model.head].active_at - self.model.clock
        self.warp(max(1, left + nudge))

    def pause(self) -> None:
        self.both("pause", self.side.guardian, self.calls.pause(), self.model.pause)

    def unpause(self) -> None:
        self.both("unpause", self.side.guardian, self.calls.unpause(), self.model.unpause)

    @precondition(lambda self: len(self.replays) > 4)
    @rule(seed=SEED, by_self=st.booleans())
    def replay(self, seed: int, by_self: bool) -> None:
        sender, call = self.replays[seed % len(self.replays)]
        assert not self.side.send(sender if by_self else self.side.anybody, call), "a replay was accepted"
        self.model.now = self.side.now
        self.reached["replay refused"] += 1

    @invariant()
    def the_ten(self) -> None:
        self.law.hold()
