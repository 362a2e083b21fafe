"""Readings: true to the run, monotone against any member, indifferent to order, looks and skew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.usage import MAX_PODS, UsageReading
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.metering import ContainerFacts, HubObservation, PodFacts, bill, measure

T0 = datetime(2025, 6, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def pod(
    start: float | None = None,
    end: float | None = None,
    *,
    uid: str = "u",
    index: int = 0,
    phase: str = "Running",
    gpus: int = 1,
    deleted: float | None = None,
) -> PodFacts:
    """A pod of one container, its instants as whole seconds, as the kubelet writes them."""
    container = ContainerFacts(
        None if start is None else at(start).replace(microsecond=0),
        None if end is None else at(end).replace(microsecond=0),
    )
    return PodFacts(f"pod-{uid}", uid, index, phase, gpus, (container,), None if deleted is None else at(deleted))


@dataclass(frozen=True)
class Run:
    """The truth about one pod: when it started and ended, in seconds after T0."""

    start: float
    length: float
    gpus: int

    def seen(self, when: float, uid: str, skew: float) -> PodFacts:
        """The pod as the member shows it at `when`, its own clock off by `skew` seconds."""
        end = self.start + self.length
        if when < self.start:
            return pod(uid=uid, phase="Pending", gpus=self.gpus)
        if when < end:
            return pod(self.start + skew, uid=uid, gpus=self.gpus)
        return pod(self.start + skew, end + skew, uid=uid, phase="Succeeded", gpus=self.gpus)


RUNS = st.lists(st.builds(Run, st.floats(0, 200), st.floats(0, 4000), st.integers(1, 16)), min_size=1, max_size=4)
LOOKS = st.lists(st.floats(0, 4300), max_size=8)
DAYS = st.floats(-3 * 86400, 3 * 86400)
LATE = 10_000.0


def watch(runs: Sequence[Run], looks: Sequence[float], skew: float = 0.0) -> list[UsageReading]:
    """The readings of an agent that looks at these times, after a first look before anything was created."""
    readings = [measure((), T0 - timedelta(seconds=1), None)]
    for when in [*sorted(looks), LATE]:
        facts = [run.seen(when, str(n), skew) for n, run in enumerate(runs)]
        readings.append(measure(facts, at(when), readings[-1]))
    return readings


@given(RUNS, LOOKS)
def test_the_total_is_true_to_the_run_however_often_one_looks(runs: list[Run], looks: list[float]) -> None:
    final = watch(runs, looks)[-1]
    for number, usage in enumerate(final.pods):
        assert usage.seconds >= 1
        assert abs(usage.seconds - runs[number].length) <= 1
    assert final.gpu_seconds == watch(runs, [])[-1].gpu_seconds


@given(RUNS, LOOKS, DAYS)
def test_a_member_clock_days_off_cannot_raise_the_bill(runs: list[Run], looks: list[float], skew: float) -> None:
    times = sorted(looks)
    gap = max(b - a for a, b in zip([-1.0, *times], [*times, LATE], strict=True)) if times else 0.0
    gpus = sum(run.gpus for run in runs)
    billed = 0
    for reading, when in zip(watch(runs, looks, skew), [-1.0, *times, LATE], strict=True):
        hub = HubObservation(at(-1), at(when), gpus, run_limit=86_400, billed=billed)
        bill_now = bill(reading, hub).gpu_seconds
        assert billed <= bill_now <= gpus * (when + 2)
        billed = bill_now
    exact = sum(run.gpus * run.length for run in runs)
    # One gap between two looks is all that a lying start can add, and a wrong clock takes nothing from the owner.
    assert exact - gpus * 2 <= billed <= exact + gpus * (gap + 2)


FACTS = st.builds(
    pod,
    st.none() | st.floats(-1e6, 1e6),
    st.none() | st.floats(-1e6, 1e6),
    uid=st.sampled_from("abcdef"),
    index=st.integers(0, 3),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    gpus=st.integers(0, 8),
    deleted=st.none() | st.floats(-1e6, 1e6),
)
LISTS = st.lists(FACTS, max_size=6, unique_by=lambda fact: fact.uid)


@given(st.lists(st.tuples(LISTS, st.floats(-1e6, 1e6)), min_size=1, max_size=6))
def test_whatever_a_member_says_readings_only_rise(looks: list[tuple[list[PodFacts], float]]) -> None:
    reading: UsageReading | None = None
    for facts, when in looks:
        shuffled = sorted(facts, key=lambda fact: fact.uid, reverse=True)
        following = measure(facts, at(when), reading)
        assert following == measure(shuffled, at(when), reading)
        assert following.gpu_seconds == following.folded_gpu_seconds + sum(p.gpu_seconds for p in following.pods)
        if reading is not None:
            assert following.gpu_seconds >= reading.gpu_seconds
            same = replace(following, sequence=0, observed_at=T0) == replace(reading, sequence=0, observed_at=T0)
            assert following.sequence == reading.sequence + (0 if same else 1)
        reading = following


def test_a_run_within_one_second_is_billed_as_one() -> None:
    assert measure([pod(5.1, 5.8, phase="Succeeded", gpus=8)], at(6), None).gpu_seconds == 8


def test_a_pod_that_never_started_costs_nothing() -> None:
    reading = measure([pod(phase="Failed")], at(100), None)
    assert (reading.gpu_seconds, reading.started_at, reading.finished_at) == (0, None, None)


def test_the_interval_spans_all_containers_of_a_pod() -> None:
    containers = (ContainerFacts(at(10), at(20)), ContainerFacts(at(4), at(15)))
    facts = PodFacts("p", "u", 0, "Succeeded", 2, containers)
    reading = measure([facts], at(60), None)
    assert (reading.gpu_seconds, reading.started_at, reading.finished_at) == (32, at(4), at(20))


def test_a_pod_with_one_container_up_and_one_image_pulling_holds_its_gpus() -> None:
    facts = PodFacts("p", "u", 0, "Pending", 4, (ContainerFacts(at(0)), ContainerFacts()))
    assert measure([facts], at(10), None).gpu_seconds == 40


def test_a_restarted_container_does_not_shorten_the_interval() -> None:
    first = measure([pod(0)], at(50), None)
    restarted = measure([pod(60)], at(70), first)
    assert (restarted.gpu_seconds, restarted.started_at) == (70, at(0))


def test_a_deleted_pod_keeps_its_last_reading() -> None:
    first = measure([pod(0, gpus=2)], at(30), None)
    gone = measure([], at(500), first)
    assert gone.gpu_seconds == 60
    assert gone.sequence == first.sequence


def test_a_replacement_pod_adds_to_the_one_it_replaces() -> None:
    first = measure([pod(0, uid="old")], at(30), None)
    second = measure([pod(100, 110, uid="new", phase="Succeeded")], at(120), first)
    assert second.gpu_seconds == 40
    assert (second.started_at, second.finished_at) == (at(0), at(110))


def test_a_pod_stuck_terminating_stops_counting_at_its_deletion_timestamp() -> None:
    stuck = pod(0, deleted=40)
    assert measure([stuck], at(1000), None).gpu_seconds == 40
    assert measure([stuck], at(1000), measure([stuck], at(30), None)).gpu_seconds == 40


def test_a_pod_whose_node_was_lost_keeps_what_was_proven() -> None:
    first = measure([pod(0)], at(30), None)
    assert measure([pod(0, phase="Failed")], at(900), first).gpu_seconds == 30
    assert measure([pod(0, phase="Unknown")], at(900), first).gpu_seconds == 30


def test_an_end_is_told_only_when_nothing_runs() -> None:
    done = pod(0, 10, uid="a", phase="Succeeded")
    assert measure([done, pod(0, uid="b", index=1)], at(20), None).finished_at is None
    assert measure([done, pod(0, 15, uid="b", index=1, phase="Failed")], at(20), None).finished_at == at(15)


def test_an_unchanged_member_changes_no_sequence_but_the_time_of_the_look() -> None:
    done = [pod(0, 10, phase="Succeeded")]
    first = measure(done, at(20), None)
    again = measure(done, at(90), first)
    assert again.sequence == first.sequence
    assert again.observed_at == at(90)


def test_pods_long_gone_are_folded_and_still_counted() -> None:
    reading = measure([pod(0, 1, uid="0", phase="Failed")], at(2), None)
    for n in range(1, MAX_PODS + 40):
        reading = measure([pod(n, n + 1, uid=str(n), phase="Failed")], at(n + 2), reading)
    assert len(reading.pods) == MAX_PODS
    assert reading.gpu_seconds == MAX_PODS + 40
    assert reading.started_at == at(0)


def test_more_pods_than_a_reading_holds_is_refused() -> None:
    with pytest.raises(InvalidResourceError, match=str(MAX_PODS)) as refusal:
        measure([pod(0, uid=str(n)) for n in range(MAX_PODS + 1)], at(9), None)
    assert refusal.value.why == "TooManyPods"
