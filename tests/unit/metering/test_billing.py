"""What is payable: never more than the hub's own clock allows, never less than was billed before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.metering import Billed, Clip, HubObservation, bill

T0 = datetime(2025, 6, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def reading(*pods: tuple[int, int], folded: int = 0) -> UsageReading:
    """A reading of pods given as (gpus, seconds)."""
    usage = tuple(PodUsage(str(n), str(n), n, gpus, seconds) for n, (gpus, seconds) in enumerate(pods))
    return UsageReading(1, folded + sum(p.gpu_seconds for p in usage), T0, None, T0, usage, folded)


def hub(observed: float, *, gpus: int = 4, stopped: float | None = None, billed: int = 0) -> HubObservation:
    stop = None if stopped is None else at(stopped)
    return HubObservation(T0, at(observed), gpus, run_limit=3600, stopped_at=stop, grace=30, billed=billed)


def test_a_reading_within_the_hubs_clock_is_payable_as_it_is() -> None:
    assert bill(reading((4, 90)), hub(100)) == Billed(360, why=Clip.NONE)


def test_the_hubs_clock_clips_and_rounds_up() -> None:
    assert bill(reading((4, 500)), hub(99.2)) == Billed(400, why=Clip.HUB_CLOCK)


def test_usage_after_the_stop_and_its_grace_is_not_payable() -> None:
    assert bill(reading((4, 500)), hub(1000, stopped=100)) == Billed(520, why=Clip.STOPPED)
    assert bill(reading((4, 130)), hub(1000, stopped=100)) == Billed(520, why=Clip.NONE)


def test_a_stop_long_before_the_lease_leaves_nothing() -> None:
    assert bill(reading((4, 500)), hub(1000, stopped=-500)).gpu_seconds == 0


def test_the_run_limit_bounds_the_bill_to_the_second_since_no_more_was_reserved() -> None:
    assert bill(reading((4, 9000)), hub(90_000)) == Billed(4 * 3600, why=Clip.RUN_LIMIT)


def test_one_pods_impossible_claim_does_not_fill_the_room_of_another() -> None:
    assert bill(reading((2, 100_000), (2, 10)), hub(100)).gpu_seconds == 2 * 100 + 2 * 10


def test_more_gpus_than_were_leased_are_not_payable() -> None:
    assert bill(reading((64, 100)), hub(100)).gpu_seconds == 400


def test_a_total_larger_than_its_pods_is_not_payable() -> None:
    honest = reading((4, 50))
    lie = UsageReading(2, 399, T0, None, T0, honest.pods)
    assert bill(lie, hub(100)) == Billed(200, why=Clip.HUB_CLOCK)


def test_what_was_billed_stays_billed() -> None:
    assert bill(reading((1, 10)), hub(100, billed=300)).gpu_seconds == 300


READINGS = st.builds(
    lambda pods, folded: reading(*pods, folded=folded),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10**7)), max_size=5),
    st.integers(0, 10**7),
)


@given(
    READINGS,
    st.floats(-100, 1e6),
    st.floats(0, 1e5),
    st.none() | st.floats(-100, 1e6),
    st.integers(1, 64),
    st.integers(0, 10**8),
)
def test_no_reading_beats_the_clock_of_the_hub_and_no_delay_lowers_the_bill(
    claim: UsageReading, observed: float, later: float, stopped: float | None, gpus: int, billed: int
) -> None:
    now = hub(observed, gpus=gpus, stopped=stopped, billed=billed)
    payable = bill(claim, now).gpu_seconds
    assert billed <= payable <= max(billed, gpus * max(observed + 1, 0))
    assert payable <= max(billed, claim.gpu_seconds)
    assert bill(claim, hub(observed + later, gpus=gpus, stopped=stopped, billed=payable)).gpu_seconds >= payable
    assert (bill(claim, now).why is not Clip.NONE) == (
        bill(claim, hub(observed, gpus=gpus, stopped=stopped)).gpu_seconds < claim.gpu_seconds
    )
