"""What is left of work that has ended: nothing on the member, no lease, and no job that asked to go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.operator.federation import Federation, Tenant, eventually

GERMAN = {"countries": ["DE"]}


@pytest.fixture
def hasty(running: Federation) -> Iterator[Federation]:
    """The federation, whose operator ends with the retention that it began with."""
    yield running
    running.operator.again(WORKLOAD_RETENTION_SECONDS="3600")


def test_work_that_was_paid_leaves_its_status_or_nothing_at_all(hasty: Federation, tenant: Tenant) -> None:
    """With the rights of the chart's account, and what its admission policies make of them."""
    tenant.apply(tenant.job("kept", placement=GERMAN), tenant.job("gone", placement=GERMAN, ttlSecondsAfterFinished=0))
    tenant.until_state("kept", "Succeeded")
    hasty.until_settled([(tenant, "kept")])

    def gone() -> bool:
        hasty.jump_over_windows()
        return tenant.gone("gone")

    eventually("the job with a TTL to go", gone)
    eventually("its lease to go", lambda: not tenant.leases("gone"))
    before = tenant.status("kept")
    assert len(tenant.leases("kept")) == 1, "its owner can still look at the pods"
    assert len(tenant.workloads("alpha")) == 1, "those of the other job were cleared away"

    hasty.operator.again(WORKLOAD_RETENTION_SECONDS="1")
    eventually("the lease to go", lambda: not tenant.leases("kept"))
    assert tenant.workloads("alpha") == []
    assert tenant.pods("alpha") == []
    tenant.patch("kept", budget="150")
    after = eventually(
        "the status to be written once more",
        lambda: now if (now := tenant.status("kept"))["observedGeneration"] > before["observedGeneration"] else None,
    )
    for field in ("state", "usage", "startTime", "completionTime", "placement", "settlement"):
        assert after[field] == before[field], field
    assert not tenant.leases("kept"), "no lease was made again"
