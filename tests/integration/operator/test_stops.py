"""What ends a run: suspension, deletion, the deadline, the run limit; the workload stops, and the meter with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.integration.operator.federation import PRICES, SECONDS_PER_HOUR, Tenant, eventually, micro

GERMAN = {"countries": ["DE"]}


def _live(tenant: Tenant) -> list[str]:
    return [pod["metadata"]["name"] for pod in tenant.pods("alpha") if pod["status"].get("phase") == "Running"]


def _usage(tenant: Tenant, name: str) -> int:
    return int(tenant.status(name)["usage"]["gpuSeconds"])


def test_suspension_stops_workload_and_meter_and_resuming_is_a_second_attempt(tenant: Tenant) -> None:
    tenant.apply(tenant.job("work", run="", placement=GERMAN))
    tenant.until_state("work", "Running")
    eventually("some usage", lambda: (tenant.status("work").get("usage") or {}).get("gpuSeconds"))
    assert len(_live(tenant)) == 1
    tenant.patch("work", suspend=True)
    status = tenant.until_state("work", "Suspended")
    assert tenant.condition("work", "Placed")["reason"] == "Suspended"
    assert _live(tenant) == []
    assert tenant.workloads("alpha") == []
    billed = status["usage"]["gpuSeconds"]
    (lease,) = tenant.leases("work")
    assert lease["status"]["state"] == "Stopped"
    tenant.patch("work", suspend=False)
    status = tenant.until_state("work", "Running")
    assert status["placement"]["attempt"] == 2
    assert status["usage"]["gpuSeconds"] >= billed
    assert status["usage"]["gpuSeconds"] - billed <= 2, "nothing was billed in between"
    assert [lease["spec"]["fencingEpoch"] for lease in tenant.leases("work")] == [1, 2]


def test_deleting_a_running_job_stops_it_bills_it_and_leaves_nothing(tenant: Tenant) -> None:
    slow = {"lab.fedgpu.dev/stop-delay": "2s"}
    tenant.apply(tenant.job("work", run="", placement=GERMAN, annotations=slow))
    tenant.until_state("work", "Running")
    eventually("some usage", lambda: (tenant.status("work").get("usage") or {}).get("gpuSeconds"))
    billed = _usage(tenant, "work")
    assert len(_live(tenant)) == 1
    tenant.delete("work")
    stopped = eventually("the tombstone", lambda: next(iter(tenant.leases("work")), None))
    assert not tenant.gone("work"), "the finalizer waits for the workload's end"
    assert stopped["spec"]["provider"] == "alpha"
    eventually("the job to go", lambda: tenant.gone("work"))
    eventually("its lease to go", lambda: not tenant.leases("work"))
    assert tenant.workloads("alpha") == []
    assert _live(tenant) == []
    assert billed >= 1

    def charged() -> bool:
        """What it used is owed or on its way, and nothing of it is reserved any more."""
        account = tenant.account()
        owed = sum(micro(account[part]) for part in ("accrued", "pending", "allocated", "settled"))
        return micro(account["committed"]) == 0 and owed >= micro(PRICES["alpha"]) * billed // SECONDS_PER_HOUR > 0

    eventually("the charge on the account", charged)


def test_deadline_and_run_limit_end_a_run_for_good(tenant: Tenant) -> None:
    deadline = (datetime.now(UTC) + timedelta(seconds=12)).strftime("%Y-%m-%dT%H:%M:%SZ")
    tenant.apply(
        tenant.job("dated", run="", placement=GERMAN, deadline=deadline),
        tenant.job("limited", run="", placement=GERMAN, runLimitSeconds=4),
        tenant.job("late", run="", placement=GERMAN, deadline="2020-01-01T00:00:00Z"),
    )
    tenant.until("late", "Failed", "True", "DeadlineExceeded")
    tenant.until("limited", "Failed", "True", "RunLimitExceeded")
    assert 4 <= _usage(tenant, "limited") <= 6
    tenant.until("dated", "Failed", "True", "DeadlineExceeded")
    assert 1 <= _usage(tenant, "dated") <= 14
    for name in ("dated", "limited", "late"):
        assert tenant.status(name)["state"] == "Failed"
    assert _live(tenant) == []
    assert len(tenant.leases("limited")) == 1, "it is not placed again"
    assert tenant.leases("late") == []


def test_a_failing_workload_is_billed_and_says_how_it_ended(tenant: Tenant) -> None:
    tenant.apply(tenant.job("crash", run="2s", annotations={"lab.fedgpu.dev/exit-code": "3"}))
    status = tenant.until_state("crash", "Failed")
    assert "3" in tenant.condition("crash", "Failed")["message"]
    assert status["usage"]["gpuSeconds"] >= 1
