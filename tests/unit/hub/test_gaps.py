"""A ledger that is older than the world: what shows it, that nothing opens then, and what can be given back to it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ledgers import attempts_of, open_attempt
from tests.unit.hub.bank import OWNER, TENANT, Bank
from tests.unit.hub.chain import WINDOW, FakeEscrow
from tests.unit.hub.world import H100, LEASES, TEAM, World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError, LedgerUnreachableError
from fedgpu_operator.hub.services.recovery import (
    AGAIN,
    FROM_LEASE,
    FROM_STATUS,
    EscrowAddress,
    Gap,
    GapKind,
    LedgerCheck,
    accept,
    compare,
    compare_chain,
)
from fedgpu_operator.hub.services.signatures import UsageVerifier
from fedgpu_operator.hub.services.workloads import remade_lease
from fedgpu_operator.ports import ResourceType

SPACE = "fedgpu-system"


@asynccontextmanager
async def backup(world: World, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """The ledger as it is now, to be restored later."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as now, closing(sqlite3.connect(tmp_path / "old.db")) as old:
        now.backup(old)
    async with await SqlLedger.open(tmp_path / "old.db") as restored:
        yield restored


def check_of(world: World, escrow: FakeEscrow | None = None) -> LedgerCheck:
    factory = world.factory(namespace=SPACE)
    factory.escrow = escrow
    return factory.check


async def jobs_pass(world: World, check: LedgerCheck) -> None:
    await check.jobs_held_back(world.loop().pass_once)()


async def gaps_of(world: World, escrow: FakeEscrow | None = None) -> list[str]:
    place = EscrowAddress(escrow.chain_id, escrow.escrow) if escrow is not None else None
    return [gap.id for gap in await compare(world.kube, world.ledger, SPACE, place)]


async def repaired(world: World, losses: set[str] | None = None) -> tuple[str, ...]:
    gaps = await compare(world.kube, world.ledger, SPACE, None)
    factory = world.factory()
    factory.verifier = UsageVerifier(None)
    found = await factory.reconciler().repair(gaps, losses or set())
    return found.lines


async def test_an_empty_ledger_on_a_hub_without_leases_is_not_behind(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    check = check_of(world)
    assert check.behind, "nothing opens before the first look"
    await jobs_pass(world, check)
    assert (check.behind, check.trouble()) == (False, "")
    assert world.lease.spec.attempt == 1


async def test_a_ledger_as_new_as_the_world_has_no_gap_through_a_jobs_life(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    check = check_of(world)
    for seconds in (0, 5, 10):
        await jobs_pass(world, check)
        assert await gaps_of(world) == []
        if seconds:
            world.clock.forward(seconds)
            await world.runs(world.lease, seconds)
        assert await gaps_of(world) == [], "a reading that is newer than the ledger is billed by the next pass"
    world.lose(world.lease)
    await world.pass_once()
    assert await gaps_of(world) == [], "a hub that is older than the ledger: the lease is made again"


async def test_a_ledger_of_yesterday_opens_nothing_and_leaves_alone_what_runs(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        await world.job("runs", gpu={"count": 8})
        await world.pass_once()
        await world.runs(world.lease, 8)
        await world.pass_once()
        await world.job("waits", gpu={"count": 8})
        before, world.ledger = world.lease, old
        check = check_of(world)
        await world.change("runs", suspend=True)
        writes = len(world.kube.writes)
        await jobs_pass(world, check)
        assert check.behind
        assert {kind for _, kind, _ in world.kube.writes[writes:]} == {"computejobs"}, "no lease is touched"
        assert world.lease == before
        assert await attempts_of(old, world.see("waits").metadata.uid) == ()
        assert await attempts_of(old, world.see("runs").metadata.uid) == ()
        assert world.says("Placed", "waits") == ("False", "LedgerBehind")
        assert world.see("waits").status.reason == "LedgerBehind"
        assert world.says("Placed", "runs") == ("True", "Placed")
        name = before.metadata.name
        assert [gap.id for gap in check.gaps] == [f"attempt.{name}"]
        assert f"lease {name} is attempt 1 of job {TEAM}/runs, the ledger has none" in caplog.text
        assert world.metrics.ledger_gap_count == 1
        assert "LedgerBehind: 1 gaps" in check.trouble()


async def test_a_job_that_its_member_suspended_for_good_is_told_as_well(world: World, tmp_path: Path) -> None:
    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        await world.job()
        await world.pass_once()
        await world.runs(world.lease, 8)
        await world.ends(world.lease, "Failed", "SuspendedByMember", gpu_seconds=8)
        await world.pass_once()
        assert world.says("Running") == ("False", "SuspendedByMember")
        world.ledger = old
        await jobs_pass(world, check_of(world))
        assert world.says("Placed") == ("False", "LedgerBehind")
        assert (world.see().status.state, world.see().status.reason) == ("Pending", "LedgerBehind")


async def test_it_opens_again_once_the_gaps_are_closed_without_a_restart(world: World, tmp_path: Path) -> None:
    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        await world.job("runs")
        await world.pass_once()
        world.clock.forward(20)
        await world.runs(world.lease, 12)
        await world.pass_once()
        await world.job("waits")
        attempt = (await attempts_of(world.ledger, world.see("runs").metadata.uid))[0]
        world.ledger = old
        check = check_of(world)
        await jobs_pass(world, check)
        assert await repaired(world) == (f"attempt {attempt.lease_name} put back from lease {attempt.lease_name}",)
        (entry,) = await old.open_attempts()
        assert entry.attempt.terms == replace(attempt.terms, request_id=f"{FROM_LEASE}-1")
        assert (entry.attempt.created_at, entry.gpu_seconds) == (attempt.created_at, 12)
        assert (await old.verify()).sound
        await jobs_pass(world, check)
        assert check.trouble(), "it looks again after a while, not in each pass"
        world.clock.forward(AGAIN.total_seconds())
        await jobs_pass(world, check)
        assert not check.trouble()
        assert world.says("Placed", "waits") == ("True", "Placed")
        assert [lease.spec.attempt for lease in world.leases] == [1, 1], "nothing was started twice"
        assert await repaired(world) == (), "again is no change"


@pytest.mark.parametrize(("gone", "limit"), [(True, 3630), (True, 20), (False, 3630)])
async def test_a_lease_that_was_made_again_gives_back_the_terms_that_were_agreed(
    world: World, tmp_path: Path, *, gone: bool, limit: int
) -> None:
    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        job = await world.job()
        terms = AttemptRequest(job.metadata.uid, "after-0", TEAM, "train", "berlin", H100, MicroUSD(1), 1, limit)
        attempt = await open_attempt(world.ledger, terms, world.clock.now())
        again = remade_lease(attempt, None if gone else job, sequence_base=0)
        await world.kube.create(LEASES, again)
        world.ledger = old
        await repaired(world)
        (back,) = await attempts_of(old, job.metadata.uid)
        assert (back.terms.run_limit, back.terms.gpus) == (limit, 1)


async def test_usage_that_was_billed_and_forgotten_is_a_gap_and_comes_back_from_the_lease(
    world: World, tmp_path: Path
) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    async with backup(world, tmp_path) as old:
        world.clock.forward(50)
        await world.runs(world.lease, 40)
        await world.pass_once()
        world.ledger = old
        uid = world.see().metadata.uid
        assert await gaps_of(world) == [f"usage.{uid}"]
        await repaired(world)
        assert await gaps_of(world) == []
        assert (await old.open_attempts())[0].gpu_seconds == 40


async def test_attempts_come_back_under_their_own_numbers_and_the_one_before_is_ended(
    world: World, tmp_path: Path
) -> None:
    await world.provider("berlin")
    await world.provider("paris", price="2")
    await world.job(retries={"errors": 5})
    await world.pass_once()
    async with backup(world, tmp_path) as old:
        for seconds in (3, 4):
            world.clock.forward(400)
            await world.ends(world.leases[-1], "Failed", "WorkloadFailed", gpu_seconds=seconds)
            await world.pass_once()
            await world.pass_once()
        uid = world.see().metadata.uid
        known = await attempts_of(world.ledger, uid)
        assert [each.attempt for each in known] == [1, 2, 3]
        world.ledger = old
        with pytest.raises(LedgerError, match="has not ended"):
            await old.reenter_attempt(known[2].terms, 3, world.clock.now())
        await repaired(world)
        entries = (await old.histories([uid]))[uid]
        assert [(e.attempt.attempt, e.attempt.outcome, e.gpu_seconds) for e in entries] == [
            (1, "WorkloadFailed", 3),
            (2, "WorkloadFailed", 4),
            (3, "", 0),
        ]
        assert await gaps_of(world) == []
        assert (await old.verify()).sound
        await old.end_attempt(f"{uid}-3", "WorkloadFailed", world.clock.now())
        with pytest.raises(LedgerError, match="cannot be put back: the newest is 3"):
            await old.reenter_attempt(replace(known[1].terms, request_id="again"), 2, world.clock.now())


async def test_what_only_a_status_shows_needs_a_person_to_accept_it(world: World, tmp_path: Path) -> None:
    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        await world.job()
        await world.pass_once()
        world.clock.forward(50)
        await world.ends(world.lease, gpu_seconds=40)
        await world.pass_once()
        del world.kube.objects[LEASES.plural, world.lease.metadata.namespace, world.lease.metadata.name]
        world.ledger = old
        uid = world.see().metadata.uid
        assert await gaps_of(world) == [f"attempt.{uid}-1"]
        assert await repaired(world) == ()
        assert await gaps_of(world) == [f"attempt.{uid}-1"], "nothing proves it"
        await repaired(world, {f"attempt.{uid}-1"})
        (attempt,) = await attempts_of(old, uid)
        assert (attempt.terms.request_id, attempt.outcome) == (f"{FROM_STATUS}-1", "Superseded")
        (left,) = await compare(world.kube, old, SPACE, None)
        assert left.id == f"usage.{uid}"
        await accept(world.kube, SPACE, [left])
        assert await gaps_of(world) == []
        status = {"usage": {"gpuSeconds": 41, "cost": "1"}}
        await world.kube.patch_status(ResourceType.of(ComputeJob.info), "train", TEAM, {"status": status})
        assert await gaps_of(world) == [f"usage.{uid}"], "what is worse by now was not accepted"


async def test_objects_that_never_were_ours_are_no_gap(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    lease = world.lease
    copied = world.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]
    world.kube.objects[LEASES.plural, lease.metadata.namespace, "by-hand"] = {
        **copied,
        "metadata": {**copied["metadata"], "name": "by-hand"},
    }
    # A tool that restores objects gives them a uid of their own, and may copy the status.
    job = world.kube.objects[ResourceType.of(ComputeJob.info).plural, TEAM, "train"]
    other = {**job["metadata"], "name": "copy", "uid": "99999999-0000-0000-0000-000000000000"}
    world.kube.objects[ResourceType.of(ComputeJob.info).plural, TEAM, "copy"] = {**job, "metadata": other}
    assert await gaps_of(world) == []


async def test_an_epoch_that_the_ledger_forgot_is_a_gap_and_no_other_is_begun(bank: Bank, tmp_path: Path) -> None:
    async with backup(bank.world, tmp_path) as old:
        await bank.to_the_end()
        world, bank.ledger, bank.world.ledger = bank.world, old, old
        ids = await gaps_of(world, bank.escrow)
        assert ids == ["epoch.epoch-1"]
        check = check_of(world, bank.escrow)
        await check.look()
        assert check.behind
        assert not check.settles
        loop = bank.loop()
        loop._opens = lambda: check.settles
        world.clock.forward(3600)
        sent = len(bank.posts())
        await bank.step(loop=loop)
        assert (await old.epochs(), len(bank.posts())) == ((), sent)
        await accept(world.kube, SPACE, check.gaps)
        world.clock.forward(AGAIN.total_seconds())
        await check.look()
        assert check.settles


async def test_a_prepared_epoch_is_not_sent_while_the_ledger_is_behind(bank: Bank) -> None:
    loop = bank.loop()
    loop._opens = lambda: False
    begun = await loop._planner.begin(())
    assert begun is not None
    await bank.step(loop=loop)
    assert (await bank.stages(), bank.posts()) == (["Prepared"], set())
    loop._opens = lambda: True
    await bank.step(loop=loop)
    assert bank.posts()


async def test_what_the_escrow_has_paid_and_the_ledger_forgot_is_a_gap(bank: Bank, tmp_path: Path) -> None:
    async with backup(bank.world, tmp_path) as old:
        await bank.used(2 * 3600, "another")
        await bank.to_the_end()
        bank.world.kube.server.objects = {
            k: v for k, v in bank.world.kube.objects.items() if k[0] != "settlementepochs"
        }
        bank.world.ledger = old
        check = check_of(bank.world, bank.escrow)
        await check.look()
        root, gap = check.gaps
        assert (root.kind, gap.kind) == (GapKind.EPOCH, GapKind.PAID)
        assert "has paid 3.75 USD" in gap.text
        assert "1.25 USD" in gap.text


def hide_epochs(world: World) -> None:
    """The hub is restored from before there were epochs."""
    world.kube.server.objects = {key: each for key, each in world.kube.objects.items() if key[0] != "settlementepochs"}


async def chain_gaps(bank: Bank) -> list[str]:
    return [gap.id for gap in await compare_chain(bank.ledger, bank.escrow)]


async def test_hub_and_ledger_of_the_same_older_moment_are_behind_the_newest_root_on_chain(
    bank: Bank, tmp_path: Path
) -> None:
    await bank.to_the_end()
    async with backup(bank.world, tmp_path) as old:
        bank.auto_claim = False
        await bank.used(3600, "later")
        bank.world.clock.forward(60)
        await bank.to_the_end()
        hide_epochs(bank.world)
        bank.ledger = bank.world.ledger = old
        head = bank.escrow.final.head
        assert (head is not None, bank.paid) == (True, 1_250_000), "posted, and nothing is claimed yet"
        check = check_of(bank.world, bank.escrow)
        await check.look()
        (gap,) = check.gaps
        assert head is not None
        assert (gap.kind, gap.id) == (GapKind.EPOCH, f"epoch.root-{head.root}")
        assert (check.behind, check.settles) == (True, False)
        await accept(bank.world.kube, SPACE, check.gaps)
        bank.world.clock.forward(AGAIN.total_seconds())
        await check.look()
        assert (check.behind, check.settles) == (False, True)
        check = check_of(bank.world, bank.escrow)
        await check.look()
        assert not check.behind, "it stays accepted after a restart"


async def test_an_empty_ledger_is_behind_an_escrow_with_epochs(bank: Bank, tmp_path: Path) -> None:
    await bank.to_the_end()
    hide_epochs(bank.world)
    async with await SqlLedger.open(tmp_path / "empty.db") as empty:
        bank.ledger = bank.world.ledger = empty
        assert [each.split("-")[0] for each in await chain_gaps(bank)] == ["epoch.root"]


async def test_no_step_of_an_epochs_life_looks_like_a_ledger_that_is_behind(bank: Bank) -> None:
    assert await chain_gaps(bank) == [], "nothing was posted yet"
    for number in range(3):
        for step in range(12):
            if step == 6:
                bank.escrow.jump(WINDOW)
            await bank.step(final=step % 3 == 2)
            assert await chain_gaps(bank) == []
        await bank.used(3600, f"job-{number}")
        bank.world.clock.forward(60)
    assert await bank.stages() == ["Paid"] * 3


async def test_an_epoch_that_is_final_before_the_ledger_knows_is_no_gap(bank: Bank) -> None:
    while bank.escrow.final.head is None:
        await bank.step()
    assert (await bank.stages())[0] in ("Prepared", "Posted")
    assert await chain_gaps(bank) == []


async def test_a_chain_that_does_not_answer_stops_epochs_and_not_jobs(bank: Bank) -> None:
    bank.escrow.silent = True
    check = check_of(bank.world, bank.escrow)
    await check.look()
    assert (check.behind, check.settles) == (False, False)
    bank.escrow.silent = False
    bank.world.clock.forward(AGAIN.total_seconds())
    await check.look()
    assert check.settles


async def test_a_receipt_that_was_proposed_for_more_than_the_ledger_holds_is_a_gap(bank: Bank) -> None:
    said = {"tenant": TENANT, "provider": OWNER, "periodEnd": 1, "usageRoot": "0x" + "00" * 32}
    kind, space = ResourceType.of(ProviderReport.info), "fedgpu-provider-berlin"
    for usd, expected in (("1.25", []), ("1.250001", [f"receipt.{TENANT}.{OWNER}"])):
        patch = {"spec": {"receipts": [{**said, "cumulative": usd}]}}
        await bank.world.kube.patch(kind, "berlin", space, patch)
        assert await gaps_of(bank.world, bank.escrow) == expected


async def test_a_connection_that_was_made_again_is_compared_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(world)
    await check.look()
    assert not check.trouble()
    monkeypatch.setattr(SqlLedger, "session", 7)
    known: list[int] = []
    monkeypatch.setattr(SqlLedger, "compared", lambda _, session: known.append(session))
    assert check.behind
    await check.look()
    assert (check.behind, known) == (False, [7])


async def test_a_ledger_that_does_not_answer_ends_a_pass_once_and_not_for_each_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(world)
    await check.look()
    monkeypatch.setattr(SqlLedger, "silent", True)
    with pytest.raises(LedgerUnreachableError):
        await jobs_pass(world, check)


async def test_a_pass_that_is_held_back_is_left_out_until_the_gaps_are_closed(world: World, tmp_path: Path) -> None:
    passes = 0

    async def counted() -> float | None:
        nonlocal passes
        passes += 1
        return None

    await world.provider("berlin")
    async with backup(world, tmp_path) as old:
        await world.job()
        await world.pass_once()
        world.ledger = old
        held = check_of(world).held_back(counted)
        assert (await held(), passes) == (AGAIN.total_seconds(), 0)
        await repaired(world)
        world.clock.forward(AGAIN.total_seconds())
        assert (await held(), passes) == (None, 1)


def test_ids_are_keys_of_a_config_map() -> None:
    assert Gap(GapKind.PAID, "0xA.0xB", "").id == "paid.0xA.0xB"
