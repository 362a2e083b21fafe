"""The job loop against a hub in memory: what it writes, in which order, and what a crash or a second pass changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from tests.ledgers import attempts_of, open_attempt
from tests.unit.hub.world import COMPUTE_JOBS, World

from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.job import Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import InvalidResourceError, LedgerError
from fedgpu_operator.hub.views.jobfacts import SUPERSEDED


async def test_a_job_goes_to_the_cheapest_provider_and_its_finalizer_comes_before_the_lease(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.provider("dallas", "1.10", country="US")
    await world.job()
    await world.pass_once()
    job, lease = world.see(), world.lease
    assert lease.spec.provider == "dallas"
    assert lease.metadata.name == f"{job.metadata.uid}-1"
    assert lease.metadata.namespace == "fedgpu-provider-dallas"
    assert (lease.spec.price_per_gpu_hour, lease.spec.fencing_epoch, lease.spec.desired) == ("1.10", 1, "Run")
    assert job.status.state == "Placed"
    assert world.says("Placed") == ("True", "Placed")
    assert [c.provider for c in job.status.candidates] == ["dallas", "berlin"]
    writes = [(verb, plural) for verb, plural, _ in world.kube.writes if plural in ("computejobs", "computeleases")]
    first = writes.index(("create", "computeleases"))
    assert ("patch", "computejobs") in writes[:first], "the guarded write on the job begins the chain"
    assert ("Normal", "Placed") in world.events()


async def test_a_job_that_waited_before_there_was_any_offer_is_placed_once_there_is_one(world: World) -> None:
    """By a loop that goes on, which carries over what it judged in the pass before."""
    await world.job()
    loop = world.loop()
    await loop.pass_once()
    assert world.leases == []
    await world.provider("berlin")
    world.clock.forward(3600)
    await loop.pass_once()
    assert world.lease.spec.provider == "berlin"


async def test_an_attempt_that_ended_unknown_to_the_pass_gets_no_lease(world: World) -> None:
    """Its books are closed: what ran on such a lease would be billed to nobody."""
    job = await world.job()
    loop = world.loop()
    await loop.pass_once()
    uid = job.metadata.uid
    price, limit = MicroUSD(1_250_000), job.billable_limit
    terms = AttemptRequest(uid, "after-0", "team-a", "train", "berlin", "H100", price, job.gpus, limit)
    ended = await open_attempt(world.ledger, terms, world.clock.now())
    await world.ledger.end_attempt(ended.lease_name, SUPERSEDED, world.clock.now())
    await world.provider("berlin")
    world.clock.forward(3600)
    await loop.pass_once()
    assert world.leases == []
    assert world.see().status.placement is None, "nothing is told of it either"
    await loop.pass_once()
    assert [lease.metadata.name for lease in world.leases] == [f"{uid}-2"], "what the ledger holds was read anew"


async def test_a_second_pass_changes_nothing(world: World) -> None:
    await world.placed()
    before = dict(world.kube.objects)
    writes = len(world.kube.writes)
    await world.pass_once()
    await world.pass_once()
    assert world.kube.objects == before
    assert len(world.kube.writes) == writes
    assert len(await attempts_of(world.ledger, world.see().metadata.uid)) == 1


async def test_a_job_that_vanished_during_the_pass_starts_nothing(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()

    def vanish(verb: str, plural: str, name: str) -> None:
        if plural == "computejobs":
            world.kube.objects.pop((COMPUTE_JOBS.plural, "team-a", "train"), None)

    world.kube.before = vanish
    await world.pass_once()
    assert world.leases == []
    assert await attempts_of(world.ledger, job.metadata.uid) == ()


async def test_a_job_made_anew_under_the_same_name_does_not_inherit_the_decision(world: World) -> None:
    await world.provider("berlin")
    old = await world.job()

    def replace(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("patch", "computejobs"):
            world.kube.objects[COMPUTE_JOBS.plural, "team-a", "train"]["metadata"]["uid"] = "0" * 36
            world.kube.before = lambda *_: None

    world.kube.before = replace
    await world.pass_once()
    assert world.leases == []
    assert await attempts_of(world.ledger, old.metadata.uid) == ()


@pytest.mark.parametrize(
    ("verb", "plural"), [("patch", "computejobs"), ("create", "computeleases"), ("status", "computejobs")]
)
async def test_a_crash_between_two_writes_gives_one_single_lease(world: World, verb: str, plural: str) -> None:
    await world.provider("berlin")
    await world.provider("dallas", "1.10", country="US")
    job = await world.job()
    await world.crash(verb, plural)
    world.clock.forward(3)
    # Prices move while the operator is away: what the job's status promised is kept all the same, nothing else is.
    await world.provider("cheaper", "0.10")
    await world.pass_once()
    attempts = await attempts_of(world.ledger, job.metadata.uid)
    assert [each.outcome for each in attempts] == ([""] if verb != "status" else ["Superseded", ""])
    assert world.lease.metadata.name == attempts[-1].lease_name
    assert world.lease.spec.provider == attempts[-1].terms.provider
    expected = "dallas" if plural == "computeleases" else "cheaper"
    assert world.lease.spec.provider == expected
    placement = world.see().status.placement
    assert placement is not None
    assert placement.provider == expected


async def test_a_lease_object_that_was_lost_is_made_again_and_not_a_new_attempt(world: World) -> None:
    await world.placed()
    lease = world.lease
    await world.runs(lease, 10)
    await world.pass_once()
    world.lose(lease)
    await world.pass_once()
    again = world.lease
    assert again.metadata.name == lease.metadata.name
    changed = {"sequence_base": again.spec.sequence_base, "workload": None}
    assert again.spec == lease.spec.model_copy(update=changed), "it starts nothing: the workload may have run already"
    assert len(await attempts_of(world.ledger, world.see().metadata.uid)) == 1


async def test_a_job_that_waits_counts_once_for_each_reason_it_waits_for(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.job(maxPricePerGPUHour="1.00")
    loop = world.loop()
    counted: Counter[str] = Counter()
    for _ in range(5):
        world.metrics.refused = {}
        await loop.pass_once()
        counted.update(world.metrics.refused)
        world.clock.forward(31)
    assert counted == {"PriceAboveLimit": 1}
    assert world.see().status.reason == "PriceAboveLimit"


async def test_no_dry_run_takes_anything_from_a_real_job_and_none_from_another(world: World) -> None:
    """Each is judged alone, against all that is free; what is really placed is as if there were none."""
    await world.provider("berlin", free={8: 1})
    for number in range(8):
        await world.job(f"dry-{number}", dryRun=True)
        await world.job(f"real-{number}")
    await world.pass_once()
    assert [lease.spec.job.name for lease in world.leases] == [f"real-{number}" for number in range(8)]
    for number in range(8):
        assert "would go to berlin" in world.message("Placed", f"dry-{number}")


async def test_dry_run_answers_and_reserves_nothing(world: World) -> None:
    await world.provider("berlin", "1.25")
    job = await world.job(dryRun=True)
    await world.pass_once()
    status = world.see().status
    assert status.state == "DryRun"
    assert world.says("Placed") == ("False", "DryRun")
    assert "would go to berlin" in world.message("Placed")
    assert "at most 1.260416 USD" in world.message("Placed")
    assert world.leases == []
    assert world.see().metadata.finalizers == []
    assert await attempts_of(world.ledger, job.metadata.uid) == ()
    assert status.placement is None


async def test_dry_run_of_what_nobody_offers_gives_the_histogram(world: World) -> None:
    await world.provider("berlin")
    await world.job(dryRun=True, maxPricePerGPUHour="0.10")
    await world.pass_once()
    assert world.see().status.state == "DryRun"
    assert world.says("Placed") == ("False", "PriceAboveLimit")
    assert "0/1" in world.message("Placed")


async def test_nothing_is_placed_while_a_new_provider_has_yet_to_report_but_not_for_long(world: World) -> None:
    await world.provider("dear", "6.04")
    await world.provider("new", "0.80")
    await world.ready("new", "Unknown", "AwaitingReport", state="Pending")
    await world.job()
    loop_began = world.clock.now()
    assert await world.pass_once() == 1.0
    assert world.leases == []
    assert world.says("Placed") == ("False", "Queued")
    world.clock.forward(11)
    assert world.clock.now() > loop_began


async def test_a_policy_that_cannot_be_honoured_blocks_its_namespaces_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The schema lets no such policy through; one written under an older schema could still lie in etcd.
    def unreadable(policy: PlacementPolicy) -> Policy:
        raise InvalidResourceError("UnknownPlace", "spec.placement: no such place")

    monkeypatch.setattr(PlacementPolicy, "to_domain", unreadable)
    await world.provider("berlin")
    await world.namespace("team-b", {"law": "strict"})
    await world.policy("broken", {"law": "strict"}, {"countries": ["DE"]})
    await world.job("free")
    await world.job("bound", namespace="team-b")
    await world.pass_once()
    assert world.says("Placed", "free") == ("True", "Placed")
    assert world.says("Placed", "bound", "team-b") == ("False", "InvalidPolicy")
    assert [lease.spec.job.name for lease in world.leases] == ["free"]


async def test_a_policy_binds_by_namespace_label(world: World) -> None:
    await world.provider("dallas", "1.00", country="US")
    await world.provider("berlin", "2.00", country="DE")
    await world.namespace("team-b", {"law": "gdpr"})
    await world.policy("gdpr", {"law": "gdpr"}, {"groups": ["EU"]})
    await world.job("free")
    await world.job("bound", namespace="team-b")
    await world.pass_once()
    where = {lease.spec.job.name: lease.spec.provider for lease in world.leases}
    assert where == {"free": "dallas", "bound": "berlin"}
    placement = world.see("bound", "team-b").status.placement
    assert placement is not None
    assert placement.policies == ["gdpr@1"]


async def test_without_an_account_nothing_is_funded_where_settlement_is_on(world: World) -> None:
    world.settlement = True
    await world.provider("berlin", payout={"address": "0x" + "66" * 20})
    await world.job()
    await world.pass_once()
    assert world.leases == []
    assert world.says("Admitted") == ("False", "Unfunded")
    assert world.says("Placed") == ("False", "Unfunded")
    assert ("Warning", "Unfunded") in world.events()


async def test_the_accounts_cap_per_job_is_a_budget(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.account("0x" + "11" * 20, maxPerJob="1.24")
    await world.job("hour")
    await world.job("short", runLimitSeconds=3540)
    await world.pass_once()
    assert world.says("Placed", "hour") == ("False", "OverBudget")
    assert world.says("Placed", "short") == ("True", "Placed")


async def test_a_template_that_cannot_be_rendered_is_refused_and_opens_no_attempt(world: World) -> None:
    await world.provider("berlin")
    env = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
    container = {"name": "main", "image": "example.com/work:1", "env": env}
    job = await world.job(template={"spec": {"containers": [container]}})
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "TemplateRefused")
    assert await attempts_of(world.ledger, job.metadata.uid) == (), "an open attempt would hold its money for ever"
    await world.delete("train")
    await world.pass_once()
    assert not world.exists()


async def test_a_job_that_names_no_place_on_earth_fails_with_the_field(world: World) -> None:
    await world.provider("berlin")
    await world.job("lost", latency={"from": {"region": "atlantis-1"}, "maxMs": 30})
    await world.job()
    await world.pass_once()
    assert world.says("Failed", "lost") == ("True", "UnknownPlace")
    assert "spec.latency.from" in world.message("Failed", "lost")
    assert world.says("Placed") == ("True", "Placed")


async def test_a_price_beyond_all_measure_stops_nobody_else(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.provider("mad", "999999999999")
    await world.job(gpu={"count": 8}, runLimitSeconds=2592000)
    await world.pass_once()
    assert world.says("Placed") == ("True", "Placed")


async def test_the_trouble_of_one_job_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.provider("berlin")
    bad = await world.job("bad")
    await world.job("good")
    histories = world.ledger.histories

    async def broken(uids: Sequence[str]) -> object:
        if bad.metadata.uid in uids:
            raise LedgerError("the books of this one are torn")
        return await histories(uids)

    monkeypatch.setattr(world.ledger, "histories", broken)
    await world.pass_once()
    assert world.says("Placed", "good") == ("True", "Placed")
    assert [lease.spec.job.name for lease in world.leases] == ["good"]


async def test_a_job_that_could_not_be_admitted_for_a_while_is_judged_again_after_a_restart(world: World) -> None:
    """Also if it had an attempt before: that it shows as failed is not its end."""
    await world.provider("berlin")
    await world.provider("paris", "2.00", country="FR")
    await world.namespace("labelled", {"tier": "gold"})
    await world.job(namespace="labelled")
    await world.pass_once()
    await world.ends(world.lease, "Failed", "MemberRejected")
    await world.policy("broken", {"tier": "gold"}, {"countries": ["XX"]})
    await world.pass_once()
    assert world.see(namespace="labelled").status.state == "Failed"
    assert world.says("Admitted", namespace="labelled")[0] == "False"
    del world.kube.objects["placementpolicies", "", "broken"]
    world.clock.forward(31)
    await world.pass_once()
    assert [lease.spec.provider for lease in world.leases] == ["berlin", "paris"]
