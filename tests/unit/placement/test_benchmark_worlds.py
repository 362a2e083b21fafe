"""The benchmark's own judge and rivals on small worlds: a wrong judge would make every figure worthless."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks import page
from benchmarks.e2e import report as e2e
from benchmarks.placement import peers, report, rules, unclassed, worlds
from benchmarks.placement.workloads import pairs
from benchmarks.placement.worlds import Size

from fedgpu_operator.placement import Snapshot, place

SMALL = Size(jobs=300, offers=120, classes=40, load=1.1, multi=0.4, policies=12, groups=6, namespaces=5)


def in_name_order(world: Snapshot) -> Snapshot:
    return replace(world, offers=tuple(sorted(world.offers, key=lambda each: (each.provider, each.gpu.product))))


@pytest.fixture(scope="module")
def world() -> Snapshot:
    return in_name_order(worlds.make(SMALL))


def test_the_judge_and_placement_agree_on_law_and_price_of_every_pair(world: Snapshot) -> None:
    answer = place(world)
    by_uid = {job.uid: job for job in world.jobs}
    for group, rows in zip(answer.classes, answer.problem.classes, strict=True):
        job = by_uid[group.members[0]]
        for index, offer in enumerate(world.offers):
            room = sum(size // job.gpu.count * nodes for size, nodes in offer.free.items()) >= job.replicas
            lawful = rules.allowed(job, offer, world.policies) and room and offer.lease_slots != 0
            assert bool(rows.eligible[index]) == lawful
            if lawful:
                assert int(rows.price[index]) == rules.effective_price(job, offer)


def test_the_judge_refuses_what_is_unlawful_sold_twice_or_doubled(world: Snapshot) -> None:
    placed = pairs(world.jobs, place(world))
    bill = rules.judged(world.jobs, world.offers, world.policies, placed)
    assert bill.jobs == len(placed)
    job, offer = placed[0]
    other = next(
        index for index, each in enumerate(world.offers) if not rules.allowed(world.jobs[job], each, world.policies)
    )
    with pytest.raises(ValueError, match="may not be at"):
        rules.judged(world.jobs, world.offers, world.policies, [(job, other), *placed[1:]])
    with pytest.raises(ValueError, match="placed twice"):
        rules.judged(world.jobs, world.offers, world.policies, [*placed, placed[0]])
    emptied = [replace(each, free={}) if index == offer else each for index, each in enumerate(world.offers)]
    with pytest.raises(ValueError, match="sold twice"):
        rules.judged(world.jobs, emptied, world.policies, placed)
    full = [replace(each, lease_slots=0) for each in world.offers]
    with pytest.raises(ValueError, match="sold twice"):
        rules.judged(world.jobs, full, world.policies, placed)


def test_no_rival_is_unlawful_and_none_is_better() -> None:
    world = in_name_order(worlds.make(replace(SMALL, multi=0.0, policies=0, groups=0)))
    jobs, offers, policies = world.jobs, world.offers, world.policies
    ours = rules.judged(jobs, offers, policies, pairs(jobs, place(world)))
    for every in (unclassed.place, unclassed.place_classes):
        assert rules.judged(jobs, offers, policies, every(jobs, offers, policies)) == ours
    for rival in (peers.greedy, peers.OneAtATime(sampled=True), peers.OneAtATime(sampled=False)):
        placed, looked = rival(jobs, offers, policies, 60.0)
        assert looked == len(jobs)
        assert 0 < rules.judged(jobs, offers, policies, placed).jobs <= ours.jobs


def test_the_page_shows_the_figures_that_are_committed() -> None:
    text = page.PAGE.read_text()
    drawn = page.rendered(text, "placement", report.table(report.read()))
    assert drawn == text, "run `python -m benchmarks.placement --render`"
    drawn = page.rendered(text, "e2e", e2e.table(e2e.read()))
    assert drawn == text, "the table of create to workload is not that of benchmarks/results/e2e.json"
