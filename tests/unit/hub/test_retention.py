"""What is deleted, when, and what never is: leases after their attempts, jobs after their TTL."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.unit.hub.signing import funded
from tests.unit.hub.world import COMPUTE_JOBS, LEASES, TEAM, Crash, World

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochStage, LeaseCover
from fedgpu_operator.errors import ForbiddenError
from fedgpu_operator.hub.loops import retention
from fedgpu_operator.hub.loops.retention import RetentionLoop

KEEP = 3600
USED = 60
VISIBLE = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}
"""What no template may set: such a job is refused."""


def keeper(world: World) -> RetentionLoop:
    """A retention loop that remembers nothing, as after a restart."""
    return world.factory(workload_retention_seconds=KEEP).retention_loop()


async def tidy(world: World) -> float | None:
    return await keeper(world).pass_once()


async def clear(world: World) -> None:
    """Every agent does what tombstones ask of it."""
    for lease in world.leases:
        if lease.status.ended and lease.spec.desired == "Stop":
            await world.cleared(lease)


async def ended(world: World, **spec: Any) -> ComputeLease:
    """A job that ran and succeeded; its lease."""
    if not any(plural == "gpuproviders" for plural, *_ in world.kube.objects):
        await world.provider("berlin")
    await world.job(**spec)
    await world.pass_once()
    lease = next(lease for lease in world.leases if not lease.status.ended)
    world.clock.forward(USED)
    await world.ends(lease, gpu_seconds=USED)
    await world.pass_once()
    return lease


async def ended_for_money(world: World, **spec: Any) -> ComputeLease:
    """As `ended`, of a tenant that pays on chain; nothing covers it yet."""
    lease = await funded(world, signer=None, **spec)
    world.clock.forward(USED)
    await world.ends(lease, gpu_seconds=USED)
    await world.pass_once()
    return lease


async def settled(world: World, lease: str, stage: EpochStage = EpochStage.PAID) -> None:
    """An epoch that covers the lease has come as far as that."""
    draft = EpochDraft(
        seq=0,
        prev_root="0x" + "00" * 32,
        root="0x" + "01" * 32,
        manifest=b"{}",
        manifest_hash="0x" + "02" * 32,
        period_end=world.clock.now().replace(microsecond=0),
        total=MicroUSD(1),
        lines=(),
        covers=(LeaseCover(lease, USED),),
    )
    epoch = await world.ledger.store_epoch(draft, world.clock.now())
    for step in (EpochStage.POSTED, EpochStage.FINALIZED, EpochStage.PAID):
        await world.ledger.mark_epoch(epoch.number, step, chain_epoch=1 if step is not EpochStage.POSTED else None)
        if step is stage:
            return


# ---------------------------------------------------------------- leases


async def test_a_lease_and_its_workload_go_with_their_attempt(world: World) -> None:
    await ended(world)
    due = await tidy(world)
    assert world.lease.spec.desired == "Run", "its owner can still look at the pods"
    assert due is not None
    assert KEEP - 1 <= due <= KEEP
    world.clock.forward(KEEP)
    await tidy(world)
    assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "RetentionOver")
    await tidy(world)
    assert world.leases, "its member is not cleared yet"
    await clear(world)
    await tidy(world)
    assert not world.leases


async def test_a_job_without_its_lease_shows_what_it_showed(world: World) -> None:
    await ended(world)
    before = world.see().status
    assert before.completion_time is not None
    world.clock.forward(KEEP)
    for _ in range(2):
        await tidy(world)
        await clear(world)
    assert not world.leases
    await world.change("train", budget="100")
    await world.pass_once()
    after = world.see().status
    assert after.observed_generation == before.observed_generation + 1, "the status was written"
    assert (after.state, after.usage, after.completion_time, after.start_time, after.placement) == (
        before.state,
        before.usage,
        before.completion_time,
        before.start_time,
        before.placement,
    )
    assert not world.leases, "and no lease was made again"


@pytest.mark.parametrize("again", [0, 1], ids=["given up", "waits for its next try"])
async def test_a_failed_job_without_its_lease_keeps_the_words_of_its_member(world: World, again: int) -> None:
    await world.provider("berlin")
    await world.job(retries={"errors": again})
    await world.pass_once()
    await world.ends(world.lease, "Failed", "Error")
    await world.ready("berlin", "False", "Draining", state="Draining")
    await world.pass_once()
    kind = "Running" if again else "Failed"
    words = world.message(kind)
    assert "the words" in words
    world.clock.forward(KEEP)
    for _ in range(2):
        await tidy(world)
        await clear(world)
    assert not world.leases
    await world.change("train", budget="100")
    await world.pass_once()
    assert world.message(kind) == words


async def test_a_lease_of_an_attempt_that_has_not_ended_stays(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, gpu_seconds=1)
    world.clock.forward(2 * KEEP)
    await tidy(world)
    assert world.lease.spec.desired == "Run", "it is not billed yet"


async def test_nothing_is_deleted_at_a_silent_member_and_all_of_it_when_it_is_back(world: World) -> None:
    await ended(world)
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    world.clock.forward(10 * KEEP)
    for _ in range(3):
        await tidy(world)
    assert world.leases
    await clear(world)
    await tidy(world)
    assert not world.leases


async def test_the_lease_of_a_provider_that_is_gone_goes_without_it(world: World) -> None:
    await ended(world)
    del world.kube.objects["gpuproviders", "", "berlin"]
    world.clock.forward(KEEP)
    for _ in range(2):
        await tidy(world)
    assert not world.leases


async def test_a_lease_that_the_ledger_does_not_know_is_left_alone(world: World) -> None:
    lease = await ended(world)
    key = (LEASES.plural, lease.metadata.namespace, lease.metadata.name)
    stranger = world.kube.objects.pop(key)
    name = f"{'f' * 8}{lease.metadata.name[8:]}"
    stranger["metadata"]["name"] = name
    stranger["spec"]["job"]["uid"] = name[:36]
    world.kube.objects[LEASES.plural, lease.metadata.namespace, name] = stranger
    world.clock.forward(2 * KEEP)
    await tidy(world)
    assert world.lease.spec.desired == "Run"


async def test_with_settlement_a_lease_stays_until_an_epoch_that_is_final_covers_it(world: World) -> None:
    lease = await ended_for_money(world)
    world.clock.forward(2 * KEEP)
    await tidy(world)
    assert world.lease.spec.desired == "Run"
    await settled(world, lease.metadata.name, EpochStage.POSTED)
    await tidy(world)
    assert world.lease.spec.stop_reason == "", "the epoch may come to nothing"
    await world.ledger.mark_epoch(1, EpochStage.FINALIZED, chain_epoch=1)
    await tidy(world)
    assert world.lease.spec.stop_reason == "RetentionOver"


async def test_usage_that_comes_after_the_end_keeps_the_lease_until_it_is_covered(world: World) -> None:
    lease = await funded(world, signer=None)
    world.clock.forward(USED)
    await world.ends(lease, gpu_seconds=0)
    await world.pass_once()
    loop = keeper(world)
    await loop.pass_once()
    await world.ledger.record_usage(lease.metadata.name, 9, USED, world.clock.now())
    world.clock.forward(2 * KEEP)
    await loop.pass_once()
    assert world.lease.spec.desired == "Run", "it was read before there was anything to pay"
    await settled(world, lease.metadata.name)
    world.clock.forward(retention.COVERAGE_AGAIN.total_seconds())
    await loop.pass_once()
    assert world.lease.spec.stop_reason == "RetentionOver"


async def test_deleting_a_job_makes_no_lease_again_that_was_deleted_after_its_time(world: World) -> None:
    await ended(world)
    world.clock.forward(KEEP)
    for _ in range(2):
        await tidy(world)
        await clear(world)
    await world.delete("train")
    await world.pass_once()
    assert not world.leases
    assert not world.exists()


async def test_deleting_a_job_has_its_member_cleared_of_a_lease_that_somebody_deleted_in_its_time(
    world: World,
) -> None:
    world.lose(await ended(world))
    world.clock.forward(KEEP - 1)
    await world.delete("train")
    await world.pass_once()
    assert world.lease.spec.desired == "Stop"


async def test_a_year_of_leases_is_released_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_PER_PASS", 3)
    await world.provider("berlin", free={8: 2})
    for number in range(8):
        await world.job(f"job-{number}")
    await world.pass_once()
    for lease in world.leases:
        await world.ends(lease, gpu_seconds=0)
    await world.pass_once()
    world.clock.forward(KEEP)
    assert await tidy(world) == retention.SOON_SECONDS
    assert sum(lease.spec.desired == "Stop" for lease in world.leases) == 3


# ---------------------------------------------------------------- jobs


async def test_a_job_is_deleted_its_ttl_after_it_finished(world: World) -> None:
    await ended(world, ttlSecondsAfterFinished=100)
    due = await tidy(world)
    assert due is not None
    assert 99 <= due <= 100
    world.clock.forward(101)
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is not None
    await world.pass_once()
    await clear(world)
    await world.pass_once()
    await world.pass_once()
    assert not world.exists()
    assert not world.leases


async def test_a_ttl_of_nothing_deletes_at_once_and_none_never(world: World) -> None:
    await ended(world, name="now", ttlSecondsAfterFinished=0)
    await tidy(world)
    assert world.see("now").metadata.deletion_timestamp is not None
    await world.job("kept")
    await world.pass_once()
    await world.ends(next(lease for lease in world.leases if lease.spec.job.name == "kept"))
    await world.pass_once()
    world.clock.forward(10 * 365 * 86_400)
    await tidy(world)
    assert world.see("kept").metadata.deletion_timestamp is None


async def test_a_ttl_may_be_set_changed_and_removed_after_the_end(world: World) -> None:
    await ended(world, ttlSecondsAfterFinished=100)
    await world.change("train", ttlSecondsAfterFinished=None)
    await world.pass_once()
    world.clock.forward(1000)
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is None
    await world.change("train", ttlSecondsAfterFinished=900)
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is None, "what is asked for now has not been judged yet"
    await world.pass_once()
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is not None


async def test_a_ttl_that_is_removed_at_the_last_moment_is_obeyed(world: World) -> None:
    await ended(world, ttlSecondsAfterFinished=0)

    def removed(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("delete", COMPUTE_JOBS.plural):
            found = world.kube.objects[COMPUTE_JOBS.plural, TEAM, name]
            found["spec"].pop("ttlSecondsAfterFinished")
            found["metadata"]["resourceVersion"] += "0"

    world.kube.before = removed
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is None


@pytest.mark.parametrize("state", ["waits", "runs", "suspended", "dry run", "refused", "retries"])
async def test_a_job_that_has_not_finished_is_never_deleted(world: World, state: str) -> None:
    spec: dict[str, Any] = {"ttlSecondsAfterFinished": 0}
    if state != "waits":
        await world.provider("berlin")
    states: dict[str, dict[str, Any]] = {
        "suspended": {"suspend": True},
        "dry run": {"dryRun": True},
        "refused": {"template": {"spec": {"containers": [{"name": "main", "image": "x:1", "env": [VISIBLE]}]}}},
        "retries": {"retries": {"errors": 1}},
    }
    spec |= states.get(state, {})
    await world.job(**spec)
    await world.pass_once()
    if state == "runs":
        await world.runs(world.lease, 1)
    if state == "retries":
        await world.ends(world.lease, "Failed", "Error")
        await world.ready("berlin", "False", "Draining", state="Draining")
    await world.pass_once()
    world.clock.forward(100)
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is None, world.see().status.state


async def test_a_job_whose_deadline_passed_before_it_ran_has_finished(world: World) -> None:
    deadline = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    await world.job(ttlSecondsAfterFinished=10, deadline=deadline)
    world.clock.forward(1)
    await world.pass_once()
    world.clock.forward(10)
    await tidy(world)
    assert not world.exists()


async def test_with_settlement_the_clock_starts_when_the_job_is_settled(world: World) -> None:
    lease = await ended_for_money(world, ttlSecondsAfterFinished=100)
    world.clock.forward(10_000)
    await tidy(world)
    assert world.says("Settled") == ("False", "AwaitingEpoch")
    assert world.see().metadata.deletion_timestamp is None
    await settled(world, lease.metadata.name)
    await world.pass_once()
    assert world.says("Settled") == ("True", "Paid")
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is None
    world.clock.forward(101)
    await tidy(world)
    assert world.see().metadata.deletion_timestamp is not None


async def test_a_hub_that_does_not_allow_it_is_named_and_asked_again_later(world: World) -> None:
    await ended(world, ttlSecondsAfterFinished=0)
    tries = 0

    def refuse(verb: str, plural: str, name: str) -> None:
        nonlocal tries
        if (verb, plural) == ("delete", COMPUTE_JOBS.plural):
            tries += 1
            raise ForbiddenError("computejobs is forbidden", status=403)

    world.kube.before = refuse
    loop = keeper(world)
    for _ in range(3):
        await loop.pass_once()
    assert tries == 1
    assert ("Warning", "DeletionForbidden") in world.events()
    world.kube.before = lambda *_: None
    world.clock.forward(retention.FORBIDDEN_AGAIN.total_seconds() + 1)
    await loop.pass_once()
    assert world.see().metadata.deletion_timestamp is not None


# ---------------------------------------------------------------- all of it


async def test_200_jobs_come_and_go_and_leave_nothing(world: World) -> None:
    """In any order of passes, with a process that dies before every seventh write of the retention loop."""
    dice, writes = random.Random(13), 0
    await world.provider("berlin", free={8: 4})
    await world.provider("paris", price="1.30", country="FR", free={8: 4})

    def die(verb: str, plural: str, name: str) -> None:
        nonlocal writes
        writes += 1
        if writes % 7 == 0:
            raise Crash(f"{verb} {plural} {name}")

    async def look() -> None:
        world.kube.before = die
        try:
            await tidy(world)
        except* Crash:
            pass
        finally:
            world.kube.before = lambda *_: None

    for number in range(200):
        await world.job(f"job-{number}", ttlSecondsAfterFinished=dice.choice((0, 600)), retries={"errors": 1})
        if number % 10 == 9:
            await world.pass_once()
            for lease in world.leases:
                if not lease.status.ended:
                    how = ("Failed", "Error") if dice.random() < 0.3 else ("Succeeded", "Succeeded")
                    await world.ends(lease, *how, gpu_seconds=USED)
            world.clock.forward(USED)
            await world.pass_once()
            await look()
            await clear(world)
    for _ in range(60):
        if not _left(world):
            break
        world.clock.forward(KEEP)
        await world.pass_once()
        for lease in world.leases:
            if not lease.status.ended:
                await world.ends(lease, gpu_seconds=USED)
        await world.pass_once()
        await look()
        await clear(world)
    assert not _left(world)
    assert not await world.ledger.open_attempts()


def _left(world: World) -> list[tuple[str, str, str]]:
    return [key for key in world.kube.objects if key[0] in (COMPUTE_JOBS.plural, LEASES.plural)]
