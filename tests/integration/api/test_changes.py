"""Changes after creation: what is frozen, what is not, and who owns which condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedgpu_operator.api.base import JSONObject

Sample = Callable[[str, str], JSONObject]


@pytest.fixture
def placed(desk: Any, sample: Sample) -> JSONObject:
    """A full ComputeJob that has been placed."""
    document = sample("full", "ComputeJob")
    stored: JSONObject = desk.create(document)
    answer = desk.patch(stored, {"status": document["status"]}, "--subresource=status")
    assert answer.returncode == 0, answer.stderr
    return stored


FROZEN: dict[str, object] = {
    "gpu": {"count": 4},
    "replicas": 3,
    "template": {"spec": {"securityContext": {"runAsUser": 2000}}},
    "placement": {"groups": ["EEA"]},
    "latency": None,
    "data": {"outputGiB": 9},
    "checkpoint": {"intervalSeconds": 3600},
    "disruption": {"maxMoves": 9},
    "retries": {"errors": 9},
    "priorityClassName": "someday",
    "strategy": {"preset": "Cheapest", "rates": None},
    "maxPricePerGPUHour": "9.99",
    "runLimitSeconds": 7200,
    "failover": None,
}


@pytest.mark.parametrize(("field", "value"), FROZEN.items(), ids=FROZEN.keys())
def test_after_placement_the_agreement_is_frozen(field: str, value: object, desk: Any, placed: JSONObject) -> None:
    answer = desk.patch(placed, {"spec": {field: value}})
    assert answer.returncode != 0
    assert f"spec.{field}: cannot change after placement" in answer.stderr
    assert "Delete the job and create a new one" in answer.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": False},
        {"deadline": "2028-01-01T00:00:00Z"},
        {"deadline": None},
        {"budget": "200"},
        {"ttlSecondsAfterFinished": 0},
        {"ttlSecondsAfterFinished": None},
    ],
    ids=str,
)
def test_after_placement_suspend_deadline_budget_and_ttl_may_change(
    change: JSONObject, desk: Any, placed: JSONObject
) -> None:
    answer = desk.patch(placed, {"spec": change})
    assert answer.returncode == 0, answer.stderr


def test_before_placement_everything_may_change(desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("full", "ComputeJob"))
    answer = desk.patch(stored, {"spec": FROZEN})
    assert answer.returncode == 0, answer.stderr


LEASE_CHANGES: dict[str, object] = {
    "pricePerGPUHour": "9",
    "fencingEpoch": 8,
    "attempt": 3,
    "provider": "beta",
    "product": "NVIDIA-L4",
    "replicas": 3,
    "gpusPerReplica": 4,
    "runLimitSeconds": 1,
    "memberNamespace": "kube-system",
    "job": {"name": "other"},
}


@pytest.mark.parametrize(("field", "value"), LEASE_CHANGES.items(), ids=LEASE_CHANGES.keys())
def test_a_lease_keeps_what_was_agreed(field: str, value: object, desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("minimal", "ComputeLease"))
    answer = desk.patch(stored, {"spec": {field: value}})
    assert answer.returncode != 0
    assert field in answer.stderr
    assert "frozen for the life of a lease" in answer.stderr


def test_a_lease_can_be_stopped_and_never_run_again(desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("minimal", "ComputeLease"))
    stop = desk.patch(stored, {"spec": {"desired": "Stop", "stopReason": "Suspended"}})
    assert stop.returncode == 0, stop.stderr
    again = desk.patch(stored, {"spec": {"desired": "Run"}})
    assert again.returncode != 0
    assert "a stopped lease never runs again" in again.stderr


def test_a_wallet_cannot_be_exchanged_but_its_proof_and_the_limit_can(desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("minimal", "ComputeAccount"))
    other = desk.patch(stored, {"spec": {"wallet": "0x" + "ab" * 20}})
    assert other.returncode != 0
    assert "spec.wallet: cannot change" in other.stderr
    assert "use a new namespace" in other.stderr
    assert desk.patch(stored, {"spec": {"maxPerJob": "5"}}).returncode == 0
    for proof in ({"signature": "0x1b", "issuedAt": 1}, {"signature": "0x1c", "issuedAt": 2}, None):
        assert desk.patch(stored, {"spec": {"proof": proof}}).returncode == 0


def test_a_settlement_epoch_is_never_corrected(desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("minimal", "SettlementEpoch"))
    answer = desk.patch(stored, {"spec": {"total": "0"}})
    assert answer.returncode != 0
    assert "a correction is a new epoch" in answer.stderr


def condition(kind: str, status: str, reason: str) -> JSONObject:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-02T03:04:05Z"}


def test_two_managers_own_their_conditions_side_by_side(desk: Any, sample: Sample) -> None:
    document = sample("minimal", "ComputeJob")
    stored = desk.create(document)

    def applied(manager: str, *conditions: JSONObject, check: bool = True) -> Any:
        body = {key: document[key] for key in ("apiVersion", "kind")}
        body |= {"metadata": {"name": document["metadata"]["name"]}, "status": {"conditions": list(conditions)}}
        options = ("apply", "--server-side", "--subresource=status", f"--field-manager={manager}", "-f", "-")
        return desk.kubectl(*options, document=body, check=check)

    applied("placement", condition("Placed", "True", "Placed"))
    applied("settlement", condition("Settled", "Unknown", "AwaitingFinality"))
    assert types(desk.read(stored)) == {"Placed": "Placed", "Settled": "AwaitingFinality"}

    taken = applied("settlement", condition("Placed", "False", "Stolen"), check=False)
    assert taken.returncode != 0
    assert "conflict" in taken.stderr

    applied("settlement")
    assert types(desk.read(stored)) == {"Placed": "Placed"}, "an applier takes back its own entry alone"


def types(stored: JSONObject) -> dict[str, str]:
    return {entry["type"]: entry["reason"] for entry in stored["status"]["conditions"]}


def test_a_status_written_with_the_object_is_ignored_and_a_spec_with_the_status_too(desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("full", "ComputeJob"))
    assert stored["status"] == {"observedGeneration": -1, "reason": "", "state": "Pending"}, (
        "what the definition says before anybody has looked"
    )
    answer = desk.patch(stored, {"spec": {"replicas": 9}, "status": {"state": "Placed"}}, "--subresource=status")
    assert answer.returncode == 0, answer.stderr
    after = desk.read(stored)
    assert (after["spec"]["replicas"], after["status"]["state"]) == (2, "Placed")
    assert after["metadata"]["generation"] == 1


def test_a_provider_cannot_date_its_usage_beyond_the_calendar_nor_mark_its_lease(desk: Any, sample: Sample) -> None:
    document = sample("full", "ComputeLease")
    stored = desk.create(document)
    name, usage = stored["metadata"]["name"], document["status"]["usage"]
    for instant in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2026-01-02T03:04:05"):
        pods = [{**usage["pods"][0], "startedAt": instant}]
        changes = [{field: instant} for field in ("observedAt", "startedAt", "finishedAt")] + [{"pods": pods}]
        for change in changes:
            answer = desk.patch(stored, {"status": {"usage": {**usage, **change}}}, "--subresource=status")
            assert answer.returncode != 0, change
            # Programs write a status: the field is named beside the plain pattern, which costs the server least.
            assert f"status.usage.{next(iter(change))}" in answer.stderr
            assert "should match" in answer.stderr
    wide = [{**usage["pods"][0], "name": f"trainer-{index}", "startedAt": f"{instant}.000001Z"} for index in range(128)]
    mark = {"annotations": {"fedgpu.dev/unsigned-since": "2026-01-01T00:00:00Z"}}
    written = {**document["status"], "usage": {**usage, "pods": wide}}
    answer = desk.patch(stored, {"metadata": mark, "status": written}, "--subresource=status")
    assert answer.returncode == 0, answer.stderr
    assert "annotations" not in desk.read(stored)["metadata"], "whoever may write a status may write nothing else"
    shown = desk.kubectl("get", "clease", name, "-o", "wide").stdout
    assert "<invalid>" not in shown
