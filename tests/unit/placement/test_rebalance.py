"""Rebalancing: only what pays moves, nothing moves back, and a draining provider is emptied where that is lawful."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.unit.placement.moveworlds import H100, USD, MoveWorld, job, random_world, runs, world

from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.job import ExchangeRates
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.running import Hysteresis, Move, MoveReason
from fedgpu_operator.placement.moves import replan
from fedgpu_operator.placement.rebalance import carry_on, rebalance
from fedgpu_operator.placement.reservations import saving

RESTLESS = Hysteresis(relative=0, absolute=0, residence=0, most=100)
CHECKPOINTS: dict[str, Any] = {"checkpoint_seconds": 60}


def _cheaper(price: int, seconds: int = 900, **more: Any) -> MoveWorld:
    """One job of 4 GPUs with checkpoints at p for 2 USD, and room at q for that price."""
    made = job("only", gpus=4, **{**CHECKPOINTS, **more})
    return world(
        {"p": {4: 1}, "q": {4: 1}}, [runs(made, "p", price=2 * USD, seconds=seconds)], {"p": 2 * USD, "q": price}
    )


def test_a_cheaper_place_takes_over_when_the_saving_beats_the_cost_of_moving() -> None:
    made = _cheaper(USD)
    (move,) = rebalance(made.board(), made.running)
    assert (move.reason, move.to, move.serves) == (MoveReason.REBALANCED, f"q/{H100}", "")
    # 2,700 s are left. It stays for the notice of 60 s; then the rest, 60 s of lost work and 120 s of start at half.
    assert move.saving == (2 * 2700 - 2 * 60 - (2700 - 60 + 60 + 120)) * 4 * USD // 3600


def test_the_saving_must_beat_both_thresholds() -> None:
    made = _cheaper(USD)
    (move,) = rebalance(made.board(), made.running)
    assert rebalance(made.board(), made.running, rules=Hysteresis(absolute=move.saving))
    assert not rebalance(made.board(), made.running, rules=Hysteresis(absolute=move.saving + 1))
    stay = 2 * USD * 4 * 2700 // 3600
    enough = move.saving * 100 // stay
    assert rebalance(made.board(), made.running, rules=Hysteresis(relative=enough))
    assert not rebalance(made.board(), made.running, rules=Hysteresis(relative=enough + 1))


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(_cheaper(2 * USD - 50_000), id="a little cheaper"),
        pytest.param(_cheaper(USD, seconds=3400), id="nearly done"),
        pytest.param(_cheaper(USD, seconds=1800, checkpoint_seconds=None), id="all its work would be lost"),
        pytest.param(_cheaper(USD, countries="FR"), id="unlawful there"),
        pytest.param(_cheaper(USD, seconds=300), id="placed a moment ago"),
        pytest.param(_cheaper(USD, seconds=0), id="not started"),
        pytest.param(_cheaper(USD, budget_left=MicroUSD(4 * USD)), id="the notice is not in its budget"),
    ],
)
def test_nothing_moves_for(made: MoveWorld) -> None:
    assert rebalance(made.board(), made.running) == ()


def test_a_spent_budget_of_disruptions_holds_it() -> None:
    made = _cheaper(USD)
    assert rebalance(made.board(), [replace(made.running[0], moves_left=0)]) == ()


def test_what_the_stop_sets_free_pays_for_the_new_run() -> None:
    made = _cheaper(USD)
    released = made.running[0].released
    assert released == 2 * USD * 4 * (3600 - 900 - 60) // 3600
    assert rebalance(made.board(funds=0), made.running), "4 USD for the new run, 5.86 USD come back"
    long = replace(made.running[0], price=MicroUSD(USD + USD // 4), seconds=3000)
    long = replace(long, job=replace(long.job, run_limit=9000))
    assert long.released == 8_250_000, "and its new run would cost 10 USD"
    assert not rebalance(made.board(funds=1_749_999), [long], rules=RESTLESS)
    assert rebalance(made.board(funds=1_750_000), [long], rules=RESTLESS)


def test_a_lower_price_at_its_own_place_is_taken_by_a_new_attempt_there() -> None:
    made = world({"p": {4: 1}}, [runs(job("only", gpus=4, **CHECKPOINTS), "p", price=2 * USD, seconds=900)])
    (move,) = rebalance(made.board(), made.running)
    assert move.to == f"p/{H100}"
    assert [again.to for again in carry_on(made.board(), made.told([move]))] == [f"p/{H100}"]
    assert rebalance(made.board(), [replace(made.running[0], price=MicroUSD(USD))], rules=RESTLESS) == ()


def test_one_free_place_is_promised_once_and_to_who_saves_most() -> None:
    small, large = job("small", gpus=1, **CHECKPOINTS), job("large", gpus=4, **CHECKPOINTS)
    running = [runs(small, "p", price=2 * USD, seconds=900), runs(large, "p", price=2 * USD, seconds=900)]
    made = world({"p": {8: 1}, "q": {4: 1}}, running, {"p": 2 * USD, "q": USD})
    assert [move.uid for move in rebalance(made.board(), made.running)] == ["large"]


def test_a_pass_moves_no_more_than_it_may() -> None:
    running = [runs(job(f"j{i}", **CHECKPOINTS), "p", price=2 * USD, seconds=900) for i in range(5)]
    made = world({"p": {8: 1}, "q": {8: 1}}, running, {"p": 2 * USD, "q": USD // 2})
    assert len(rebalance(made.board(), made.running, rules=Hysteresis(most=2))) == 2


def test_gas_and_egress_are_paid_again_by_who_moves_and_not_by_who_stays() -> None:
    mine = runs(job("only", **CHECKPOINTS), "p", seconds=900)
    here = _verdict(USD, gas=900_000, egress=900_000, carbon=100_000)
    there = _verdict(USD // 2, gas=5_000, egress=20_000, carbon=100_000)
    once = 25_000 * 3600
    go = (USD + 100_000) * 60 + (USD // 2 + 100_000) * (2640 + 180) + once
    assert saving(mine, here, there) == ((USD + 100_000) * 2700 - go) // 3600


def _verdict(price: int, **components: int) -> Verdict:
    whole = MicroUSD(price + sum(components.values()))
    return Verdict("p", H100, None, "", MicroUSD(price), whole, MicroUSD(price), components)


def test_a_draining_provider_is_left_at_a_loss_by_what_may_move() -> None:
    free = runs(job("free"), "p", seconds=10)
    bound = runs(job("bound", countries="DE"), "p", seconds=10)
    spent = runs(job("spent"), "p", seconds=10, moves=0)
    made = world({"p": {8: 1}, "q": {8: 1}}, [free, bound, spent], {"q": 3 * USD}, {"q": "US"})
    (move,) = rebalance(made.board(), made.running, frozenset({"p"}))
    assert (move.uid, move.to) == ("free", f"q/{H100}")
    assert move.saving < 0
    assert "provider p is draining" in move.message


def test_the_higher_priority_leaves_a_draining_provider_first() -> None:
    running = [runs(job("a-low"), "p"), runs(job("b-high", priority=5), "p")]
    made = world({"p": {8: 1}, "q": {1: 1}}, running)
    assert [move.uid for move in rebalance(made.board(), made.running, frozenset({"p"}))] == ["b-high"]


def test_an_announced_move_goes_on_while_it_saves_anything_and_no_longer() -> None:
    made = _cheaper(USD)
    told = made.told(rebalance(made.board(), made.running))
    made.prices["q"] = 3 * USD // 2
    assert rebalance(made.board(), told, rules=Hysteresis(absolute=USD * 10)) == ()
    assert [move.to for move in carry_on(made.board(), told)] == [f"q/{H100}"]
    made.prices["q"] = 2 * USD
    assert carry_on(made.board(), told) == ()
    assert replan(made.board(), [], told) == ()


def test_what_moves_anyway_is_not_stopped_for_another() -> None:
    made = _cheaper(USD)
    told = made.told(rebalance(made.board(), made.running))
    (move,) = replan(made.board(), [job("high", gpus=4, priority=9)], told)
    assert (move.reason, move.serves) == (MoveReason.REBALANCED, ""), "its place at p is free soon in any case"


def test_carbon_that_a_job_pays_for_counts_on_both_sides() -> None:
    made = _cheaper(USD, rates=ExchangeRates(per_kg_co2e=10**5))
    # Neither owner states its carbon: both are taken at the worst, which changes nothing between them.
    (dear,) = rebalance(made.board(), made.running)
    (plain,) = rebalance(_cheaper(USD).board(), _cheaper(USD).running)
    assert dear.saving < plain.saving, "work that is done again emits again"


@pytest.mark.parametrize("seed", range(300))
def test_at_constant_prices_nobody_moves_back_and_all_comes_to_rest(seed: int) -> None:
    rng = Random(seed)
    made, _ = random_world(rng)
    made.running = [
        replace(
            each, moves_left=99, price=MicroUSD(each.price * rng.choice([1, 1, 2, 4])), seconds=max(1, each.seconds)
        )
        for each in made.running
    ]
    left: dict[str, set[str]] = {each.uid: set() for each in made.running}
    moved: set[str] = set()
    for _ in range(20):
        at_rest = {each.uid for each in made.running if each.resident >= Hysteresis().residence}
        usual = rebalance(made.board(), made.running, rules=Hysteresis(absolute=0, relative=0))
        assert {move.uid for move in usual} <= at_rest - moved, "who was just moved rests"
        moves = rebalance(made.board(), made.running, rules=RESTLESS)
        if not moves:
            return
        for move in moves:
            assert move.to not in left[move.uid], "nobody returns to a place that it left"
            moved.add(move.uid)
        for each in made.running:
            left[each.uid] |= {each.offer} & {
                each.offer for move in moves if move.uid == each.uid and move.to != each.offer
            }
        _carry_out(made, moves)
    raise AssertionError("it never came to rest")


def _carry_out(made: MoveWorld, moves: tuple[Move, ...]) -> None:
    to = {move.uid: move.to.split("/")[0] for move in moves}
    made.running = [
        replace(each, provider=to[each.uid], price=MicroUSD(made.prices[to[each.uid]]), seconds=1, resident=0)
        if each.uid in to
        else each
        for each in made.running
    ]
    for name in made.prices:
        there = [each for each in made.running if each.provider == name]
        assert sum(each.job.gpus for each in there) <= sum(gpus * nodes for gpus, nodes in made.nodes[name].items())
        assert len(there) <= made.slots.get(name, 99)
