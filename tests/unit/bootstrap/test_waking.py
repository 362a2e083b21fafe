"""What of a change wakes the loops: that a location was confirmed is what jobs wait for."""

from __future__ import annotations

from typing import Any

import pytest

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.bootstrap.waking import woken


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

    assert woken("computeaccounts", account(), account(balance="1")) == ("jobs",)
    changed = account().model_copy(update={"metadata": account().metadata.model_copy(update={"generation": 2})})
    assert woken("computeaccounts", account(), changed) == ("accounts", "jobs")


def job(ttl: int | None, *, ended: bool) -> ComputeJob:
    spec = {
        "runLimit": "1h",
        "template": {"spec": {"containers": [{"name": "a", "image": "b"}]}},
        "ttlSecondsAfterFinished": ttl,
    }
    at = "2026-01-01T00:00:00Z"
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": at}
    status = {"observedGeneration": 1, "conditions": [failed] if ended else []}
    return ComputeJob.parse(
        {"metadata": {"name": "train", "uid": "u", "generation": 1}, "spec": spec, "status": status}
    )


@pytest.mark.parametrize(("ttl", "wakes"), [(0, ("retention",)), (None, ())])
def test_a_job_that_finished_wakes_who_deletes_it(ttl: int | None, wakes: tuple[str, ...]) -> None:
    assert woken("computejobs", job(ttl, ended=False), job(ttl, ended=True)) == wakes
    assert woken("computejobs", job(ttl, ended=True), job(ttl, ended=True)) == ()
