"""What is held shares its equal parts, and says just what it said before."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from fedgpu_operator.adapters.kube.holding import KEPT, Twins, Words
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def raw(number: int, **spec: object) -> JSONObject:
    container = {"name": "main", "image": "example.com/train:1", "args": ["--seed", "7"]}
    condition = {"type": "Admitted", "status": "True", "reason": "Admitted", "lastTransitionTime": NOW.isoformat()}
    return {
        "metadata": {"name": f"job-{number}", "namespace": "team", "uid": f"uid-{number}"},
        "spec": {
            "runLimitSeconds": 3600,
            "gpu": {"count": 1},
            "template": {"spec": {"containers": [container]}},
            **spec,
        },
        "status": {"state": "Placed", "conditions": [condition]},
    }


def shared(twins: Twins, number: int, **spec: object) -> ComputeJob:
    job = ComputeJob.parse(raw(number, **spec))
    twins.share(job)
    return job


def test_jobs_made_from_one_template_hold_its_parts_once() -> None:
    twins = Twins()
    first, second = shared(twins, 1), shared(twins, 2)
    assert first.spec is second.spec
    assert first.status.conditions[0] is second.status.conditions[0]
    assert (first.metadata.name, second.metadata.name) == ("job-1", "job-2")


def test_where_jobs_differ_only_that_is_their_own() -> None:
    twins = Twins()
    first, second = shared(twins, 1), shared(twins, 2, budget="7")
    assert (first.spec.budget, second.spec.budget) == (None, "7")
    assert first.spec.template is second.spec.template
    assert first.spec.disruption is second.spec.disruption


def test_nothing_is_said_otherwise_for_being_shared() -> None:
    twins = Twins()
    for number in range(3 * KEPT):
        spec: dict[str, object] = {"budget": str(number % 3), "replicas": 1 + number % (KEPT + 2)}
        assert shared(twins, number, **spec).to_wire() == ComputeJob.parse(raw(number, **spec)).to_wire()


def test_equal_words_are_one_while_they_are_met() -> None:
    words = Words(most=3)
    first = words.share(str(70_000_001))
    for number in range(20):
        words.share(f"other-{number % 2}")
        assert words.share(str(70_000_001)) is first


def test_words_that_are_met_no_more_are_let_go() -> None:
    """`sys.intern` would keep them for as long as the process lives, on Python 3.12.0 to 3.12.5."""
    words = Words(most=100)
    word = str(70_000_002)
    before = sys.getrefcount(word)
    words.share(word)
    for number in range(10_000):
        words.share(f"other-{number}")
    assert len(words) == 100
    assert sys.getrefcount(word) == before


def test_what_only_one_object_has_is_not_remembered() -> None:
    words = Words()
    twins = Twins(words)
    shared(twins, 0)
    before = len(words)
    for number in range(1, 500):
        shared(twins, number)
    assert len(words) == before
