"""What is held in memory of an object: less than the hub has, and never less than is read."""

from __future__ import annotations

import json

import pytest

from fedgpu_operator.adapters.kube.holding import _parser
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob


def placed_job(state: str, name: str = "one") -> JSONObject:
    offer = {
        "provider": "member-1",
        "product": "H100",
        "eligible": True,
        "price": "1.25",
        "effectivePrice": "1.25",
        "cost": "1.26",
        "score": 100,
    }
    waits = state in ("Pending", "Suspended", "DryRun")
    condition = {
        "type": "Failed" if state == "Failed" else "Placed",
        "status": "False" if waits else "True",
        "reason": state,
        "message": "least effective price of all that fit",
        "lastTransitionTime": "2026-11-23T08:00:00Z",
    }
    job: JSONObject = {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {
            "runLimitSeconds": 3600,
            "gpu": {"count": 1},
            "template": {"spec": {"containers": [{"name": "main", "image": "example.com/train:1"}]}},
        },
        "status": {"state": state, "candidates": [offer], "conditions": [condition]},
    }
    # As from an API server: nothing of one object is the same as of another.
    read: JSONObject = json.loads(json.dumps(job))
    return read


@pytest.mark.parametrize("state", ["Pending", "Suspended", "DryRun"])
def test_a_job_that_is_decided_again_is_held_with_the_offers_it_was_shown(state: str) -> None:
    job = _parser(ComputeJob)(placed_job(state))

    assert isinstance(job, ComputeJob)
    assert [each.provider for each in job.status.candidates] == ["member-1"]


@pytest.mark.parametrize("state", ["Placed", "Running", "Succeeded", "Failed"])
def test_a_job_that_has_its_place_is_held_without_the_others_it_could_have_had(state: str) -> None:
    whole = placed_job(state)
    job = _parser(ComputeJob)(whole)

    assert isinstance(job, ComputeJob)
    assert job.status.candidates == []
    assert job.model_copy(update={"status": ComputeJob.parse(whole).status}) == ComputeJob.parse(whole)


def test_equal_words_of_two_objects_are_held_once() -> None:
    one, two = _parser(ComputeJob)(placed_job("Placed")), _parser(ComputeJob)(placed_job("Placed", "two"))

    assert isinstance(one, ComputeJob)
    assert isinstance(two, ComputeJob)
    assert one.status.conditions[0].message is two.status.conditions[0].message
