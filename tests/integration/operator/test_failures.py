"""Members, chain and operator that fail while jobs run: silence is never failure, and nothing runs or is paid twice."""

from __future__ import annotations

import time

from tests.integration.operator.federation import PRICES, SECONDS_PER_HOUR, Federation, Json, Tenant, eventually, micro

GERMAN = {"countries": ["DE"]}
AMERICAN = {"countries": ["US"]}


def test_a_silent_member_is_unknown_and_its_running_job_is_left_alone(running: Federation, tenant: Tenant) -> None:
    tenant.apply(tenant.job("work", run="12s", placement=AMERICAN))
    tenant.until_state("work", "Running")
    beta = running.lab.members["beta"]
    beta.pause()
    try:
        silent = running.until_provider("beta", "Connected", "Unknown")
        assert silent["reason"]
        assert running.provider("beta")["state"] == "Unreachable"
        tenant.apply(tenant.job("next", run="1s"))
        assert tenant.until_state("next", "Succeeded")["placement"]["provider"] == "alpha", "no new work goes there"
        status = tenant.status("work")
        assert (status["state"], status["placement"]["attempt"]) == ("Running", 1)
        (lease,) = tenant.leases("work")
        assert lease["spec"]["desired"] == "Run"
    finally:
        beta.resume()
    running.until_provider("beta", "Ready", "True")
    status = tenant.until_state("work", "Succeeded", "Failed")
    assert status["state"] == "Succeeded"
    assert 10 <= status["usage"]["gpuSeconds"] <= 14


def test_a_silent_chain_stops_settlement_and_not_computing(running: Federation, tenant: Tenant) -> None:
    running.chain.pause()
    try:
        tenant.apply(tenant.job("work", run="2s"))
        tenant.until_state("work", "Succeeded")
        eventually("the account to say so", lambda: tenant.account()["state"] == "Unknown")
        account = tenant.account()
        assert account["conditions"][0]["reason"] == "ChainUnreachable"
        assert account["balance"] == "200.00", "the last figures stay"
        assert tenant.condition("work", "Settled")["status"] == "False"
    finally:
        running.chain.resume()
    running.until_settled([(tenant, "work")])
    eventually("the account to be funded again", lambda: tenant.account()["state"] == "Funded")


def test_a_killed_operator_comes_back_to_the_same_attempt_and_bills_once(running: Federation, tenant: Tenant) -> None:
    tenant.apply(tenant.job("work", run="8s", gpu={"count": 2}, placement=GERMAN))
    before = tenant.until_state("work", "Running")
    running.operator.kill()
    tenant.apply(tenant.job("meanwhile", run="1s", placement=GERMAN))
    time.sleep(1)  # no condition to wait for: nobody is there to write one
    running.operator.start()
    status = tenant.until_state("work", "Succeeded")
    assert status["placement"] == before["placement"]
    (lease,) = tenant.leases("work")
    assert lease["spec"]["attempt"] == 1
    assert len([job for job in tenant.workloads("alpha") if job["metadata"]["name"] == lease["metadata"]["name"]]) == 1
    assert 2 * 6 <= status["usage"]["gpuSeconds"] <= 2 * 10
    tenant.until_state("meanwhile", "Succeeded")
    running.until_settled([(tenant, "work"), (tenant, "meanwhile")])
    seconds = sum(tenant.status(name)["usage"]["gpuSeconds"] for name in ("work", "meanwhile"))
    assert running.paid(tenant.wallet, "alpha") == micro(PRICES["alpha"]) * seconds // SECONDS_PER_HOUR


def test_a_member_that_has_no_room_after_all_rejects_and_the_job_goes_elsewhere(
    running: Federation, tenant: Tenant
) -> None:
    beta, space = running.lab.members["beta"], f"foreign-{tenant.namespace}"
    beta.create_namespace(space)

    def foreign(name: str, gpus: int) -> None:
        limits = {"nvidia.com/gpu": str(gpus)}
        container = {"name": "main", "image": "example.com/own:1", "resources": {"limits": limits}}
        toleration = {"key": "nvidia.com/gpu", "operator": "Exists"}
        body = {"metadata": {"name": name}, "spec": {"containers": [container], "tolerations": [toleration]}}
        beta.api.create(f"/api/v1/namespaces/{space}/pods", body)
        path = f"/api/v1/namespaces/{space}/pods/{name}"
        eventually("the owner's own pod", lambda: beta.api.get(path)["status"].get("phase") == "Running")

    try:
        foreign("small", 1)
        # The report has just been made when the small pod shows; the next one is 10 s away.
        eventually("a fresh report", lambda: running.provider("beta")["freeGPUs"] == 7)
        foreign("large", 7)
        tenant.apply(tenant.job("work", run="2s"))
        status = tenant.until_state("work", "Succeeded")
        assert [lease["spec"]["provider"] for lease in tenant.leases("work")] == ["beta", "alpha"]
        assert status["placement"]["attempt"] == 2
        rejected = tenant.leases("work")[0]["status"]
        assert rejected["state"] == "Failed"
        assert "MemberRejected" in {one["reason"] for one in rejected["conditions"]}
        assert rejected["usage"]["gpuSeconds"] == 0
    finally:
        beta.delete_namespace(space)
        eventually("the owner's pods to be gone", lambda: not beta.api.get(f"/api/v1/namespaces/{space}/pods")["items"])
        eventually("free GPUs again", lambda: running.provider("beta")["freeGPUs"] == 8)


def test_a_node_that_refuses_work_costs_one_attempt_and_the_next_jobs_go_elsewhere(
    running: Federation, tenant: Tenant
) -> None:
    other = running.tenant(usd=50)
    broken = {"lab.fedgpu.dev/broken-nodes": "beta"}
    tenant.apply(tenant.job("first", run="1s", annotations=broken))
    eventually("a second attempt", lambda: len(tenant.leases("first")) == 2)
    other.apply(other.job("next", run="1s"))
    eventually("a place for the next job", lambda: other.leases("next"))
    assert [lease["spec"]["provider"] for lease in other.leases("next")] == ["alpha"], "beta is cheaper and idle"
    status = tenant.until_state("first", "Succeeded", "Failed")
    assert status["state"] == "Succeeded"
    refused, ran = tenant.leases("first")
    assert [lease["spec"]["provider"] for lease in (refused, ran)] == ["beta", "alpha"]
    assert "NodeRejected" in {one["reason"] for one in refused["status"]["conditions"]}
    assert refused["status"]["usage"]["gpuSeconds"] == 0
    assert "NodeRejected" in tenant.events("first")
    verdict = next(each for each in status["candidates"] if each["provider"] == "beta")
    assert verdict["reason"] == "CoolingDown"
    assert "no healthy devices present" in verdict["message"], "the node's own words reach the tenant"
    tenant.apply(tenant.job("ask", dryRun=True))

    def offered() -> bool:
        seen = tenant.status("ask").get("candidates", [])
        return any(each["provider"] == "beta" and each["eligible"] for each in seen)

    eventually("beta to be offered again", offered)


def test_a_lease_that_is_deleted_by_hand_adopts_what_runs_and_starts_nothing(tenant: Tenant) -> None:
    tenant.apply(tenant.job("work", run="", placement=GERMAN))
    before = tenant.until_state("work", "Running")
    (workload,) = tenant.workloads("alpha")
    (lease,) = tenant.leases("work")
    assert lease["spec"]["workload"]["metadata"]["name"] == lease["metadata"]["name"]
    tenant.remove(lease)

    def again() -> Json | None:
        (found,) = tenant.leases("work") or [lease]
        adopted = found.get("status", {}).get("workloadUid") == workload["metadata"]["uid"]
        return found if adopted and found["metadata"]["uid"] != lease["metadata"]["uid"] else None

    made = eventually("the lease to be made again", again)
    assert "workload" not in made["spec"]
    assert tenant.status("work")["placement"] == before["placement"]
    tenant.patch("work", suspend=True)
    tenant.until_state("work", "Suspended")
    assert tenant.workloads("alpha") == []
    # Its workload is gone and its attempt has ended: whoever deletes the lease now brings nothing back.
    (lease,) = tenant.leases("work")
    tenant.remove(lease)
    tenant.apply(tenant.job("next", run="1s", placement=GERMAN))
    tenant.until_state("next", "Succeeded")
    assert [each["metadata"]["name"] for each in tenant.workloads("alpha")] == [
        tenant.status("next")["placement"]["lease"]
    ]
    tenant.delete("work")
    eventually("the job to go", lambda: tenant.gone("work"))


def test_what_a_deleted_job_left_on_a_silent_member_is_cleared_when_it_is_back(
    running: Federation, tenant: Tenant
) -> None:
    tenant.apply(tenant.job("work", run="1s", placement=AMERICAN))
    tenant.until_state("work", "Succeeded")
    assert len(tenant.workloads("beta")) == 1
    beta = running.lab.members["beta"]
    beta.pause()
    try:
        running.until_provider("beta", "Connected", "Unknown")
        tenant.delete("work")
        eventually("the job to go", lambda: tenant.gone("work"))
        assert [lease["spec"]["desired"] for lease in tenant.leases("work")] == ["Stop"], "its tombstone stays"
    finally:
        beta.resume()
    running.until_provider("beta", "Ready", "True")
    eventually("the member to be cleared", lambda: not tenant.workloads("beta"))
    eventually("the tombstone to go", lambda: not tenant.leases("work"))
