"""A job loop that goes on decides in each pass what one that knows nothing decides, and does no more than it must."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
from tests.unit.hub.fakes import FakeClock, FakeHub, FakeKube
from tests.unit.hub.test_memory import CountingLedger
from tests.unit.hub.world import H100, PROVIDERS, World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import JSONObject, find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJobStatus
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.attempts import AttemptUsage
from fedgpu_operator.hub.loops import jobs as jobs_loop
from fedgpu_operator.hub.loops.jobs import JobLoop
from fedgpu_operator.hub.services.signatures import UsageVerifier
from fedgpu_operator.hub.services.solvency import ObligationBook
from fedgpu_operator.hub.views.jobfacts import JobFacts
from fedgpu_operator.hub.views.jobs import job_status
from fedgpu_operator.placement import Engine
from fedgpu_operator.ports import ResourceType

ACCOUNTS, REPORTS = ResourceType.of(ComputeAccount.info), ResourceType.of(ProviderReport.info)
POLICIES = ResourceType.of(PlacementPolicy.info)
TEAMS = ("team-a", "team-b", "team-c")
COUNTRIES = ("DE", "FR", "US")


class SteadyKube(FakeKube):
    """Uids follow from names and not from how much was written before: two hubs with one history have the same."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self._made: dict[tuple[str, str], int] = {}

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        made = await super().create(kind, obj)
        meta = made["metadata"]
        name = kind.plural, f"{meta.get('namespace', '')}/{meta['name']}"
        self._made[name] = times = self._made.get(name, 0) + 1
        meta["uid"] = str(uuid5(NAMESPACE_OID, f"{name}/{times}"))
        self.objects[kind.plural, meta.get("namespace", ""), meta["name"]]["metadata"]["uid"] = meta["uid"]
        return made


class Hub(World):
    """A hub on which settlement is on; with `lasting`, one loop that follows it by watches, else a new one per pass."""

    def __init__(self, ledger: SqlLedger, *, lasting: bool) -> None:
        super().__init__(ledger, FakeClock(datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)))
        self.settlement = True
        self.jobs = 0
        self.kube = FakeHub(SteadyKube(self.clock))
        self.books = CountingLedger(ledger)
        self._loop = self._made() if lasting else None

    def _made(self) -> JobLoop:
        made = self.factory(ledger=self.books)
        made.verifier = UsageVerifier(None)
        return made.job_loop()

    async def pass_once(self) -> float | None:
        if self._loop is None:
            return await self.loop().pass_once()
        self.books.calls.clear()
        self.kube.writes.clear()
        return await self._loop.pass_once()

    async def begin(self, providers: int = 4, usd: int = 200) -> None:
        for number, team in enumerate(TEAMS):
            await self.namespace(team, {"team": team})
            await self.account(f"0x{number + 1:040x}", team)
            await self.fund(team, usd)
        for number in range(providers):
            await self.offer(number, "1.00", 4)

    async def fund(self, team: str, usd: int) -> None:
        status = {"balance": str(usd), "epochLimit": str(usd), "secured": "0", "observedBlock": 1}
        await self.kube.patch_status(ACCOUNTS, "default", team, {"status": status})

    async def offer(self, number: int, price: str, free: int) -> None:
        """A provider, whose price rises a little with its number so that no two are the same."""
        await self.provider(
            f"p{number}",
            f"{float(price) + number / 100:.2f}",
            COUNTRIES[number % len(COUNTRIES)],
            {free: 1},
            payout={"address": f"0x{number + 256:040x}"},
            limits={"maxLeases": 3},
        )

    def names(self, plural: str) -> list[tuple[str, str]]:
        """(namespace, name), sorted."""
        return sorted((space, name) for kind, space, name in self.kube.objects if kind == plural)

    def running(self) -> list[ComputeLease]:
        return [lease for lease in self.leases if not lease.status.ended]

    def decided(self) -> dict[str, Any]:
        """What became of each job: its state, why it waits, where it is and at which price; and what has to stop."""
        found: dict[str, Any] = {}
        for space, name in self.names("computejobs"):
            job = self.see(name, space)
            reasons = {c.type: (c.status, c.reason) for c in job.status.conditions}
            place = job.status.placement
            at = (place.provider, place.price, place.attempt) if place is not None else None
            found[f"{space}/{name}"] = (job.status.state, job.status.reason, reasons, at)
        found["leases"] = [(e.metadata.name, e.spec.provider, e.spec.desired, e.spec.stop_reason) for e in self.leases]
        return found

    def words(self) -> dict[str, Any]:
        """All that people are told of jobs, but when a condition changed."""
        found = {}
        for space, name in self.names("computejobs"):
            status = self.kube.objects["computejobs", space, name].get("status", {})
            conditions = [
                {k: v for k, v in each.items() if k != "lastTransitionTime"} for each in status.get("conditions", [])
            ]
            found[f"{space}/{name}"] = {"candidates": []} | status | {"conditions": conditions}
            if status.get("state") not in ("Pending", "DryRun"):
                # They stay as they were when the job was last decided on, up to half a minute older or not.
                del found[f"{space}/{name}"]["candidates"]
        return found


Step = Callable[[Hub, Random], Awaitable[None]]


async def _job_comes(hub: Hub, chance: Random) -> None:
    spec: dict[str, Any] = {"gpu": {"count": chance.randint(1, 4)}, "runLimitSeconds": 3600 * chance.randint(1, 5)}
    if chance.random() < 0.2:
        spec["replicas"] = 2
    if chance.random() < 0.2:
        spec["maxPricePerGPUHour"] = "1.02"
    if chance.random() < 0.1:
        spec["dryRun"] = True
    if chance.random() < 0.2:
        spec["placement"] = {"countries": [chance.choice(COUNTRIES)]}
    if chance.random() < 0.2:
        spec["budget"] = f"{chance.randint(1, 20)}"
    hub.jobs += 1
    await hub.job(f"j{hub.jobs}", namespace=chance.choice(TEAMS), **spec)


async def _dry_run_turns_real(hub: Hub, chance: Random) -> None:
    if jobs := [each for each in hub.names("computejobs") if hub.see(each[1], each[0]).spec.dry_run]:
        space, name = chance.choice(jobs)
        await hub.change(name, space, dryRun=False)


async def _job_goes(hub: Hub, chance: Random) -> None:
    if jobs := hub.names("computejobs"):
        space, name = chance.choice(jobs)
        await hub.delete(name, space)


async def _job_pauses(hub: Hub, chance: Random) -> None:
    if jobs := hub.names("computejobs"):
        space, name = chance.choice(jobs)
        await hub.change(name, space, suspend=not hub.see(name, space).spec.suspend)


async def _work_is_read(hub: Hub, chance: Random) -> None:
    if leases := hub.running():
        lease = chance.choice(leases)
        used = lease.status.usage.gpu_seconds + chance.randint(0, 3)
        await hub.runs(lease, max(1, used))


async def _work_ends(hub: Hub, chance: Random) -> None:
    if leases := hub.running():
        lease = chance.choice(leases)
        used = lease.status.usage.gpu_seconds
        how = chance.choice([("Succeeded", "Succeeded"), ("Failed", "MemberRejected"), ("Failed", "ExitCode")])
        if lease.spec.desired == "Stop":
            how = ("Stopped", "Stopped")
        await hub.ends(lease, *how, gpu_seconds=used)
        await hub.cleared(lease)


async def _capacity_moves(hub: Hub, chance: Random) -> None:
    _, name = chance.choice(hub.names("gpuproviders"))
    meta = hub.kube.objects["providerreports", f"fedgpu-provider-{name}", name]
    product = dict(
        meta["status"]["products"][0], total=8, freeGPUHistogram=[{"free": chance.randint(1, 8), "nodes": 1}]
    )
    await hub.kube.patch_status(REPORTS, name, f"fedgpu-provider-{name}", {"status": {"products": [product]}})


async def _price_moves(hub: Hub, chance: Random) -> None:
    _, name = chance.choice(hub.names("gpuproviders"))
    offers = [{"product": H100, "pricePerGPUHour": f"1.{chance.randint(0, 9)}{name[1]}"}]
    await hub.kube.patch(PROVIDERS, name, "", {"spec": {"offers": offers}})
    spec = GPUProvider.parse(hub.kube.objects["gpuproviders", "", name]).spec
    await hub.ready(name, acceptance=spec.acceptance_hash())


async def _provider_flickers(hub: Hub, chance: Random) -> None:
    _, name = chance.choice(hub.names("gpuproviders"))
    ready = GPUProvider.parse(hub.kube.objects["gpuproviders", "", name]).status.state == "Ready"
    if ready:
        await hub.ready(name, "Unknown", "MemberSilent", state="Unreachable")
    else:
        await hub.ready(name)


async def _provider_comes(hub: Hub, chance: Random) -> None:
    number = len(hub.names("gpuproviders"))
    if number < 9:
        await hub.offer(number, chance.choice(["0.90", "1.00"]), chance.randint(1, 8))


async def _money_moves(hub: Hub, chance: Random) -> None:
    await hub.fund(chance.choice(TEAMS), chance.choice([0, 20, 100, 400]))


async def _cap_moves(hub: Hub, chance: Random) -> None:
    cap = chance.choice([None, "2", "10"])
    await hub.kube.patch(ACCOUNTS, "default", chance.choice(TEAMS), {"spec": {"maxPerJob": cap}})


async def _law_moves(hub: Hub, chance: Random) -> None:
    if hub.names("placementpolicies"):
        await hub.kube.delete(POLICIES, "law")
    else:
        await hub.policy("law", {"team": chance.choice(TEAMS)}, {"countries": [chance.choice(COUNTRIES)]})


async def _time_passes(hub: Hub, chance: Random) -> None:
    hub.clock.forward(chance.choice([1, 5, 31]))


STEPS: tuple[Step, ...] = (
    *(_job_comes,) * 5,
    *(_dry_run_turns_real,) * 3,
    _job_goes,
    _job_pauses,
    *(_work_is_read,) * 2,
    *(_work_ends,) * 3,
    _capacity_moves,
    _price_moves,
    _provider_flickers,
    _provider_comes,
    _money_moves,
    _cap_moves,
    _law_moves,
    *(_time_passes,) * 2,
)


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two hubs of one history: one with a loop that goes on, one with a new loop in each pass."""
    async with AsyncExitStack() as opened:
        made = [
            Hub(await opened.enter_async_context(await SqlLedger.open(tmp_path / f"{lasting}.db")), lasting=lasting)
            for lasting in (True, False)
        ]
        yield made[0], made[1]


@pytest.mark.parametrize("seed", range(8))
async def test_a_loop_that_goes_on_decides_what_one_that_knows_nothing_decides(
    hubs: tuple[Hub, Hub], seed: int
) -> None:
    for hub in hubs:
        await hub.begin()
    chance = Random(seed)
    placed: set[str] = set()
    for number in range(40):
        some = STEPS if number else (_job_comes,)
        steps = [
            (chance.choice(some), chance.random()) for _ in range(chance.choice([0, 1, 1, 1, 2, 4]) if number else 6)
        ]
        for hub in hubs:
            for step, own in steps:
                await step(hub, Random(own))
            await hub.pass_once()
            hub.clock.forward(1)
        lasting, fresh = hubs
        told = f"seed {seed}, step {number}: {[step.__name__ for step, _ in steps]}"
        assert lasting.decided() == fresh.decided(), told
        placed |= {lease.metadata.name for lease in lasting.leases}
    assert len(placed) > 3, "the history had work that ran"
    for hub in hubs:
        hub.clock.forward(31)
        await hub.pass_once()
        # What was placed just now took room from the words of others.
        hub.clock.forward(31)
        await hub.pass_once()
    assert hubs[0].words() == hubs[1].words()


@pytest.fixture
async def full(hubs: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub whose capacity is taken: eight jobs of four GPUs that run or wait, of which four wait, and all is quiet."""
    hub, _ = hubs
    await hub.begin(usd=1000)
    for number in range(8):
        await hub.job(f"j{number}", namespace=TEAMS[number % 3], gpu={"count": 4})
    await hub.pass_once()
    for lease in hub.leases:
        await hub.runs(lease, 1)
    hub.clock.forward(60)
    for _ in range(3):
        await hub.pass_once()
    assert (len(hub.leases), len(hub.names("computejobs"))) == (4, 8)
    return hub


class Work:
    """Counts what a pass does: how many jobs' statuses it makes, and how often it solves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked: list[str] = []
        self.solves = 0
        decide = Engine.decide

        def look(facts: Any, *args: Any, **kwargs: Any) -> Any:
            self.looked.append(facts.job.metadata.name)
            return job_status(facts, *args, **kwargs)

        def solve(*args: Any, **kwargs: Any) -> Any:
            self.solves += 1
            return decide(*args, **kwargs)

        monkeypatch.setattr("fedgpu_operator.hub.services.writes.job_status", look)
        monkeypatch.setattr(Engine, "decide", solve)


@pytest.fixture
def work(full: Hub, monkeypatch: pytest.MonkeyPatch) -> Work:
    assert full is not None
    return Work(monkeypatch)


async def test_a_pass_in_which_nothing_changed_judges_nobody_and_reads_no_history(full: Hub, work: Work) -> None:
    await full.pass_once()
    assert (work.looked, work.solves, full.kube.writes) == ([], 0, [])
    assert set(full.books.calls) <= {"epoch_headers", "transactions"}


async def test_a_reading_of_a_lease_judges_no_job_that_waits(full: Hub, work: Work) -> None:
    """It moves money from what may be billed to what is, and leaves what the namespace may still commit."""
    await full.runs(full.leases[0], 40)
    await full.pass_once()
    assert (len(work.looked), work.solves) == (1, 0)
    assert not {"pair_totals", "open_attempts"} & set(full.books.calls)
    assert (await full.ledger.lease_usage(full.leases[0].metadata.name)).gpu_seconds == 40  # type: ignore[union-attr]


async def test_money_of_one_namespace_is_looked_at_and_changes_nobody_else(full: Hub, work: Work) -> None:
    await full.fund("team-a", 999)
    await full.pass_once()
    assert (work.looked, work.solves) == ([], 1)
    before = full.decided()
    await full.fund("team-a", 0)
    await full.pass_once()
    other = {name for name, now in full.decided().items() if now != before.get(name)} - {"leases"}
    assert all(name.startswith("team-a/") for name in other)
    stopped = {lease.spec.job.namespace for lease in full.leases if lease.spec.desired == "Stop"}
    assert stopped == {"team-a"}, "what its money ran out for stops in the very pass"


async def test_capacity_that_is_free_goes_to_one_that_waits_in_the_very_pass(full: Hub, work: Work) -> None:
    first = full.leases[0]
    await full.ends(first, gpu_seconds=1)
    await full.pass_once()
    assert len(full.running()) == 4
    assert work.solves == 1
    await full.pass_once()
    work.looked.clear()
    work.solves = 0
    await full.pass_once()
    assert (work.looked, work.solves) == ([], 0)


async def test_a_job_that_comes_has_nothing_of_the_others_worked_out_again(
    full: Hub, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither whether they wait, for the metrics, nor what is remembered of them, which a turn of their words shows."""
    counted: list[str] = []
    kept: list[str] = []
    waits, slim = ComputeJobStatus.waits, jobs_loop._slim

    def seen(status: ComputeJobStatus) -> bool:
        counted.append(status.reason)
        return bool(waits.fget(status))  # type: ignore[attr-defined]

    def slimmed(facts: JobFacts) -> JobFacts:
        kept.append(facts.job.metadata.name)
        return slim(facts)

    monkeypatch.setattr(ComputeJobStatus, "waits", property(seen))
    monkeypatch.setattr(jobs_loop, "_slim", slimmed)
    full.clock.forward(31)
    await full.job("late", namespace="team-a", gpu={"count": 3})
    await full.pass_once()
    assert (work.looked, work.solves) == (["late"], 1)
    assert (len(counted), kept) == (1, ["late"])


async def test_words_of_jobs_that_wait_are_brought_up_to_date_each_half_minute(full: Hub, work: Work) -> None:
    report = full.kube.objects["providerreports", "fedgpu-provider-p0", "p0"]["status"]["products"][0]
    product = dict(report, total=5, freeGPUHistogram=[{"free": 5, "nodes": 1}])
    await full.kube.patch_status(REPORTS, "p0", "fedgpu-provider-p0", {"status": {"products": [product]}})
    before = full.words()
    await full.pass_once()
    assert (work.looked, work.solves) == ([], 1)
    assert full.words() == before
    full.clock.forward(31)
    await full.pass_once()
    assert len(work.looked) == 4
    waiting = full.see(work.looked[0], next(s for s, n in full.names("computejobs") if n == work.looked[0]))
    assert any("1 GPU free" in each.message for each in waiting.status.candidates)


async def test_of_a_queue_each_job_has_its_turn_once_in_a_half_minute(full: Hub, work: Work) -> None:
    """Each pass of five seconds brings a part of the words up to date; six of them all, and none twice."""
    report = full.kube.objects["providerreports", "fedgpu-provider-p0", "p0"]["status"]["products"][0]
    product = dict(report, total=5, freeGPUHistogram=[{"free": 5, "nodes": 1}])
    await full.kube.patch_status(REPORTS, "p0", "fedgpu-provider-p0", {"status": {"products": [product]}})
    await full.pass_once()
    looked: list[int] = []
    for _ in range(6):
        full.clock.forward(5)
        await full.pass_once()
        looked.append(len(work.looked))
    assert (len(work.looked), len(set(work.looked))) == (4, 4)
    assert looked[0] < 4, "not all at the same time"


async def test_a_half_minute_in_which_nothing_changed_solves_nothing(full: Hub, work: Work) -> None:
    full.clock.forward(31)
    await full.pass_once()
    assert (work.looked, work.solves, full.kube.writes) == ([], 0, [])


async def test_a_job_with_a_deadline_is_judged_each_half_minute(full: Hub, work: Work) -> None:
    """Data that would have arrived in time a moment ago may come too late now."""
    space, name = next(
        each for each in full.names("computejobs") if full.see(each[1], each[0]).status.state == "Pending"
    )
    await full.change(name, space, deadline="2026-01-02T12:00:00Z")
    await full.pass_once()
    work.solves = 0
    await full.pass_once()
    assert work.solves == 0
    for _ in range(2):
        full.clock.forward(31)
        await full.pass_once()
    assert work.solves == 2


async def test_an_end_reads_the_money_of_its_namespace_only(full: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    read = full.ledger.open_attempts

    async def open_attempts(tenant: str | None = None) -> tuple[AttemptUsage, ...]:
        asked.append(tenant)
        return await read(tenant)

    monkeypatch.setattr(full.ledger, "open_attempts", open_attempts)
    lease = full.leases[0]
    await full.ends(lease, gpu_seconds=1)
    await full.pass_once()
    assert set(asked) <= set(TEAMS)
    assert lease.spec.job.namespace in asked


async def test_what_an_ended_attempt_bills_late_counts_after_half_a_minute(full: Hub) -> None:
    """It opens and ends nothing, so nobody tells of it."""
    lease = full.leases[0]
    await full.ends(lease, gpu_seconds=1)
    await full.pass_once()
    book = ObligationBook(full.ledger, full.clock)
    wallet = next(w for w, those in (await book.look()).pairs_of.items() if those[0].tenant == lease.spec.job.namespace)
    before = (await book.look()).exposure(wallet).worst
    await full.ledger.record_usage(lease.metadata.name, 99, 7200, full.clock.now())
    full.clock.forward(31)
    assert (await book.look()).exposure(wallet).worst > before


@pytest.mark.parametrize(("providers", "usd"), [(1, 1000), (4, 5)])
async def test_dry_runs_that_turn_real_are_decided_together(hubs: tuple[Hub, Hub], providers: int, usd: int) -> None:
    """Each was judged alone: what one of them takes, of cards or of money, must not be given to another."""
    for hub in hubs:
        await hub.begin(providers=providers, usd=usd)
        for number in range(3):
            await hub.job(f"j{number}", namespace=TEAMS[0], gpu={"count": 4}, dryRun=True)
        await hub.pass_once()
        await hub.pass_once()
        assert {hub.see(f"j{number}", TEAMS[0]).status.state for number in range(3)} == {"DryRun"}
        for number in range(3):
            await hub.change(f"j{number}", TEAMS[0], dryRun=False)
        await hub.pass_once()
        assert len(hub.leases) == 1
    assert hubs[0].decided() == hubs[1].decided()


@pytest.mark.parametrize("bad", ["j0", "j1"])
async def test_the_place_of_a_job_that_could_not_be_started_goes_to_another_at_once(
    hubs: tuple[Hub, Hub], bad: str
) -> None:
    """Whichever of the two wins: the other has the place before half a minute has passed."""
    hub, _ = hubs
    await hub.begin(providers=1, usd=1000)
    hub.clock.forward(60)
    visible = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}
    for name in ("j0", "j1"):
        container = {"name": "main", "image": "x:1", "env": [visible] if name == bad else []}
        await hub.job(name, namespace=TEAMS[0], gpu={"count": 4}, template={"spec": {"containers": [container]}})
    passes = 1
    while await hub.pass_once() == 0:
        passes += 1
        assert passes < 5, "no end of it"
    assert [lease.spec.job.name for lease in hub.leases] == [name for name in ("j0", "j1") if name != bad]
    await hub.pass_once()
    assert hub.kube.writes == [] or passes == 1


async def test_a_solve_that_fails_is_made_again(full: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await full.ends(full.leases[0], gpu_seconds=1)
    with monkeypatch.context() as patch:

        def fails(*_: object, **__: object) -> object:
            raise RuntimeError("not now")

        patch.setattr(Engine, "decide", fails)
        with pytest.raises(RuntimeError):
            await full.pass_once()
    await full.pass_once()
    assert len(full.running()) == 4


async def test_a_lease_that_could_not_be_made_leaves_its_place_to_the_next_pass(full: Hub) -> None:
    await full.ends(full.leases[0], gpu_seconds=1)

    def refuse(verb: str, plural: str, name: str) -> None:
        if (verb, plural) == ("patch", "computejobs"):
            full.kube.before = lambda *_: None
            raise ConnectionError("torn")

    full.kube.before = refuse
    await full.pass_once()
    assert len(full.running()) == 3
    await full.pass_once()
    assert len(full.running()) == 4


async def test_a_priority_class_made_later_counts_at_once(full: Hub) -> None:
    await full.job("named", priorityClassName="gold")
    await full.pass_once()
    assert find(full.see("named").status.conditions, "Placed").reason == "UnknownPriorityClass"  # type: ignore[union-attr]
    classes = ResourceType("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False)
    await full.kube.create(classes, {"metadata": {"name": "gold"}, "value": 7})
    full.clock.forward(6)
    await full.pass_once()
    assert find(full.see("named").status.conditions, "Placed").reason == "InsufficientGPUs"  # type: ignore[union-attr]
    await full.ends(full.leases[0], gpu_seconds=1)
    await full.pass_once()
    assert full.see("named").status.placement is not None, "and it comes before those of no class"


async def test_the_books_are_read_after_an_opening_and_an_end_and_each_half_minute(hubs: tuple[Hub, Hub]) -> None:
    hub, _ = hubs
    book = ObligationBook(hub.books, hub.clock)
    first = await book.look()
    hub.books.calls.clear()
    assert await book.look() is first
    assert hub.books.calls == []
    book.moved("team-a")
    await book.look()
    assert set(hub.books.calls) == {"pair_totals", "open_attempts"}
    hub.books.calls.clear()
    hub.clock.forward(31)
    await book.look()
    assert hub.books.calls


async def _newcomer(hub: Hub, name: str, price: str, country: str = "DE", **spec: Any) -> None:
    """A provider of this moment whose member has yet to report."""
    await hub.provider(name, price, country, {8: 1}, payout={"address": "0x" + "77" * 20}, **spec)
    del hub.kube.objects["providerreports", f"fedgpu-provider-{name}", name]
    await hub.ready(name, "Unknown", "AwaitingReport", state="Pending")


async def _reports(hub: Hub, name: str, free: int = 8) -> None:
    meta = {"name": name, "namespace": f"fedgpu-provider-{name}"}
    bucket = {"free": free, "nodes": 1}
    product = {"product": H100, "architecture": "hopper", "memoryMiB": 81559, "total": 8, "gpusInUseByOthers": 0}
    await hub._create(
        ProviderReport.info, meta, {"provider": name}, {"products": [product | {"freeGPUHistogram": [bucket]}]}
    )
    await hub.ready(name)


async def test_only_what_would_do_better_at_a_provider_that_has_yet_to_report_waits_for_it(
    hubs: tuple[Hub, Hub],
) -> None:
    hub, _ = hubs
    await hub.begin(providers=2, usd=1000)
    await _newcomer(hub, "new", "0.50", "US")
    await hub.job("anywhere", namespace="team-a")
    await hub.job("at-home", namespace="team-a", placement={"countries": ["DE"]})
    await hub.job("huge", namespace="team-a", gpu={"count": 8}, placement={"countries": ["FR"]})
    again = await hub.pass_once()
    assert [lease.spec.job.name for lease in hub.leases] == ["at-home"]
    assert hub.says("Placed", "anywhere") == ("False", "Queued")
    assert hub.says("Placed", "huge") == ("False", "InsufficientGPUs")
    assert again is not None
    assert again <= 1.0
    await _reports(hub, "new")
    await hub.pass_once()
    where = {lease.spec.job.name: lease.spec.provider for lease in hub.leases}
    assert where == {"at-home": "p0", "anywhere": "new"}


async def test_a_provider_that_is_to_become_empty_before_it_reports_is_waited_for_no_more(
    hubs: tuple[Hub, Hub],
) -> None:
    """Its offer is the same as before; what is hoped for is not."""
    for hub in hubs:
        await hub.begin(providers=1, usd=1000)
        await _newcomer(hub, "new", "0.50")
        await hub.job("train", namespace="team-a")
        await hub.pass_once()
        await hub.pass_once()
        assert hub.leases == []
        await hub.kube.patch(PROVIDERS, "new", "", {"spec": {"drain": True}})
        await hub.pass_once()
        assert [lease.spec.provider for lease in hub.leases] == ["p0"]


async def test_a_provider_that_never_reports_is_waited_for_ten_seconds(hubs: tuple[Hub, Hub]) -> None:
    hub, _ = hubs
    await hub.begin(providers=1, usd=1000)
    await _newcomer(hub, "new", "0.50")
    await hub.job("train", namespace="team-a")
    await hub.pass_once()
    hub.clock.forward(9)
    await hub.pass_once()
    assert hub.leases == []
    hub.clock.forward(2)
    await hub.pass_once()
    assert [lease.spec.provider for lease in hub.leases] == ["p0"]


async def test_a_dearer_provider_that_has_yet_to_report_holds_up_nobody_who_has_a_place(
    hubs: tuple[Hub, Hub],
) -> None:
    hub, _ = hubs
    await hub.begin(providers=1, usd=1000)
    await _newcomer(hub, "new", "5.00")
    for name in ("one", "two"):
        await hub.job(name, namespace="team-a", gpu={"count": 4})
    await hub.pass_once()
    assert [lease.spec.provider for lease in hub.leases] == ["p0"]
    assert sorted(hub.says("Placed", name)[1] for name in ("one", "two")) == ["Placed", "Queued"]


async def test_who_waits_for_a_report_keeps_the_money_for_it(hubs: tuple[Hub, Hub]) -> None:
    hub, _ = hubs
    await hub.begin(providers=1, usd=3)
    await _newcomer(hub, "new", "0.50", "US")
    await hub.job("first", namespace="team-a", gpu={"count": 4}, placement={"countries": ["US"]})
    await hub.job("second", namespace="team-a", gpu={"count": 2}, placement={"countries": ["DE"]})
    await hub.pass_once()
    assert hub.leases == [], "2 of 3 USD are for the first, and 2 more would be too much"
    assert hub.says("Placed", "second") == ("False", "Unfunded")


async def test_what_an_owner_allows_and_is_known_of_a_product_bounds_what_is_hoped_for(hubs: tuple[Hub, Hub]) -> None:
    hub, _ = hubs
    await hub.begin(providers=1, usd=1000)
    offer = {"product": H100, "pricePerGPUHour": "0.50", "maxGPUs": 2}
    await _newcomer(hub, "small", "0.50", offers=[offer])
    await hub.job("large", namespace="team-a", gpu={"count": 4, "minMemoryMiB": 80000})
    await hub.job("fits", namespace="team-b", gpu={"count": 2, "minMemoryMiB": 80000})
    await hub.pass_once()
    assert [lease.spec.job.name for lease in hub.leases] == ["large"]
    assert hub.says("Placed", "fits", "team-b") == ("False", "Queued")
