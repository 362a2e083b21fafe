"""What a tenant, an owner or a bystander might try for free work or for trouble, and what stops it."""

from __future__ import annotations

from typing import Any

from tests.ledgers import attempts_of
from tests.unit.hub.world import COMPUTE_JOBS, PROVIDERS, World

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.services.hubstate import load_heartbeats
from fedgpu_operator.hub.views.accounts import EscrowFunds, Exposure
from fedgpu_operator.ports import COORDINATION_LEASES
from fedgpu_operator.settlement import Cover


def stubborn(grace: int) -> dict[str, Any]:
    """A template whose container may hold its GPUs for so long after the request to stop."""
    pod = {"terminationGracePeriodSeconds": grace, "containers": [{"name": "main", "image": "example.com/work:1"}]}
    return {"spec": pod}


async def test_a_long_grace_is_reserved_and_billed_like_the_run_it_prolongs(world: World) -> None:
    await world.provider("berlin")
    await world.job(runLimitSeconds=1, template=stubborn(3600), budget="1.00")
    await world.pass_once()
    assert world.says("Placed") == ("False", "OverBudget"), "the grace is part of the worst case"
    await world.job("rich", runLimitSeconds=1, template=stubborn(3600), budget="2.00")
    await world.pass_once()
    world.clock.forward(3601)
    await world.ends(world.lease, "Failed", "RunLimitExceeded", gpu_seconds=3601)
    await world.pass_once()
    usage = world.see("rich").status.usage
    assert usage is not None
    assert (usage.gpu_seconds, usage.cost) == (3601, "1.250347")


async def test_suspending_a_workload_that_will_not_end_is_billed_through_its_grace(world: World) -> None:
    await world.provider("berlin")
    await world.job(template=stubborn(600))
    await world.pass_once()
    world.clock.forward(5)
    await world.change("train", suspend=True)
    await world.pass_once()
    world.clock.forward(600)
    await world.ends(world.lease, "Stopped", gpu_seconds=605)
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 605


async def test_a_job_that_cannot_be_read_any_more_is_metered_to_its_end(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()
    await world.pass_once()
    world.kube.objects[COMPUTE_JOBS.plural, "team-a", "train"]["spec"]["deadline"] = "2030-02-30T00:00:00Z"
    world.clock.forward(60)
    await world.ends(world.lease, gpu_seconds=60)
    await world.pass_once()
    (attempt,) = await attempts_of(world.ledger, job.metadata.uid)
    assert attempt.outcome == "Succeeded"
    last = await world.ledger.last_usage(attempt.lease_name)
    assert last is not None
    assert last.gpu_seconds == 60


async def test_a_claim_nobody_accepted_places_nothing_however_fast_the_pass_comes(world: World) -> None:
    await world.provider("berlin")
    await world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"compliance": ["HIPAA"]}})
    await world.job(placement={"compliance": ["HIPAA"]})
    await world.pass_once()
    assert world.leases == []
    assert world.says("Placed") == ("False", "ProviderNotReady")


async def test_a_bystanders_lease_object_is_nobodys_heartbeat(world: World) -> None:
    for namespace, spec in (("evil", {"renewTime": "0000-01-01T00:00:00Z"}), ("odd", {}), ("none", None)):
        body = {"metadata": {"name": "fedgpu-agent", "namespace": namespace}, "spec": spec}
        await world.kube.create(COORDINATION_LEASES, body)
    assert await load_heartbeats(world.kube) == {}


def test_new_work_counts_on_no_more_than_the_next_epoch_may_debit() -> None:
    def usd(amount: int) -> MicroUSD:
        return MicroUSD(amount * 1_000_000)

    rich_and_locked = EscrowFunds(Cover(usd(1000), MicroUSD(1)), usd(0))
    assert rich_and_locked.available(Exposure(usd(0), usd(0))) == 1
    limited = EscrowFunds(Cover(usd(1000), usd(100)), usd(0))
    assert limited.available(Exposure(usd(0), usd(60))) == usd(40)


async def test_a_policy_of_a_newer_version_holds_up_placement_and_nothing_that_runs(world: World) -> None:
    await world.provider("berlin")
    await world.job("first")
    await world.pass_once()
    lease = world.lease
    await world.policy("newer", {}, {})
    world.kube.objects["placementpolicies", "", "newer"]["spec"]["placement"] = "a shape of tomorrow"
    await world.job("second")
    await world.ends(lease, gpu_seconds=10)
    world.clock.forward(10)
    await world.pass_once()
    assert world.see("first").status.state == "Succeeded"
    assert world.says("Placed", "second") == ("False", "InvalidPolicy")
