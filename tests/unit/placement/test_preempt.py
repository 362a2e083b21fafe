"""Preemption: whom a waiting job of higher priority may push aside, whom it does, and whom never."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from tests.unit.placement.moveworlds import H100, USD, Judge, Way, job, random_world, runs, world

from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.running import Move, MoveReason, RunningJob
from fedgpu_operator.placement.moves import replan
from fedgpu_operator.placement.preempt import preempt
from fedgpu_operator.placement.reservations import Reservations, load_of


def test_a_lower_one_is_moved_to_another_lawful_place_that_is_held_for_it() -> None:
    low = runs(job("low", gpus=4), "p")
    made = world({"p": {4: 1}, "q": {4: 1}}, [low], countries={"q": "US"})
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9, countries="DE")], made.running)
    assert (move.uid, move.reason, move.serves, move.to) == ("low", MoveReason.PREEMPTED, "high", f"q/{H100}")
    assert "priority 9" in move.message
    assert "high" not in move.message, "no tenant learns another one's names"


def test_a_lower_one_without_another_place_has_to_wait() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p")])
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert (move.to, move.saving) == ("", -(USD * 4 * (660 + 120) // 3600))


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param(job("high", gpus=4, priority=1), id="an equal"),
        pytest.param(job("high", gpus=4, priority=9, preempts=False), id="a class that never preempts"),
        pytest.param(job("high", gpus=4, priority=9, countries="FR"), id="unlawful there"),
        pytest.param(job("high", gpus=8, priority=9), id="does not fit even then"),
        pytest.param(job("high", gpus=4, replicas=2, priority=9), id="a gang that fits only in part"),
        pytest.param(job("high", gpus=4, priority=9, budget_left=USD), id="over budget"),
    ],
)
def test_nobody_is_stopped_for(waiting: Job) -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4, priority=1), "p")])
    assert preempt(made.board(), [waiting], made.running) == ()


def test_a_spent_budget_of_disruptions_protects() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p", moves=0)])
    assert preempt(made.board(), [job("high", gpus=4, priority=9)], made.running) == ()


def test_money_that_is_not_there_stops_nobody() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p")])
    high = job("high", gpus=4, priority=9)
    assert preempt(made.board(funds=4 * USD - 1), [high], made.running) == ()
    assert len(preempt(made.board(funds=4 * USD), [high], made.running)) == 1


def test_two_waiting_ones_are_not_promised_the_same_money() -> None:
    running = [runs(job(f"low{i}", gpus=4), "p") for i in range(2)]
    made = world({"p": {4: 2}}, running)
    waiting = [job(f"high{i}", gpus=4, priority=9) for i in range(2)]
    assert len(preempt(made.board(funds=7 * USD), waiting, made.running)) == 1
    assert len(preempt(made.board(funds=8 * USD), waiting, made.running)) == 2


def test_the_lesser_priority_goes_before_the_lesser_loss() -> None:
    running = [runs(job("idle", gpus=4, priority=2), "p", seconds=0), runs(job("busy", gpus=4), "p", seconds=3000)]
    made = world({"p": {4: 2}}, running)
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert move.uid == "busy"


def test_who_has_another_place_goes_before_who_would_wait() -> None:
    running = [runs(job("bound", gpus=2, countries="DE"), "p", seconds=0), runs(job("free", gpus=2), "p")]
    made = world({"p": {2: 2}, "q": {2: 1}}, running, countries={"q": "US"})
    (move,) = preempt(made.board(), [job("high", gpus=2, priority=9, countries="DE")], made.running)
    assert (move.uid, move.to) == ("free", f"q/{H100}")


def test_checkpoints_make_a_victim_cheap() -> None:
    saved = job("saved", gpus=4, checkpoint_seconds=60)
    made = world({"p": {4: 2}}, [runs(job("a-unsaved", gpus=4), "p", seconds=3000), runs(saved, "p", seconds=3000)])
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert move.uid == "saved"


@pytest.mark.parametrize(
    ("slow", "quick"),
    [
        pytest.param({"notice": 600}, {"notice": 60}, id="notice"),
        pytest.param({"grace": 90}, {"grace": 30}, id="grace"),
        pytest.param({"notice": 60, "grace": 60}, {"notice": 90}, id="both"),
    ],
)
def test_of_two_that_cost_the_same_the_one_goes_that_is_gone_sooner(
    slow: dict[str, int], quick: dict[str, int]
) -> None:
    def saved(uid: str) -> Job:
        return job(uid, gpus=4, checkpoint_seconds=60)

    running = [runs(saved("a-slow"), "p", **slow), runs(saved("b-quick"), "p", **quick)]
    made = world({"p": {4: 2}}, running)
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert move.uid == "b-quick"
    many = world({"p": {4: 10}}, [*running, *(runs(saved(f"a-{i}"), "p", **slow) for i in range(8))])
    (move,) = preempt(many.board(), [job("high", gpus=4, priority=9)], many.running)
    assert move.uid == "b-quick", "also where not every set is tried"


def test_of_two_offers_that_cost_the_same_the_one_is_cleared_that_is_free_sooner() -> None:
    """What counts is when the last of them has gone, not how long they take together."""
    told = {"a1": ("p", 300), "a2": ("p", 10), "b1": ("q", 200), "b2": ("q", 200)}
    running = [
        runs(job(uid, gpus=2, checkpoint_seconds=60), provider, notice=notice)
        for uid, (provider, notice) in told.items()
    ]
    made = world({"p": {4: 1}, "q": {4: 1}}, running)
    moves = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert [move.uid for move in moves] == ["b1", "b2"]


def test_money_goes_before_a_shorter_wait() -> None:
    running = [
        runs(job("cheap", gpus=4, checkpoint_seconds=60), "p", notice=600),
        runs(job("quick", gpus=4, checkpoint_seconds=61), "p", notice=61),
    ]
    made = world({"p": {4: 2}}, running)
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert move.uid == "cheap"


def test_a_gang_goes_as_a_whole_or_not_at_all() -> None:
    gang = runs(job("gang", gpus=4, replicas=4), "p")
    single = runs(job("single", gpus=4), "p")
    made = world({"p": {4: 5}}, [gang, single])
    (move,) = preempt(made.board(), [job("high", gpus=4, priority=9)], made.running)
    assert move.uid == "single", "one replica's room is enough, and the gang is not broken for it"
    (move,) = preempt(made.board(), [job("high", gpus=4, replicas=4, priority=9)], made.running)
    assert move.uid == "gang"


def test_many_small_ones_make_room_for_a_large_gang_and_no_more_go_than_must() -> None:
    made = world({"p": {8: 8}}, [runs(job(f"s{i:02}"), "p", seconds=60 + i) for i in range(64)])
    moves = preempt(made.board(), [job("high", gpus=8, replicas=4, priority=9)], made.running)
    assert sorted(move.uid for move in moves) == [f"s{i:02}" for i in range(32)], "those that lose least"


def test_of_many_only_those_go_whose_room_is_needed() -> None:
    made = world({"p": {8: 8}}, [runs(job(f"s{i:02}"), "p", seconds=60 + i) for i in range(64)])
    moves = preempt(made.board(), [job("high", gpus=8, replicas=3, priority=9)], made.running)
    assert sorted(move.uid for move in moves) == [f"s{i:02}" for i in range(24)]


def test_nobody_is_sent_where_room_is_being_made() -> None:
    """Half of p's node is free and will be needed with the other half."""
    running = [runs(job("p-half", gpus=4), "p"), runs(job("q-all", gpus=4), "q")]
    made = world({"p": {8: 1}, "q": {4: 1}}, running, countries={"q": "US"})
    waiting = [
        job("a", gpus=8, priority=9, countries="DE"),
        job("b", gpus=4, priority=9, countries="US"),
    ]
    moves = preempt(made.board(), waiting, made.running)
    assert {(move.uid, move.serves, move.to) for move in moves} == {("p-half", "a", ""), ("q-all", "b", "")}


def test_what_is_leaving_anyway_is_waited_for() -> None:
    made = world({"p": {4: 1}, "q": {4: 1}}, [runs(job("ends", gpus=4), "p"), runs(job("low", gpus=4), "q")])
    leaving = {f"p/{H100}": frozenset({"ends-1"})}
    running = made.running[1:]
    waiting = [job("high", gpus=4, priority=9)]
    assert preempt(made.board(leaving=leaving), waiting, running) == ()
    more = [*waiting, job("other", gpus=4, priority=9)]
    assert [move.uid for move in preempt(made.board(leaving=leaving), more, running)] == ["low"]


def test_nobody_is_stopped_for_a_job_that_fits_beside_them() -> None:
    made = world({"p": {2: 1}}, [runs(job("low"), "p")])
    high = [job("high", priority=9)]
    assert preempt(made.board(), high, made.running) == ()
    both = [*high, job("other", priority=9)]
    assert [move.serves for move in preempt(made.board(), both, made.running)] == ["other"], "the free GPU is one job's"


def test_a_slot_that_comes_free_at_one_offer_is_waited_for_at_its_provider() -> None:
    made = world({"p": {1: 1}, "q": {1: 1}}, [runs(job("low"), "q")])
    snapshot = made.snapshot()
    p, q = snapshot.offers
    full = replace(p, lease_slots=0)
    other = replace(full, gpu=replace(p.gpu, product="A100"), free={})
    board = Reservations(
        replace(snapshot, offers=(full, other, q)),
        lambda name, gone: {} if name == other.name else made.freed(name, gone),
        leaving={other.name: frozenset({"ends-1"})},
    )
    assert preempt(board, [job("high", priority=9)], made.running) == ()


def test_a_slot_is_promised_once_at_all_offers_of_a_provider() -> None:
    made = world({"p": {4: 1}})
    a = replace(made.snapshot().offers[0], lease_slots=1)
    b = replace(a, gpu=replace(a.gpu, product="A100"))
    board = Reservations(
        replace(made.snapshot(), offers=(a, b)), lambda name, gone: {4: 1}, leaving={a.name: frozenset({"ends-1"})}
    )
    for uid in ("one", "two"):
        assert board.room_after(a.name, load_of(job(uid)))
        board.take_after(a.name, load_of(job(uid)))
    assert not board.room_now(b.name, load_of(job("three"))), "one slot and the one that comes are promised"


def test_a_lease_slot_is_made_free_as_a_gpu_is() -> None:
    made = world({"p": {8: 1}}, [runs(job("low"), "p")], slots={"p": 1})
    (move,) = preempt(made.board(), [job("high", priority=9)], made.running)
    assert move.uid == "low"


def test_an_announced_way_stays_although_a_better_one_appears() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p", seconds=3000)])
    waiting = [job("high", gpus=4, priority=9)]
    first = preempt(made.board(), waiting, made.running)
    made.nodes["q"], made.prices["q"] = {4: 1}, USD
    made.running.append(runs(job("idle", gpus=4), "q", seconds=0))
    told = made.told(first)
    assert [move.uid for move in preempt(made.board(), waiting, told)] == ["low"]
    assert [move.uid for move in preempt(made.board(), waiting, made.running)] == ["idle"]


def test_an_announced_way_lapses_when_nobody_waits_for_it() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p")])
    told = made.told(preempt(made.board(), [job("high", gpus=4, priority=9)], made.running))
    assert replan(made.board(), [], told) == ()


def test_an_equal_does_not_take_over_what_was_announced_for_another() -> None:
    made = world({"p": {4: 1}}, [runs(job("low", gpus=4), "p")])
    told = made.told(preempt(made.board(), [job("late", gpus=4, priority=9)], made.running))
    both = [job("early", gpus=4, priority=9), job("late", gpus=4, priority=9)]
    assert [move.serves for move in preempt(made.board(), both, told)] == ["late"]
    higher = [job("early", gpus=4, priority=10), job("late", gpus=4, priority=9)]
    assert [move.serves for move in preempt(made.board(), higher, told)] == ["early"]


def test_the_room_of_a_nominated_one_is_not_its_equals() -> None:
    made = world({"p": {4: 1}, "q": {4: 1}}, [runs(job("going", gpus=4), "p"), runs(job("low", gpus=4), "q")])
    leaving = {f"p/{H100}": frozenset({"going-1"})}
    waiting = [job("early", gpus=4, priority=9, countries="DE"), job("late", gpus=4, priority=9)]
    made.countries["q"] = "US"
    moves = preempt(made.board(leaving=leaving), waiting, made.running[1:], frozenset({"late"}))
    assert moves == (), "late keeps the room that was made for it, and early has no other way"


def test_the_way_is_the_least_of_all_by_plain_search() -> None:
    several = sooner = 0
    for seed in range(4000):
        made, waiting = random_world(Random(seed))
        wanted = waiting[0]
        judge = Judge(made, wanted)
        if judge.fits_now(wanted):
            continue
        ways = list(judge.ways())
        moves = preempt(made.board(), [wanted], made.running)
        several += len({(way[5], way[6]) for way in ways}) > 1
        best = min(ways, default=None)
        sooner += best is not None and any(way[:4] == best[:4] and way[5:] < best[5:] for way in ways)
        assert bool(moves) == bool(ways), seed
        assert not ways or _worth(judge, made.running, moves) == min(ways), seed
    assert several > 500, "worlds with a choice, or the search shows little"
    assert sooner > 10, "worlds in which the wait decides, and not a name"


def _worth(judge: Judge, running: list[RunningJob], moves: tuple[Move, ...]) -> Way | None:
    gone = {move.uid: move for move in moves}
    stopped = [each for each in running if each.uid in gone]
    targets = [gone[each.uid].to.split("/")[0] for each in stopped]
    return judge.worth(stopped[0].provider, stopped, targets)


@pytest.mark.parametrize("seed", range(200))
def test_order_changes_nothing_and_a_second_look_says_the_same(seed: int) -> None:
    rng = Random(seed)
    made, waiting = random_world(rng)
    waiting = [each for each in waiting if not Judge(made, each).fits_now(each)]
    moves = preempt(made.board(), waiting, made.running)
    shuffled = replace(made, prices=dict(reversed(made.prices.items())))
    assert preempt(shuffled.board(), waiting[::-1], made.running[::-1]) == moves
    again = preempt(made.board(), waiting, made.told(moves))
    assert {(m.uid, m.serves, m.to) for m in again} == {(m.uid, m.serves, m.to) for m in moves}
    priorities = {each.uid: each.priority for each in waiting}
    for move in moves:
        (victim,) = (each for each in made.running if each.uid == move.uid)
        assert victim.job.priority < priorities[move.serves]
        assert victim.moves_left > 0
    assert len({move.uid for move in moves}) == len(moves)
