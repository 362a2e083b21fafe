"""What an object weighs in etcd, and that whatever its schema lets into a status has room beside the largest spec."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.api.base import (
    HEADROOM,
    LEASE_METADATA_BYTES,
    LEASE_STATUS_BYTES,
    MAX_MESSAGE,
    MOST_STORED,
    Condition,
    excess_of_job,
    excess_of_lease,
    stored_bytes,
)
from fedgpu_operator.api.computelease import ComputeLeaseStatus, LeaseUsage, PodReading
from fedgpu_operator.api.jobspec import MAX_TEXT

WORST = "<"
"""Six bytes where it is stored."""
NOW = datetime(2026, 1, 1, 12, 0, 0, 999999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("b", "b"),
        ("<>&", r"\u003c\u003e\u0026"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ('"\\\n\t\x01', r"\"\\\n\t\u0001"),
        ("ä€😀", "ä€😀"),
    ],
)
def test_text_is_as_long_as_gos_encoder_writes_it(text: str, stored: str) -> None:
    assert stored_bytes({"a": text}) == len(f'{{"a":"{stored}"}}'.encode())


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_it_is_never_less_than_plain_json_and_at_most_six_times_as_much(value: object) -> None:
    plain = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"))
    assert plain <= stored_bytes(value) <= 6 * plain


def fullest_lease_status() -> ComputeLeaseStatus:
    """As much as the schema of a lease's status lets in."""
    pod = PodReading(
        name=WORST * 253,
        uid=WORST * 64,
        index=1023,
        gpus=64,
        started_at=NOW,
        finished_at=NOW,
        seconds=2**53 - 1,
    )
    conditions = [
        Condition(
            type=WORST * 64,
            status="Unknown",
            reason="R" * 64,
            message=WORST * MAX_MESSAGE,
            last_transition_time=NOW,
            observed_generation=2**53,
        )
        for _ in range(16)
    ]
    usage = LeaseUsage(
        sequence=2**53,
        gpu_seconds=2**53,
        folded_gpu_seconds=2**53 - 1,
        started_at=NOW,
        finished_at=NOW,
        observed_at=NOW,
        signature="0x" + "f" * 2048,
        final=True,
        pods=[pod] * 128,
    )
    return ComputeLeaseStatus(
        observed_generation=2**53,
        state="Succeeded",
        workload_uid=WORST * 64,
        exit_message=WORST * 1024,
        usage=usage,
        conditions=conditions,
    )


def test_the_fullest_status_of_a_lease_has_room() -> None:
    assert LEASE_STATUS_BYTES * 0.9 < stored_bytes(fullest_lease_status().to_wire()) <= LEASE_STATUS_BYTES


def test_the_longest_template_of_ordinary_text_always_fits_a_lease() -> None:
    assert excess_of_lease({"spec": {"workload": "é" * MAX_TEXT}}) == 0


@pytest.mark.parametrize("over", [0, 1, 77])
def test_what_does_not_fit_is_told_to_the_byte(over: int) -> None:
    room = MOST_STORED - HEADROOM - LEASE_STATUS_BYTES - LEASE_METADATA_BYTES
    assert excess_of_lease({"a": "x" * (room - len('{"a":""}') + over)}) == over


def test_the_status_that_a_job_has_now_does_not_count_beside_the_one_it_may_get() -> None:
    assert excess_of_job({"spec": {}, "status": {"a": "x" * MOST_STORED}}) == 0
