"""Until when a tenant's money lasts: what running work may still cost against what cannot leave unbilled; pure.

Work is paid for some time after it is done: the next epoch is posted within the longest epoch, waits while the one
before it is in its challenge window, and may meet a pause. That delay is the *lag*. An announced withdrawal, or a lower
spend limit, holds after NOTICE, which the contract makes longer than the lag. So running work may count on that money
until its notice ends less the lag: all that is done before is debited while the money is still there, and all that is
done later is measured against what stays. New work counts on it no more from the announcement on.

The spend limit is a rate: one epoch takes at most so much. Running work may be EPOCHS_AHEAD debits behind, since an
epoch that the guardian cancels comes back on top of what was admitted since; NOTICE has room for that many challenge
windows. Until a debit is seen, none is hoped for: who burns more than the limit per epoch runs against it and stops.

Not covered, since nothing here could cover it: a guardian that cancels epoch after epoch while a notice runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fedgpu_operator.domain.money import NOTHING, SECONDS_PER_HOUR, MicroUSD
from fedgpu_operator.domain.settlement import AccountState
from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS

EPOCHS_AHEAD: Final = 2
"""Debits that running work may be behind; the lag has a challenge window for each."""
MAX_PAUSE: Final = 3 * 86_400
"""Seconds that the contract can be paused for (its MAX_PAUSE): no epoch is posted then, and notices go on."""
RELIEF: Final = (5, 4)
"""A warning is taken back only this far above its threshold, so that a debit now and then does not make it flicker."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Seconds before the end of the money: `warn` tells the tenant, `checkpoint` asks the work to save itself.

    `lag` is the longest that done work waits for its debit, see `lag_of`. Until it is known it is as long as any.
    """

    warn: float = 86_400
    checkpoint: float = 900
    lag: float = float("inf")


def lag_of(longest_epoch: float, challenge: float) -> float:
    """Seconds from work to its debit at the latest: until its reading, one epoch, EPOCHS_AHEAD windows, and a pause."""
    return LONGEST_UNWRITTEN_SECONDS + longest_epoch + EPOCHS_AHEAD * challenge + MAX_PAUSE


@dataclass(frozen=True, slots=True)
class Burn:
    """One open attempt: µUSD per hour over all its GPUs, and the seconds that it may still be billed for."""

    rate: MicroUSD
    seconds: int


@dataclass(frozen=True, slots=True)
class Cover:
    """What stands behind work that is not debited yet, µUSD.

    `balance` and `limit` are what stays after all that is announced; `leaving` counts on top of the balance for
    `leaving_in` seconds more, and `former_limit` holds in place of `limit` for `limit_in` seconds more.
    """

    balance: MicroUSD
    limit: MicroUSD
    leaving: MicroUSD = NOTHING
    leaving_in: int = 0
    former_limit: MicroUSD = NOTHING
    limit_in: int = 0

    def after(self, seconds: int) -> MicroUSD:
        """The most that may be accrued and not debited in the second that begins so many seconds from now."""
        balance = self.balance + (self.leaving if seconds < self.leaving_in else 0)
        limit = max(self.limit, self.former_limit) if seconds < self.limit_in else self.limit
        return MicroUSD(min(balance, EPOCHS_AHEAD * limit))


def cover_of(account: AccountState, now: int, lag: float) -> Cover:
    """The cover of an account at chain time `now` (Unix seconds); see the module's docstring for `lag`."""
    leaving = min(account.withdraw_units, account.balance) if account.withdraw_at else NOTHING
    lower = min(account.limit, account.new_limit) if account.limit_at else account.limit
    return Cover(
        balance=MicroUSD(account.balance - leaving),
        limit=lower,
        leaving=leaving,
        leaving_in=_left(account.withdraw_at, now, lag),
        former_limit=account.limit,
        limit_in=_left(account.limit_at, now, lag) if lower < account.limit else 0,
    )


def horizon(undebited: int, burns: Sequence[Burn], cover: Cover) -> int | None:
    """Whole seconds that running work is covered for; None if all of it is covered to its end.

    `undebited` is µUSD·s/h of work that is done and not debited. It is taken that nothing is debited meanwhile: that
    leaves the answer as it is if the balance is what ends, and makes it too early where it is the spend limit.
    """
    ending: dict[int, int] = defaultdict(int)
    for burn in burns:
        if burn.rate and burn.seconds > 0:
            ending[burn.seconds] += burn.rate
    last = max(ending, default=0)
    debt, since, rate = undebited, 0, sum(ending.values())
    for until in sorted(change for change in {*ending, cover.leaving_in, cover.limit_in} if 0 < change <= last):
        room = SECONDS_PER_HOUR * cover.after(since) - debt
        if rate * (until - since) > room:
            return since + max(0, room) // rate
        debt, since, rate = debt + rate * (until - since), until, rate - ending.get(until, 0)
    return None


def shortfall(undebited: int, burns: Sequence[Burn], cover: Cover) -> tuple[MicroUSD, MicroUSD]:
    """(deposit, spend limit) in µUSD that would cover all running work to its end; 0 if there is enough of it."""
    worst = undebited + sum(burn.rate * max(0, burn.seconds) for burn in burns)
    need = -(-worst // SECONDS_PER_HOUR)
    limit = -(-need // EPOCHS_AHEAD)
    return MicroUSD(max(0, need - cover.balance)), MicroUSD(limit if limit > cover.limit else 0)


@dataclass(frozen=True, slots=True)
class CoveragePlan:
    """Who may run to its end: `secured` are positions among the burns; the others may go on for `lasts` seconds.

    `lasts` is None if there are no others.
    """

    secured: frozenset[int]
    lasts: int | None


def plan(undebited: int, ending: Sequence[Burn], burns: Sequence[Burn], cover: Cover) -> CoveragePlan:
    """Share what there is among running work, whose order is its right of way: the oldest first.

    From the first to the last, each is secured that is covered to its end beside those secured before it. The others
    go on with what these leave over, and must be at their end together. So what is stopped is as little and as young
    as can be, and once it has stopped all that runs is covered to its end. `ending` has been stopped already.
    """
    secured: list[int] = []

    def fits(positions: Sequence[int], others: Sequence[int] = (), seconds: int = 0) -> bool:
        whole = [burns[position] for position in positions]
        cut = [Burn(burns[position].rate, min(seconds, burns[position].seconds)) for position in others]
        return horizon(undebited, [*ending, *whole, *cut], cover) is None

    def secure(block: range) -> None:
        """All of a block at once where it fits: with few that do not fit, few sums are made."""
        if fits([*secured, *block]):
            secured.extend(block)
        elif len(block) > 1:
            half = len(block) // 2
            secure(block[:half])
            secure(block[half:])

    secure(range(len(burns)))
    kept = frozenset(secured)
    others = [position for position in range(len(burns)) if position not in kept]
    if not others:
        return CoveragePlan(kept, None)
    longest = range(1 + max(burns[position].seconds for position in others))
    refused = bisect_left(longest, True, key=lambda seconds: not fits(secured, others, seconds))
    return CoveragePlan(kept, max(0, refused - 1))


class FundingStage(IntEnum):
    """How urgent it is; a higher one includes what the lower ones ask for."""

    FUNDED = 0
    LOW = 1
    CHECKPOINT = 2
    EXHAUSTED = 3


def stage_of(lasts: int | None, thresholds: Thresholds, *, margin: float, was_low: bool = False) -> FundingStage:
    """Where work stands that is covered for `lasts` seconds; it must be told to stop `margin` seconds before."""
    if lasts is None:
        return FundingStage.FUNDED
    if lasts <= margin:
        return FundingStage.EXHAUSTED
    if lasts <= thresholds.checkpoint + margin:
        return FundingStage.CHECKPOINT
    more, of = RELIEF
    low = thresholds.warn * more / of if was_low else thresholds.warn
    return FundingStage.LOW if lasts <= low else FundingStage.FUNDED


def _left(at: int, now: int, lag: float) -> int:
    """Seconds until `at` less the lag; 0 if nothing is announced or they are over."""
    return max(0, int(at - now - lag)) if at and lag < at - now else 0
