"""Until when money lasts: by hand, by its laws, and in a world that tries to let it leave before it is debited."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState
from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS
from fedgpu_operator.settlement import (
    Burn,
    Cover,
    CoveragePlan,
    FundingStage,
    Thresholds,
    cover_of,
    horizon,
    lag_of,
    plan,
    shortfall,
    stage_of,
)

HOUR = 3600
PER_SECOND = 3600
"""µUSD per hour that make one µUSD per second: then nothing is rounded."""


def burn(per_second: int, seconds: int) -> Burn:
    return Burn(MicroUSD(per_second * PER_SECOND), seconds)


def cover(balance: int, limit: int = 10**9, **later: int) -> Cover:
    return Cover(MicroUSD(balance), MicroUSD(limit), **{name: MicroUSD(amount) for name, amount in later.items()})


@pytest.mark.parametrize(
    ("debt", "burns", "cover_", "lasts"),
    [
        (0, [], cover(0), None),
        (1, [], cover(0), None),
        (100, [burn(0, 50)], cover(0), None),
        (0, [burn(1, 100)], cover(100), None),
        (0, [burn(1, 100)], cover(99), 99),
        (0, [burn(1, 101)], cover(100), 100),
        (40, [burn(1, 100)], cover(100), 60),
        (0, [burn(2, 100), burn(1, 10)], cover(100), 45),
        (0, [burn(1, 100)], cover(10**6, limit=20), 40),
        (0, [burn(1, 100)], cover(10, leaving=90, leaving_in=50), 50),
        (0, [burn(1, 100)], cover(70, leaving=30, leaving_in=50), 70),
        (0, [burn(1, 100)], cover(10, leaving=90, leaving_in=100), None),
        (0, [burn(1, 100)], cover(100, limit=5, former_limit=50, limit_in=30), 30),
        (60, [burn(1, 100)], cover(50), 0),
    ],
)
def test_by_hand(debt: int, burns: list[Burn], cover_: Cover, lasts: int | None) -> None:
    assert horizon(debt * HOUR, burns, cover_) == lasts


AMOUNT = st.integers(0, 2000)
BURNS = st.lists(st.builds(burn, st.integers(0, 9), st.integers(0, 400)), max_size=5)
COVERS = st.builds(
    cover,
    AMOUNT,
    AMOUNT,
    leaving=AMOUNT,
    leaving_in=st.integers(0, 500),
    former_limit=AMOUNT,
    limit_in=st.integers(0, 500),
)


def lacks(debt: int, burns: list[Burn], behind: Cover, second: int) -> bool:
    """The definition, second by second: something is used in it that the cover of that moment does not pay."""
    used = [sum(each.rate * min(end, each.seconds) for each in burns) for end in (second, second + 1)]
    return used[1] > used[0] and debt * HOUR + used[1] > HOUR * behind.after(second)


@given(AMOUNT, BURNS, COVERS)
def test_it_is_the_first_second_that_is_not_paid_for(debt: int, burns: list[Burn], behind: Cover) -> None:
    broke = next((second for second in range(1000) if lacks(debt, burns, behind, second)), None)
    assert horizon(debt * HOUR, burns, behind) == broke


def after(lasts: int | None) -> float:
    return float("inf") if lasts is None else lasts


@given(AMOUNT, BURNS, COVERS, AMOUNT, st.builds(burn, st.integers(0, 9), st.integers(0, 400)))
def test_more_money_never_lasts_less_and_more_work_never_more(
    debt: int, burns: list[Burn], behind: Cover, extra: int, another: Burn
) -> None:
    lasts = after(horizon(debt * HOUR, burns, behind))
    richer = replace(behind, balance=MicroUSD(behind.balance + extra))
    looser = replace(richer, limit=MicroUSD(behind.limit + extra))
    assert after(horizon(debt * HOUR, burns, looser)) >= after(horizon(debt * HOUR, burns, richer)) >= lasts
    assert after(horizon(debt * HOUR, [*burns, another], behind)) <= lasts
    assert after(horizon((debt + extra) * HOUR, burns, behind)) <= lasts


@given(AMOUNT, BURNS, COVERS)
def test_the_shortfall_is_just_what_is_lacking(debt: int, burns: list[Burn], behind: Cover) -> None:
    settled = replace(behind, leaving=MicroUSD(0), former_limit=MicroUSD(0), leaving_in=0, limit_in=0)
    deposit, limit = shortfall(debt * HOUR, burns, settled)
    enough = replace(settled, balance=MicroUSD(settled.balance + deposit), limit=max(settled.limit, limit))
    assert horizon(debt * HOUR, burns, enough) is None
    if not any(each.rate and each.seconds for each in burns):
        return
    if deposit:
        assert horizon(debt * HOUR, burns, replace(enough, balance=MicroUSD(enough.balance - 1))) is not None
    if limit:
        assert horizon(debt * HOUR, burns, replace(enough, limit=MicroUSD(limit - 1))) is not None


def until(burns: list[Burn], seconds: int) -> list[Burn]:
    return [replace(each, seconds=min(each.seconds, seconds)) for each in burns]


@given(AMOUNT, BURNS, BURNS, COVERS)
def test_the_oldest_have_the_right_of_way_and_the_others_what_is_left_over(
    debt: int, ending: list[Burn], burns: list[Burn], behind: Cover
) -> None:
    made = plan(debt * HOUR, ending, burns, behind)
    taken: list[Burn] = []
    for position, each in enumerate(burns):
        if horizon(debt * HOUR, [*ending, *taken, each], behind) is None:
            taken.append(each)
        assert (position in made.secured) == (taken[-1:] == [each] and taken[-1] is each)
    others = [each for position, each in enumerate(burns) if position not in made.secured]
    assert (made.lasts is None) == (not others)
    if made.lasts is not None:
        if made.lasts:
            assert horizon(debt * HOUR, [*ending, *taken, *until(others, made.lasts)], behind) is None
        assert horizon(debt * HOUR, [*ending, *taken, *until(others, made.lasts + 1)], behind) is not None


def test_the_young_stop_in_time_for_the_old_to_finish() -> None:
    old, young = burn(1, 100), burn(9, 100)
    assert plan(0, [], [old, young], cover(1000)).lasts is None
    made = plan(0, [], [old, young], cover(640))
    assert made == CoveragePlan(frozenset({0}), 60)
    assert plan(0, [old], [young], cover(640)).lasts == 60, "what is stopping is paid first"
    made = plan(0, [], [old, young], cover(90))
    assert made == CoveragePlan(frozenset(), 9), "nobody can finish: together to the end"
    made = plan(0, [], [young, old], cover(200))
    assert made == CoveragePlan(frozenset({1}), 11), "a younger one that can finish is not held up by an older"
    made = plan(0, [], [burn(1, 100), burn(1, 20)], cover(30, leaving=40, leaving_in=25))
    assert made == CoveragePlan(frozenset({1}), 25), "what ends before the money leaves is covered"


@pytest.mark.parametrize("count", [2000])
def test_many_leases_are_planned_at_once(count: int) -> None:
    burns = [burn(1 + i % 3, 1000 + i) for i in range(count)]
    worst = sum(each.rate * each.seconds for each in burns) // HOUR
    made = plan(0, [], burns, cover(worst - 1, leaving=1, leaving_in=5))
    assert len(made.secured) == count - 1
    assert made.lasts is not None


def test_stages_come_in_order_and_a_warning_is_not_taken_back_at_once() -> None:
    told = Thresholds(warn=1000, checkpoint=100)
    seen = [stage_of(lasts, told, margin=10) for lasts in (None, 1001, 1000, 111, 110, 11, 10, 0)]
    low, save, out = FundingStage.LOW, FundingStage.CHECKPOINT, FundingStage.EXHAUSTED
    assert seen == [FundingStage.FUNDED, FundingStage.FUNDED, low, low, save, save, out, out]
    assert stage_of(1250, told, margin=10, was_low=True) is low
    assert stage_of(1251, told, margin=10, was_low=True) is FundingStage.FUNDED
    assert stage_of(None, told, margin=10, was_low=True) is FundingStage.FUNDED


def state(balance: int, limit: int, **later: int) -> AccountState:
    amounts = {name: MicroUSD(amount) for name, amount in later.items()}
    return AccountState(MicroUSD(balance), MicroUSD(0), MicroUSD(0), MicroUSD(limit), **amounts)


def test_what_is_announced_counts_until_its_notice_ends_less_the_lag() -> None:
    told = state(100, 50, withdraw_units=130, withdraw_at=5000, new_limit=20, limit_at=4000)
    assert cover_of(told, now=1000, lag=600) == Cover(
        MicroUSD(0), MicroUSD(20), leaving=MicroUSD(100), leaving_in=3400, former_limit=MicroUSD(50), limit_in=2400
    )
    seen = cover_of(told, now=1000, lag=float("inf"))
    assert (seen.leaving_in, seen.limit_in, seen.after(0)) == (0, 0, 0), "a lag nobody knows is as long as any"
    late = cover_of(told, now=4500, lag=600)
    assert (late.leaving_in, late.limit_in) == (0, 0)
    quiet = cover_of(state(100, 50), now=1000, lag=600)
    assert quiet == Cover(MicroUSD(100), MicroUSD(50), former_limit=MicroUSD(50))
    raised = cover_of(state(100, 50, new_limit=80, limit_at=4000), now=1000, lag=600)
    assert (raised.limit, raised.limit_in) == (50, 0)


def test_the_notice_of_the_contract_is_longer_than_the_lag() -> None:
    """NOTICE ≥ longest epoch + 2·CHALLENGE + max(EXIT_AFTER, RULING) + MAX_PAUSE + 1 day."""
    day = 86_400
    for longest, challenge, ruling in ((day, day, 2 * day), (7 * day, 600, 60)):
        notice = longest + 2 * challenge + ruling + 3 * day + day
        assert notice - lag_of(longest, challenge) == ruling + day - LONGEST_UNWRITTEN_SECONDS


# ---- a tenant that takes its money out as early as it can, and a settler that takes as long as it may

TICK, EPOCH, WINDOW, PAUSE, FINALITY = 60, 600, 240, 360, 120
LAG = EPOCH + 2 * WINDOW + PAUSE
NOTICE = LAG + FINALITY + 2 * TICK


@dataclass
class Sim:
    """The escrow of one tenant, its settler and its hub; `delays` are drawn, each in ticks."""

    delays: list[int]
    now: int = 1_000_000
    account: AccountState = field(default_factory=lambda: state(0, 0))
    debt: int = 0
    debited: int = 0
    pending: int = 0
    window_until: int = 0
    post_at: int = 0
    paused_at: int = 0
    runs: list[list[int]] = field(default_factory=list)
    """[µUSD per second, seconds left] of each, the oldest first."""
    past: list[tuple[AccountState, int]] = field(default_factory=list)
    stopped: int = 0

    @property
    def undebited(self) -> int:
        return self.debt - self.debited

    @property
    def seen(self) -> tuple[AccountState, int]:
        """(account, debited) as the hub sees them: at the finalized block."""
        return self.past[max(0, len(self.past) - 1 - FINALITY // TICK)]

    def delay(self, most: int) -> int:
        self.delays.append(self.delays.pop(0))
        return self.delays[0] % (most // TICK + 1) * TICK

    # ---- the tenant

    def deposit(self, amount: int) -> None:
        self.account = replace(self.account, balance=MicroUSD(self.account.balance + amount))

    def announce(self, amount: int) -> None:
        at = self.now + NOTICE if amount else 0
        self.account = replace(self.account, withdraw_units=MicroUSD(amount), withdraw_at=at)

    def limit(self, amount: int) -> None:
        if amount >= self.account.limit:
            self.account = replace(self.account, limit=MicroUSD(amount), limit_at=0)
        else:
            self.account = replace(self.account, new_limit=MicroUSD(amount), limit_at=self.now + NOTICE)

    def start(self, seed: int) -> None:
        """A run is let in only where its worst case fits into the next debit, as placement does it."""
        rate, seconds = 1 + seed % 7, TICK * (1 + seed % 60)
        account, debited = self.seen
        lower = min(account.limit, account.new_limit) if account.limit_at else account.limit
        worst = self.debt + sum(one * left for one, left in self.runs) - debited
        if rate * seconds <= min(account.free, lower) - max(0, worst):
            self.runs.append([rate, seconds])

    def leave(self) -> None:
        """Whatever has matured is used at once."""
        account = self.account
        if account.withdraw_at and account.withdraw_at <= self.now:
            left = account.balance - min(account.balance, account.withdraw_units)
            account = replace(account, balance=MicroUSD(left), withdraw_at=0, withdraw_units=MicroUSD(0))
        if account.limit_at and account.limit_at <= self.now:
            account = replace(account, limit=account.new_limit, limit_at=0)
        self.account = account

    # ---- the guardian

    def cancel(self, _: int) -> None:
        """Not while a notice runs, nor what the limit of now would not debit again: see the module's docstring."""
        account = self.account
        if self.now < self.window_until and not account.withdraw_at and not account.limit_at:
            if self.pending > account.limit:
                return
            self.deposit(self.pending)
            self.debited, self.pending, self.window_until = self.debited - self.pending, 0, 0

    def pause(self, _: int) -> None:
        """At most once within a notice, as the cool-down says; the window stands still with the clock."""
        if self.now - self.paused_at > NOTICE:
            self.paused_at, self.window_until = self.now, self.window_until + PAUSE
            self.post_at = max(self.post_at, self.now) + PAUSE

    # ---- the settler and the hub

    def settle(self) -> None:
        if self.now < max(self.window_until, self.post_at):
            return
        amount = min(self.undebited, self.account.limit, self.account.balance)
        if amount <= 0:
            return
        self.account = replace(self.account, balance=MicroUSD(self.account.balance - amount))
        self.debited, self.pending = self.debited + amount, amount
        self.window_until = self.now + WINDOW
        # What is left over makes the next epoch worth its gas as soon as it can be posted.
        self.post_at = self.now + (0 if self.undebited else self.delay(EPOCH))

    def watch(self) -> None:
        account, debited = self.seen
        behind = cover_of(account, self.now, LAG)
        burns = [burn(rate, left) for rate, left in self.runs]
        made = plan((self.debt - debited) * HOUR, [], burns, behind)
        if stage_of(made.lasts, Thresholds(), margin=TICK) is FundingStage.EXHAUSTED:
            self.stopped += len(self.runs) - len(made.secured)
            self.runs = [self.runs[position] for position in sorted(made.secured)]

    def tick(self) -> None:
        self.past.append((self.account, self.debited))
        self.watch()
        for run in self.runs:
            spent = min(TICK, run[1])
            self.debt, run[1] = self.debt + run[0] * spent, run[1] - spent
        self.runs = [run for run in self.runs if run[1]]
        self.now += TICK
        self.settle()
        self.leave()
        assert self.undebited <= self.account.balance, "money left before it was debited"
        assert self.undebited <= 2 * self.account.limit, "more is owed than the epochs ahead may debit"


ACTIONS = ("deposit", "announce", "limit", "start", "start", "cancel", "pause")
Step = tuple[int, str, int]
STEPS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(ACTIONS), st.integers(0, 20_000)), max_size=30)
DELAYS = st.lists(st.integers(0, 10), min_size=1, max_size=8)
BUSY = [(0, "deposit", 20_000), (3, "limit", 20_000), (3, "start", 59)]
"""One run of an hour at 4 µUSD a second."""


@given(DELAYS, st.booleans(), STEPS)
@example([9], True, [(2, "announce", 20_000)])
@example([9], True, [(2, "limit", 0)])
@example([0], True, [(9, "cancel", 0), (0, "announce", 20_000), (0, "pause", 0)])
@example([8], True, [(0, "limit", 700), (40, "limit", 300)])
@settings(max_examples=200)
def test_nothing_runs_on_money_that_can_leave(delays: list[int], busy: bool, steps: list[Step]) -> None:
    sim = Sim(list(delays))
    for wait, action, amount in [*(BUSY if busy else []), *steps]:
        sim.past.append((sim.account, sim.debited))
        getattr(sim, action)(amount)
        for _ in range(wait):
            sim.tick()
    for _ in range((NOTICE + 4 * LAG) // TICK):
        sim.tick()
    assert not sim.undebited, "in the end everything that was used is debited"


def test_the_world_above_does_stop_runs_and_does_let_them_go_on() -> None:
    """Or it would prove nothing."""
    sim = Sim([10])
    sim.past.append((sim.account, 0))
    sim.deposit(20_000)
    sim.limit(20_000)
    for _ in range(5):
        sim.tick()
    sim.start(54)
    assert sim.runs == [[6, 55 * TICK]]
    sim.announce(20_000)
    ran = 0
    while sim.runs:
        sim.tick()
        ran += 1
    assert sim.stopped == 1
    assert (NOTICE - LAG) // TICK - 1 <= ran < 55, "it ran on for as long as the notice was longer than the lag"
