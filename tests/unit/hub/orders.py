"""A hub, an agent and a member in memory, all with their real code, for tests that enumerate what may happen when."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from tests.unit.hub.fakes import FakeClock, FakeKube
from tests.unit.hub.world import COMPUTE_JOBS, HUB, LEASES, TEAM, Crash, World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.agent.lease import LeaseReconciler, Sight
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.workload import Identity, Workloads, lease_of
from fedgpu_operator.api.base import JSONObject, Resource
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.errors import KubeError, UnreachableError
from fedgpu_operator.hub.loops.jobs import JobLoop
from fedgpu_operator.ports import BATCH_JOBS, PODS, Kube, ResourceType

PROVIDER = "berlin"
R = TypeVar("R", bound=Resource)


class Member(FakeKube):
    """A member on which each Job runs one pod at once, and forgets both when the Job is deleted."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.starts: Counter[str] = Counter()
        self.most_at_once = 0
        self.dies_after_create = False
        self.loses_answer = False

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        made = await super().create(kind, obj)
        if kind != BATCH_JOBS:
            return made
        meta = made["metadata"]
        self.starts[meta["name"]] += 1
        self.most_at_once = max(self.most_at_once, len(self.jobs))
        began = {"name": "main", "state": {"running": {"startedAt": self._stamp()}}}
        pod = {
            "metadata": {"name": f"{meta['name']}-0", "namespace": meta["namespace"], "labels": dict(meta["labels"])},
            "spec": made["spec"]["template"]["spec"],
            "status": {"phase": "Running", "startTime": self._stamp(), "containerStatuses": [began]},
        }
        await super().create(PODS, pod)
        if self.dies_after_create:
            self.dies_after_create = False
            raise Crash("right after the Job was created")
        if self.loses_answer:
            self.loses_answer = False
            raise UnreachableError("no answer")
        return made

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        await super().delete(kind, name, namespace, uid=uid)
        if kind == BATCH_JOBS:
            self.objects.pop((PODS.plural, namespace, f"{name}-0"), None)

    @property
    def jobs(self) -> dict[str, JSONObject]:
        return {lease_of(obj): obj for (plural, *_), obj in self.objects.items() if plural == BATCH_JOBS.plural}

    def sight(self, ever: set[str]) -> Sight:
        pods = {lease_of(obj): (obj,) for (plural, *_), obj in self.objects.items() if plural == PODS.plural}
        ever |= set(self.jobs)
        return Sight(self.jobs, pods, {}, ever)


class Scene:
    """One job from the moment it is placed; `play` lets one thing happen."""

    def __init__(self, ledger: SqlLedger, clock: FakeClock, *, followed: bool) -> None:
        self.clock, self.followed = clock, followed
        self.world = World(ledger, clock)
        self.member = Member(clock)
        self.name = f"job-{uuid4().hex[:8]}"
        self._loop: JobLoop | None = None
        self._restart()

    async def begin(self) -> None:
        await self.world.namespace(TEAM)
        await self.world.provider(PROVIDER)
        await self.world.job(self.name)
        await self.hub_pass()

    async def play(self, event: str) -> None:
        """What may happen: see `EVENTS` of the test."""
        with suppress(KubeError):
            await getattr(self, event)()

    # ---- what people, owners and fate do

    async def suspend(self) -> None:
        await self.world.change(self.name, suspend=True)

    async def resume(self) -> None:
        await self.world.change(self.name, suspend=False)

    async def delete(self) -> None:
        await self.world.delete(self.name)

    async def remove_lease(self) -> None:
        for key in [key for key in self.world.kube.objects if key[0] == LEASES.plural]:
            del self.world.kube.objects[key]

    async def remove_workload(self) -> None:
        for name, job in self.member.jobs.items():
            await self.member.delete(BATCH_JOBS, name, job["metadata"]["namespace"])

    async def kill(self) -> None:
        self._restart()

    async def start_and_die(self) -> None:
        """The agent creates whatever it would, and the process dies before it can tell anybody."""
        self.member.dies_after_create = True
        await self.agent_pass()
        self.member.dies_after_create = False

    async def start_unanswered(self) -> None:
        """The member creates what the agent asks for, and its answer is lost; nobody sees the Job before it is gone."""
        self.member.loses_answer = True
        await self.agent_pass()
        self.member.loses_answer = False

    async def start_unheard(self) -> None:
        """The agent creates whatever it would, and the hub cannot be told; the process lives on."""

        def refuse(verb: str, plural: str, name: str) -> None:
            if (verb, plural) == ("status", LEASES.plural):
                raise UnreachableError("no answer")

        self.world.kube.before = refuse
        await self.agent_pass()
        self.world.kube.before = lambda *_: None

    # ---- what the operator does

    async def hub_pass(self) -> None:
        self.clock.forward(2)
        # An agent elsewhere is played with a job loop that forgets everything between passes.
        if self._loop is None or not self.followed:
            self._loop = self.world.loop()
        await self._loop.pass_once()

    async def agent_pass(self) -> None:
        self.clock.forward(2)
        leases = self.world.leases
        newest = max((lease.spec.fencing_epoch for lease in leases), default=0)

        async def look(_: str) -> Sight:
            return self.member.sight(self._ever)

        for lease in leases:
            try:
                await self._agent.reconcile(
                    lease, self.member.sight(self._ever), newest_fencing_epoch=newest, look=look
                )
            except KubeError:
                continue
            except Crash:
                self._restart()
                return
        live = [lease.metadata for lease in self.world.leases if not lease.status.ended]
        self._agent.forget({meta.uid for meta in live})

    async def settle(self) -> None:
        """Passes until two rounds, one of them after a while, wrote nothing anywhere."""
        quiet = 0
        for _ in range(40):
            before = len(self.world.kube.writes) + len(self.member.writes)
            await self.hub_pass()
            await self.agent_pass()
            quiet = quiet + 1 if len(self.world.kube.writes) + len(self.member.writes) == before else 0
            if quiet == 2:
                return
            self.clock.forward(30 * quiet)
        raise AssertionError(f"never comes to rest: {self.world.kube.writes[-12:]}")

    # ---- what is there

    @property
    def exists(self) -> bool:
        return (COMPUTE_JOBS.plural, TEAM, self.name) in self.world.kube.objects

    @property
    def leases(self) -> list[ComputeLease]:
        return self.world.leases

    def _restart(self) -> None:
        """A new life of the whole process, or, where the agent is elsewhere, of both ends at once."""
        self.world.kube.restart()
        # An agent elsewhere follows nothing, and does not know what the operator made.
        hub: Kube = self.world.kube if self.followed else self.world.kube.server
        self._loop = None
        self._ever: set[str] = set()
        settings = AgentSettings(f"fedgpu-provider-{PROVIDER}", HUB, usage_interval=1e6)
        workloads = Workloads(self.member, Identity(HUB, PROVIDER), self._took)
        self._agent = LeaseReconciler(hub, workloads, settings, self.clock)

    def _took(self, job: JSONObject) -> JSONObject:
        self._ever.add(lease_of(job))
        return job
