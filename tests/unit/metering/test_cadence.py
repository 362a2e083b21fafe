"""When a reading is written: news at once, and what merely counts on at most a fiftieth of a lease's age late."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS, PodUsage, UsageReading
from fedgpu_operator.metering import worth_writing

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def reading(after: float, *pods: PodUsage, sequence: int = 1, folded: int = 0) -> UsageReading:
    """As it is read so many seconds after the start."""
    pods = pods or (PodUsage("a", "a", 0, 8, int(after), started_at=START),)
    total = folded + sum(pod.gpu_seconds for pod in pods)
    starts = [pod.started_at for pod in pods if pod.started_at is not None]
    return UsageReading(
        sequence, total, min(starts, default=None), None, START + timedelta(seconds=after), pods, folded
    )


@pytest.mark.parametrize(
    ("age", "passed", "written"),
    [
        (10, 14, False),
        (10, 15, True),
        (750, 14, False),
        (750, 15, True),
        (HOUR, 71, False),
        (HOUR, 72, True),
        (4 * HOUR, 287, False),
        (4 * HOUR, 288, True),
        (30 * 24 * HOUR, LONGEST_UNWRITTEN_SECONDS - 1, False),
        (30 * 24 * HOUR, LONGEST_UNWRITTEN_SECONDS, True),
        (-HOUR, 14, False),
        (-HOUR, 15, True),
    ],
)
def test_what_counts_on_is_written_after_a_fiftieth_of_the_age(age: float, passed: float, written: bool) -> None:
    before, after = reading(100), reading(100 + passed, sequence=2)
    shortest = timedelta(seconds=15)
    assert worth_writing(before, after, age=timedelta(seconds=age), shortest=shortest) is written


def test_a_longer_setting_is_kept_to() -> None:
    before, after = reading(0), reading(90, sequence=2)
    assert not worth_writing(before, after, age=timedelta(seconds=90), shortest=timedelta(seconds=100))


POD = PodUsage("a", "a", 0, 8, 100, started_at=START)


@pytest.mark.parametrize(
    "pods",
    [
        (POD, PodUsage("b", "b", 1, 8, 0)),
        (POD, PodUsage("b", "b", 1, 8, 1, started_at=START)),
        (replace(POD, finished_at=START + timedelta(seconds=101)),),
        (PodUsage("b", "b", 0, 8, 100, started_at=START),),
    ],
    ids=["another pod", "another pod that runs", "the pod ended", "the pod was replaced"],
)
def test_news_of_a_pod_is_written_at_once(pods: tuple[PodUsage, ...]) -> None:
    before, after = reading(100, POD), reading(101, *pods, sequence=2)
    assert worth_writing(before, after, age=timedelta(days=30), shortest=timedelta(seconds=15))


def test_a_start_is_written_at_once() -> None:
    waiting, runs = PodUsage("a", "a", 0, 8, 0), PodUsage("a", "a", 0, 8, 1, started_at=START)
    before, after = reading(0, waiting), reading(1, runs, sequence=2)
    assert worth_writing(before, after, age=timedelta(days=30), shortest=timedelta(seconds=15))


def test_the_first_reading_is_written_and_the_same_one_is_not() -> None:
    first = reading(0)
    assert worth_writing(None, first, age=timedelta(0), shortest=timedelta(seconds=15))
    again = replace(first, observed_at=START + timedelta(days=1))
    assert not worth_writing(first, again, age=timedelta(days=1), shortest=timedelta(seconds=15))


def test_ten_thousand_old_leases_write_thirty_three_readings_a_second() -> None:
    """The same leases looked at every 15 s, as an agent does, for an hour of theirs."""
    age, last, writes = timedelta(days=2), reading(0), 0
    for sequence, second in enumerate(range(15, 3601, 15), start=2):
        now = reading(second, sequence=sequence)
        if worth_writing(last, now, age=age, shortest=timedelta(seconds=15)):
            last, writes = now, writes + 1
    assert 10_000 * writes / 3600 == pytest.approx(10_000 / LONGEST_UNWRITTEN_SECONDS)
