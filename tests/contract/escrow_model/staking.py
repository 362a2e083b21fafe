"""The provider's stake as a state machine: bonded, leaving, locked and slashed on chain and in plain Python alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.contract.escrow_model.chainside import STAKE_DELAY, STAKE_LOCK, ChainSide
from tests.contract.escrow_model.model import DAY, Refused, must

UNITS = st.integers(0, 10**9)


class StakeMachine(RuleBasedStateMachine):
    """One provider, whose stake others may pay."""

    side: ClassVar[ChainSide]

    def __init__(self) -> None:
        super().__init__()
        self.side.reset()
        self.provider = self.side.providers[0]
        self.bonded = self.unbonding = self.unbond_at = self.locked_until = 0
        self.taken = self.swept = self.out = self.paid_in = 0
        self.locks: set[int] = set()

    def both(self, sender: str, call: Any, step: Callable[[], None]) -> None:
        accepted = self.side.send(sender, call)
        try:
            step()
        except Refused:
            assert not accepted, call
        else:
            assert accepted, call

    @property
    def calls(self) -> Any:
        return self.side.stake.functions

    @rule(units=UNITS)
    def bond(self, units: int) -> None:
        def step() -> None:
            must(units > 0)
            self.bonded += units
            self.paid_in += units

        self.side.mint(self.side.anybody, units)
        self.both(self.side.anybody, self.calls.bond(self.provider, units), step)

    @rule(part=st.integers(0, 9))
    def unbond(self, part: int) -> None:
        units = self.bonded + 1 if part == 9 else self.bonded * part // 8

        def step() -> None:
            must(0 < units <= self.bonded)
            self.bonded -= units
            self.unbonding += units
            self.unbond_at = self.side.now + STAKE_DELAY

        self.both(self.provider, self.calls.unbond(units), step)

    @rule()
    def rebond(self) -> None:
        def step() -> None:
            must(self.unbonding > 0)
            self.bonded += self.unbonding
            self.unbonding = self.unbond_at = 0

        self.both(self.provider, self.calls.rebond(), step)

    @rule()
    def withdraw(self) -> None:
        def step() -> None:
            latest = max(self.unbond_at, min(self.locked_until, self.unbond_at + STAKE_LOCK))
            must(self.unbonding > 0 and self.side.now >= latest)
            self.out += self.unbonding
            self.unbonding = self.unbond_at = 0

        self.both(self.provider, self.calls.withdraw(self.side.till), step)

    @rule(units=UNITS)
    def slash(self, units: int) -> None:
        def step() -> None:
            first = min(units, self.bonded)
            rest = min(units - first, self.unbonding)
            self.bonded -= first
            self.unbonding -= rest
            self.unbond_at = self.unbond_at if self.unbonding else 0
            self.taken += first + rest

        self.both(self.side.settler, self.calls.slash(self.provider, units, b"\1" * 32), step)

    @rule(dispute=st.integers(0, 5))
    def lock(self, dispute: int) -> None:
        def step() -> None:
            must(dispute not in self.locks)
            self.locks.add(dispute)
            self.locked_until = self.side.now + STAKE_LOCK

        self.both(self.side.arbiter, self.calls.lock(self.provider, dispute.to_bytes(32, "big")), step)

    @rule()
    def sweep(self) -> None:
        def step() -> None:
            must(self.taken > 0)
            self.swept += self.taken
            self.taken = 0

        self.both(self.side.anybody, self.calls.sweep(), step)

    @rule(span=st.sampled_from([DAY, STAKE_DELAY - DAY, STAKE_DELAY, STAKE_LOCK]))
    def warp(self, span: int) -> None:
        self.side.warp(span)

    @invariant()
    def a_slash_takes_no_more_than_the_stake(self) -> None:
        token = self.side.token.functions
        stake, taken, there, reserve = self.side.read(
            self.calls.stakeOf(self.provider),
            self.calls.taken(),
            token.balanceOf(self.side.stake.address),
            token.balanceOf(self.side.reserve),
        )
        assert tuple(stake) == (self.bonded, self.unbonding, self.unbond_at, self.locked_until)
        assert taken == self.taken
        assert reserve == self.swept
        assert there == self.bonded + self.unbonding + self.taken == self.paid_in - self.out - self.swept
