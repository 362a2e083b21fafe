"""Whom a change of each kind wakes, and whom not: nobody is woken by what it did itself."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from fedgpu_operator.api.base import Finding, Resource, merge
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.bootstrap.system import System
from fedgpu_operator.operator.changes import HANDLERS, KOPF_KINDS, ObjectChange, dispatch

OBJECTS = Path(__file__).resolve().parents[2] / "integration" / "api" / "objects" / "minimal"


class Ears:
    """A system that notes who was woken."""

    def __init__(self, winding_down: str = "") -> None:
        self.woken: list[str] = []
        self._winding_down = winding_down
        self.supervisor = SimpleNamespace(
            wake=lambda namespace: self.woken.append(f"agent {namespace}"),
            winds_down=lambda namespace: namespace == self._winding_down,
        )

    def wake(self, *names: str) -> None:
        self.woken += names


def woken(
    plural: str,
    before: Resource | None = None,
    after: Resource | None = None,
    *,
    namespace: str = "",
    ears: Ears | None = None,
) -> list[str]:
    heard = ears or Ears()
    dispatch(cast("System", heard), plural, ObjectChange(namespace, before, after))
    return heard.woken


def test_every_kind_has_a_handler_and_every_change_of_a_new_object_wakes_a_loop() -> None:
    assert set(HANDLERS) == {kind.info.plural for kind in KINDS} | {"namespaces"}
    for plural in HANDLERS:
        assert woken(plural), plural


def test_kopf_watches_what_people_edit_and_no_kind_twice() -> None:
    assert {kind.info.plural for kind in KOPF_KINDS} == {"gpuproviders", "placementpolicies"}
    assert len(set(KOPF_KINDS)) == len(KOPF_KINDS)


def test_a_loop_that_does_not_run_is_not_woken() -> None:
    nothing: Any = None
    jobs: Any = SimpleNamespace(wake=lambda: heard.append("jobs"))
    heard: list[str] = []
    made = System(nothing, nothing, None, nothing, nothing, {"jobs": jobs}, nothing, nothing)
    made.wake("accounts", "jobs")
    assert heard == ["jobs"], "there is no account loop without a chain"


def test_a_handler_that_fails_ends_no_watch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        dispatch(cast("System", None), "placementpolicies", ObjectChange("", None, None))
    assert "a change of placementpolicies in '' was not handled" in caplog.text


def provider(**status: Any) -> GPUProvider:
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [{"product": "L4", "pricePerGPUHour": "0.43"}],
    }
    return GPUProvider.parse({"metadata": {"name": "berlin", "uid": "u"}, "spec": spec, "status": status})


@pytest.mark.parametrize(("status", "wakes"), [({"locationAudited": True}, True), ({"freeGPUs": 3}, False)])
def test_of_a_providers_status_only_what_placement_goes_by_wakes_the_jobs(status: dict[str, Any], wakes: bool) -> None:
    assert ("jobs" in woken("gpuproviders", provider(), provider(**status))) is wakes


def test_an_accounts_status_wakes_the_jobs_and_not_the_loop_that_wrote_it() -> None:
    def account(**status: Any) -> ComputeAccount:
        meta = {"name": "default", "namespace": "team-a", "uid": "u"}
        return ComputeAccount.parse({"metadata": meta, "spec": {"wallet": "0x" + "11" * 20}, "status": status})

    assert woken("computeaccounts", account(), account(balance="1")) == ["jobs"]
    changed = account().model_copy(update={"metadata": account().metadata.model_copy(update={"generation": 2})})
    assert woken("computeaccounts", account(), changed) == ["accounts", "jobs"]


def finished(ttl: int | None, *, ended: bool) -> ComputeJob:
    spec = {
        "runLimitSeconds": 3600,
        "template": {"spec": {"containers": [{"name": "a", "image": "b"}]}},
        "ttlSecondsAfterFinished": ttl,
    }
    at = "2026-01-01T00:00:00Z"
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": at}
    status = {"observedGeneration": 1, "conditions": [failed] if ended else []}
    return ComputeJob.parse(
        {"metadata": {"name": "train", "uid": "u", "generation": 1}, "spec": spec, "status": status}
    )


@pytest.mark.parametrize(("ttl", "wakes"), [(0, ["retention"]), (None, [])])
def test_a_job_that_finished_wakes_who_deletes_it(ttl: int | None, wakes: list[str]) -> None:
    assert woken("computejobs", finished(ttl, ended=False), finished(ttl, ended=True)) == wakes
    assert woken("computejobs", finished(ttl, ended=True), finished(ttl, ended=True)) == []


def lease(generation: int, version: str) -> ComputeLease:
    body = yaml.safe_load((OBJECTS / "computelease.yaml").read_text())
    body["metadata"] |= {"uid": "u", "generation": generation, "resourceVersion": version}
    return ComputeLease.parse(body)


def test_a_lease_wakes_its_agent_but_for_what_the_agent_wrote_itself() -> None:
    space = "fedgpu-provider-berlin"
    new, told, stopped = lease(1, "1"), lease(1, "2"), lease(2, "3")
    agent = f"agent {space}"
    assert woken("computeleases", None, new, namespace=space) == ["providers", agent], "the job loop made it"
    assert woken("computeleases", new, told, namespace=space) == ["jobs", "providers"]
    assert woken("computeleases", told, stopped, namespace=space) == ["jobs", "providers", agent]
    assert woken("computeleases", stopped, None, namespace=space) == ["jobs", "providers", agent]


@pytest.mark.parametrize(("namespace", "gone", "wakes"), [("a", True, True), ("a", False, False), ("b", True, False)])
def test_the_end_of_a_lease_wakes_who_waits_for_it_to_end_an_agent(namespace: str, gone: bool, wakes: bool) -> None:
    open_ = lease(1, "1")
    after = None if gone else open_
    assert ("agents" in woken("computeleases", open_, after, namespace=namespace, ears=Ears("a"))) is wakes
    end = merge([], [Finding("Failed", "True", "WorkloadFailed")], generation=1, now=datetime.now(UTC))
    ended = open_.model_copy(update={"status": open_.status.model_copy(update={"conditions": end})})
    assert "agents" not in woken("computeleases", ended, None, namespace=namespace, ears=Ears("a"))


def test_the_status_of_a_job_wakes_nobody_and_its_spec_does() -> None:
    new, shown = finished(None, ended=False), finished(None, ended=True)
    assert woken("computejobs", None, new) == ["jobs"]
    assert woken("computejobs", new, shown) == []
    suspended = new.model_copy(update={"metadata": new.metadata.model_copy(update={"generation": 2})})
    assert woken("computejobs", new, suspended) == ["jobs"]
    another = new.model_copy(update={"metadata": new.metadata.model_copy(update={"uid": "v"})})
    assert woken("computejobs", new, another) == ["jobs"]
