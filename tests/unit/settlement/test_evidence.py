"""What is hashed for a signature: the same bytes on both sides of an API server, other bytes for any other figure."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.api.computelease import LeaseUsage
from fedgpu_operator.domain.usage import PodUsage, UsageReading
from fedgpu_operator.settlement.evidence import canonical, usage_detail, usage_hash, usage_root, usage_statement
from fedgpu_operator.settlement.typeddata import hub_domain

T0 = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
DOMAIN = hub_domain(31337, "0x" + "11" * 20)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=9))])
INSTANTS = st.builds(
    lambda microseconds, zone: (T0 + timedelta(microseconds=microseconds)).astimezone(zone),
    st.integers(0, 10**15),
    ZONES,
)
PODS = st.builds(
    PodUsage,
    uid=st.text(max_size=20),
    name=st.text(min_size=1, max_size=20),
    index=st.integers(0, 63),
    gpus=st.integers(0, 16),
    seconds=st.integers(0, 10**9),
    started_at=st.none() | INSTANTS,
    finished_at=st.none() | INSTANTS,
)
READINGS = st.builds(
    UsageReading,
    sequence=st.integers(1, 10**9),
    gpu_seconds=st.integers(0, 2**53 - 1),
    started_at=st.none() | INSTANTS,
    finished_at=st.none() | INSTANTS,
    observed_at=INSTANTS,
    pods=st.lists(PODS, max_size=4).map(tuple),
    folded_gpu_seconds=st.integers(0, 2**53 - 1),
)


def reading() -> UsageReading:
    pod = PodUsage("uid-0", "pod-0", 0, 4, 90, T0, T0 + timedelta(seconds=90))
    return UsageReading(7, 372, T0, T0 + timedelta(seconds=90), T0 + timedelta(seconds=91.25), (pod,), 12)


@given(READINGS)
def test_a_trip_through_an_api_server_changes_nothing_that_is_signed(before: UsageReading) -> None:
    wire = json.loads(json.dumps(LeaseUsage.from_domain(before, final=False).to_wire()))
    after = LeaseUsage.model_validate(wire).to_domain()
    assert after is not None
    assert usage_detail(after) == usage_detail(before)
    assert usage_statement(DOMAIN, "lease", 1, after).digest == usage_statement(DOMAIN, "lease", 1, before).digest


def test_the_detail_is_written_so_that_an_outsider_can_hash_it() -> None:
    assert usage_detail(reading()) == (
        '{"finishedAt":"2026-01-01T12:01:30.000000Z","foldedGPUSeconds":12,"pods":[{"finishedAt":'
        '"2026-01-01T12:01:30.000000Z","gpus":4,"index":0,"name":"pod-0","seconds":90,'
        '"startedAt":"2026-01-01T12:00:00.000000Z","uid":"uid-0"}],"startedAt":"2026-01-01T12:00:00.000000Z"}'
    )
    assert usage_hash(reading()) == "0x" + keccak(text=usage_detail(reading())).hex()


def test_every_figure_is_in_the_digest() -> None:
    base, pod = reading(), reading().pods[0]
    changed = [
        replace(base, gpu_seconds=371),
        replace(base, folded_gpu_seconds=13),
        replace(base, started_at=None),
        replace(base, finished_at=None),
        replace(base, observed_at=T0 + timedelta(seconds=92)),
        replace(base, pods=()),
        *(
            replace(base, pods=(replace(pod, **change),))
            for change in (
                {"uid": "uid-1"},
                {"name": "pod-1"},
                {"index": 1},
                {"gpus": 3},
                {"seconds": 91},
                {"started_at": None},
                {"finished_at": None},
            )
        ),
    ]
    digests = {usage_statement(DOMAIN, "lease", 7, each).digest for each in [base, *changed]}
    digests.add(usage_statement(DOMAIN, "lease", 8, base).digest)
    digests.add(usage_statement(DOMAIN, "other", 7, base).digest)
    digests.add(usage_statement(hub_domain(1, "0x" + "11" * 20), "lease", 7, base).digest)
    digests.add(usage_statement(hub_domain(31337, "0x" + "22" * 20), "lease", 7, base).digest)
    assert len(digests) == len(changed) + 5


@given(st.dictionaries(st.text(max_size=8), st.integers(1, 2**53 - 2), max_size=5), st.randoms())
def test_the_root_does_not_know_the_order_but_every_lease(leases: dict[str, int], random: Random) -> None:
    shuffled = list(leases.items())
    random.shuffle(shuffled)
    assert usage_root(shuffled) == usage_root(leases.items())
    assert usage_root([*shuffled, ("unused", 0)]) == usage_root(shuffled)
    for name in leases:
        assert usage_root((leases | {name: leases[name] + 1}).items()) != usage_root(leases.items())


def as_written_before(document: object) -> str:
    """How earlier releases, without a library for RFC 8785, wrote every manifest and receipt that is stored."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
"""What addresses, hashes, amounts, heads of the ledger, and names of leases and pods are made of."""
DOCUMENTS = st.recursive(
    PRINTABLE | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_what_is_stored_has_the_same_bytes_as_ever(document: object) -> None:
    assert canonical(document) == as_written_before(document)


@given(st.dictionaries(PRINTABLE, st.integers(1, 2**53 - 1), max_size=8))
def test_the_root_of_a_receipt_is_the_same_as_ever(leases: dict[str, int]) -> None:
    text = as_written_before([[name, seconds] for name, seconds in sorted(leases.items())])
    assert usage_root(leases.items()) == "0x" + keccak(text=text).hex()


@pytest.mark.parametrize("document", [2**53, -(2**53), float("nan"), "\ud800"])
def test_what_no_reader_of_json_reads_alike_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"(?s)."):
        canonical(document)
