"""A hub in memory with providers, jobs and an agent played by the test; the ledger is the real one, in a file."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.unit.hub.chain import FakeEscrow, stamp
from tests.unit.hub.fakes import FakeClock, FakeHub, FakeKube, FakeMetrics

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import JSONObject, KindInfo, find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.bootstrap.factory import Factory, PingableLedger
from fedgpu_operator.hub.loops.jobs import JobLoop
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.writes import Writers
from fedgpu_operator.ports import NAMESPACES, Kube, ResourceType
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement import Thresholds
from fedgpu_operator.settlement.typeddata import TypedData, account_proof, hub_domain, provider_proof

H100 = "NVIDIA-H100-80GB-HBM3"
COMPUTE_JOBS = ResourceType.of(ComputeJob.info)
LEASES = ResourceType.of(ComputeLease.info)
PROVIDERS = ResourceType.of(GPUProvider.info)
REPORTS = ResourceType.of(ProviderReport.info)
TEAM = "team-a"
HUB = "11111111-2222-3333-4444-555555555555"
SETTINGS = Settings.from_env({"FEDGPU_ACCEPTANCE_ENFORCED": "true"})
ISSUED = 1_767_000_000
"""When the proofs of these tests were signed: some days before their clock begins."""


class Crash(BaseException):
    """The process dies here: nothing of the operator may catch it."""


def condition(kind: str, status: str, reason: str, at: datetime, message: str = "") -> JSONObject:
    stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp}


def end_conditions(state: str, reason: str, at: datetime) -> list[JSONObject]:
    """What an agent says of a lease that has Succeeded, Failed for that reason, or Stopped."""
    running = condition("Running", "False", "Stopped" if state == "Stopped" else "Ended", at)
    if state == "Stopped":
        return [running]
    return [running, condition("Complete" if state == "Succeeded" else "Failed", "True", reason, at, "the words")]


class World:
    """What a test says and sees; `pass_once` is one pass of a job loop that remembers nothing."""

    def __init__(self, ledger: SqlLedger, clock: FakeClock) -> None:
        self.clock, self.ledger = clock, ledger
        self.kube, self.metrics = FakeHub(FakeKube(clock)), FakeMetrics()
        self.wallets = FakeEscrow()
        self.proofs = ProofBook(self.wallets, clock, hub=HUB)
        self.settlement = False
        self.default_deny = False
        self.thresholds = Thresholds()

    # ---- what people and agents write

    async def namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        await self.kube.create(NAMESPACES, {"metadata": {"name": name, "labels": labels or {}}})

    async def provider(
        self, name: str, price: str = "1.25", country: str = "DE", free: dict[int, int] | None = None, **spec: Any
    ) -> None:
        """A provider that is Ready and has reported `free` ({free GPUs: nodes}) of H100."""
        buckets = {8: 1} if free is None else free
        offer = {"product": H100, "pricePerGPUHour": price}
        connection = {"kubeconfigSecretRef": {"name": name}}
        if payout := spec.get("payout"):
            spec["payout"] = {"proof": self.payout_proof(name, **payout)} | payout
        body = {"location": {"country": country}, "connection": connection, "offers": [offer], **spec}
        made = await self._create(GPUProvider.info, {"name": name}, body)
        await self.ready(name, acceptance=GPUProvider.parse(made).spec.acceptance_hash())
        total = sum(gpus * nodes for gpus, nodes in buckets.items())
        product = {
            "product": H100,
            "architecture": "hopper",
            "memoryMiB": 81559,
            "total": total,
            "gpusInUseByOthers": 0,
            "freeGPUHistogram": [{"free": gpus, "nodes": nodes} for gpus, nodes in buckets.items()],
        }
        meta = {"name": name, "namespace": f"fedgpu-provider-{name}"}
        await self._create(ProviderReport.info, meta, {"provider": name}, {"products": [product]})

    async def ready(
        self, provider: str, status: str = "True", reason: str = "Ready", *, acceptance: str = "", state: str = "Ready"
    ) -> None:
        """The Ready condition and state of a provider, as the provider loop would have written them."""
        body: JSONObject = {
            "observedGeneration": self.kube.objects[PROVIDERS.plural, "", provider]["metadata"]["generation"],
            "state": state,
            "conditions": [condition("Ready", status, reason, self.clock.now())],
        }
        if acceptance:
            spec = GPUProvider.parse(self.kube.objects[PROVIDERS.plural, "", provider]).spec
            body["acceptance"] = Acceptance.of(spec, self.clock.now()).to_wire() | {"hash": acceptance}
            await self.kube.patch_status(PROVIDERS, provider, "", {"status": {"acceptance": None}})
        await self.kube.patch_status(PROVIDERS, provider, "", {"status": body})

    async def job(self, name: str = "train", *, namespace: str = TEAM, **spec: Any) -> ComputeJob:
        body = {
            "runLimitSeconds": 3600,
            "template": {"spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]}},
            **spec,
        }
        return ComputeJob.parse(await self._create(ComputeJob.info, {"name": name, "namespace": namespace}, body))

    async def account(self, wallet: str, namespace: str = TEAM, *, status: Any = None, **spec: Any) -> None:
        body = {"wallet": wallet, "proof": self.account_proof(wallet, namespace), **spec}
        await self._create(ComputeAccount.info, {"name": "default", "namespace": namespace}, body, status)

    def account_proof(self, wallet: str, namespace: str = TEAM) -> JSONObject:
        """The wallet's proof for that namespace, as `fedgpu account prove` makes it."""
        domain = hub_domain(self.wallets.chain_id, self.wallets.escrow)
        data = account_proof(domain, hub=HUB, namespace=namespace, wallet=wallet, issued_at=ISSUED)
        return _stamped(wallet, data)

    def payout_proof(self, provider: str, address: str, signer: str | None = None, **_: object) -> JSONObject:
        """The payout wallet's proof for that provider, as `fedgpu provider prove` makes it."""
        domain = hub_domain(self.wallets.chain_id, self.wallets.escrow)
        data = provider_proof(domain, hub=HUB, provider=provider, payout=address, signer=signer, issued_at=ISSUED)
        return _stamped(address, data)

    async def policy(self, name: str, labels: dict[str, str], placement: JSONObject) -> None:
        spec = {"namespaceSelector": {"matchLabels": labels}, "placement": placement}
        await self._create(PlacementPolicy.info, {"name": name}, spec)

    async def change(self, name: str, namespace: str = TEAM, **spec: Any) -> None:
        await self.kube.patch(COMPUTE_JOBS, name, namespace, {"spec": spec})

    async def delete(self, name: str, namespace: str = TEAM) -> None:
        await self.kube.delete(COMPUTE_JOBS, name, namespace)

    async def runs(self, lease: ComputeLease, gpu_seconds: int = 1) -> None:
        """The agent reports that the workload runs."""
        running = condition("Running", "True", "Running", self.clock.now())
        await self._agent(lease, gpu_seconds, "Running", [running])

    async def ends(
        self,
        lease: ComputeLease,
        state: str = "Succeeded",
        reason: str = "Succeeded",
        gpu_seconds: int = 0,
        *,
        final: bool = True,
    ) -> None:
        """The agent reports the end, with the last reading unless there is another to come."""
        await self._agent(lease, gpu_seconds, state, end_conditions(state, reason, self.clock.now()), final=final)

    async def cleared(self, lease: ComputeLease) -> None:
        """The agent has acted on the newest generation of the lease."""
        found = self.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]
        status = {"observedGeneration": found["metadata"]["generation"]}
        await self.kube.patch_status(LEASES, lease.metadata.name, lease.metadata.namespace, {"status": status})

    def lose(self, lease: ComputeLease) -> None:
        """Somebody deletes the lease object by hand."""
        del self.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]

    # ---- what the operator does

    async def pass_once(self) -> float | None:
        """One pass of a fresh job loop: a restart at each step must make no difference."""
        self.kube.restart()
        return await self.loop().pass_once()

    def factory(self, *, kube: Kube | None = None, ledger: PingableLedger | None = None, **settings: Any) -> Factory:
        """The services of a process that has just started."""
        made = Factory(
            SETTINGS.model_copy(update={"default_deny": self.default_deny, **settings}),
            kube or self.kube,
            ledger or self.ledger,
            hub_uid=HUB,
            escrow=self.wallets if self.settlement else None,
            clock=self.clock,
            metrics=self.metrics,
        )
        made.proofs = self.proofs if self.settlement else None
        made.thresholds = lambda: self.thresholds
        return made

    @property
    def writers(self) -> Writers:
        """The writers of a process that has just started."""
        return self.factory().writers

    def loop(self) -> JobLoop:
        """A job loop that knows nothing yet."""
        return self.factory().job_loop()

    async def crash(self, verb: str, plural: str) -> None:
        """One pass in which the process dies right before its first such write."""

        def die(this_verb: str, this_plural: str, name: str) -> None:
            if (this_verb, this_plural) == (verb, plural):
                raise Crash(f"{verb} {plural} {name}")

        self.kube.before = die
        try:
            await self.pass_once()
        except Crash:
            return
        finally:
            self.kube.before = lambda *_: None
        raise AssertionError(f"nothing wrote {verb} {plural}")

    # ---- what is there

    async def placed(self) -> None:
        """A job that one pass has placed at the one provider."""
        await self.provider("berlin")
        await self.job()
        await self.pass_once()

    def see(self, name: str = "train", namespace: str = TEAM) -> ComputeJob:
        return ComputeJob.parse(self.kube.objects[COMPUTE_JOBS.plural, namespace, name])

    def exists(self, name: str = "train", namespace: str = TEAM) -> bool:
        return (COMPUTE_JOBS.plural, namespace, name) in self.kube.objects

    def says(self, kind: str, name: str = "train", namespace: str = TEAM) -> tuple[str, str]:
        """(status, reason) of a job's condition."""
        found = find(self.see(name, namespace).status.conditions, kind)
        return (found.status, found.reason) if found else ("", "")

    def message(self, kind: str, name: str = "train") -> str:
        found = find(self.see(name).status.conditions, kind)
        return found.message if found else ""

    @property
    def leases(self) -> list[ComputeLease]:
        """In the order of their jobs' names and attempts."""
        found = [ComputeLease.parse(o) for (plural, *_), o in self.kube.objects.items() if plural == LEASES.plural]
        return sorted(found, key=lambda lease: (lease.spec.job.name, lease.spec.attempt))

    @property
    def lease(self) -> ComputeLease:
        (only,) = self.leases
        return only

    def events(self) -> list[tuple[str, str]]:
        """(type, reason) of every Event."""
        return [(o["type"], o["reason"]) for (plural, *_), o in self.kube.objects.items() if plural == "events"]

    # ---- inside

    async def _create(
        self, info: KindInfo, meta: JSONObject, spec: JSONObject, status: JSONObject | None = None
    ) -> JSONObject:
        kind = ResourceType.of(info)
        made = await self.kube.create(kind, {"metadata": meta, "spec": spec})
        if status is None:
            return made
        return await self.kube.patch_status(kind, meta["name"], meta.get("namespace", ""), {"status": status})

    async def _agent(
        self, lease: ComputeLease, gpu_seconds: int, state: str, conditions: list[JSONObject], *, final: bool = False
    ) -> None:
        found = self.kube.objects[LEASES.plural, lease.metadata.namespace, lease.metadata.name]
        before = found.get("status", {}).get("usage", {})
        stamp = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        gpus = lease.spec.gpus
        pod = {"name": "pod-0", "uid": "pod-0", "gpus": gpus, "seconds": -(-gpu_seconds // gpus)}
        usage = {
            "sequence": before.get("sequence", 0) + 1,
            "gpuSeconds": gpu_seconds,
            "observedAt": stamp,
            "final": final,
            "pods": [pod] if gpu_seconds else [],
        }
        if gpu_seconds:
            usage |= {"startedAt": before.get("startedAt", stamp)} | ({"finishedAt": stamp} if final else {})
        status = {
            "state": state,
            "usage": usage,
            "conditions": conditions,
            "observedGeneration": found["metadata"]["generation"],
            "exitMessage": "the words" if final else "",
        }
        await self.kube.patch_status(LEASES, lease.metadata.name, lease.metadata.namespace, {"status": status})


def _stamped(wallet: str, data: TypedData) -> JSONObject:
    return {"signature": "0x" + stamp(wallet, data.digest).hex(), "issuedAt": ISSUED}
