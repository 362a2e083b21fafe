"""A hub in memory with the month's objects: what people, owners and agents wrote. The operator's own come from it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from benchmarks.month.history import (
    NODE_GPUS,
    PRODUCTS,
    START,
    Attempt,
    Month,
    offer_of,
    provider_name,
    tenant_name,
    wallet,
)

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.errors import AlreadyExistsError, ConflictError, NotFoundError
from fedgpu_operator.ports import COORDINATION_LEASES, NAMESPACES, ResourceType, WatchEvent

JSON = dict[str, Any]
Queues = list[asyncio.Queue[WatchEvent]]
Listed = tuple[list[dict[str, Any]], str]
Key = tuple[str, str, str]
"""(plural, namespace, name)."""

JOBS: Final = ResourceType.of(ComputeJob.info)
LEASES: Final = ResourceType.of(ComputeLease.info)
FINALIZER: Final = "fedgpu.dev/lease"
# Written down here: both builds have them, and in different modules.
ISSUED: Final = 1_767_000_000
PROOF: Final = {"signature": "0x" + "1b" * 65, "issuedAt": ISSUED}
"""Of wallets that are contracts: the chain of this benchmark calls every signature good."""
COUNTRIES: Final = ("DE", "FR", "US", "NL", "SE", "PL", "ES", "IT", "FI", "GB")
WAITING: Final[tuple[JSON, ...]] = (
    {},
    {"placement": {"groups": ["EU"]}},
    {"maxPricePerGPUHour": "0.05"},
    {"placement": {"countries": ["CH"]}},
    {"placement": {"groups": ["EU"], "excludedCountries": ["DE"]}, "maxPricePerGPUHour": "3"},
)
"""What jobs ask for that wait: GPUs that are taken, prices that nobody takes, countries in which nobody offers."""


def provider_namespace(provider: str) -> str:
    """The provider's namespace on the hub; names here are short, so that they stand in it whole."""
    return f"fedgpu-provider-{provider}"


class MemoryHub:
    """`ports.Kube` over objects as an API server would send them; each write makes a new object and an event of it.

    They are held as JSON text: an operator's collector of garbage has no hub to look through either.
    """

    def __init__(self, now: datetime) -> None:
        self.texts: defaultdict[str, dict[Key, str]] = defaultdict(dict)
        """By plural: an operator's reading of one kind pays for no other kind."""
        self.writes = 0
        self._now = now
        self._version = 0
        self._watchers: dict[str, Queues] = {}

    # ---- ports.Kube

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSON:
        return self._found(kind, namespace, name)

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        wanted = fields.removeprefix("metadata.name=") if fields.startswith("metadata.name=") else ""
        found = [
            json.loads(text)
            for (_, space, name), text in self.texts[kind.plural].items()
            if namespace in ("", space) and wanted in ("", name)
        ]
        return found, str(self._version)

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watchers.setdefault(kind.plural, []).append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers[kind.plural].remove(queue)

    async def create(self, kind: ResourceType, obj: JSON) -> JSON:
        meta = obj["metadata"]
        key = (kind.plural, str(meta.get("namespace", "")), str(meta["name"]))
        if key in self.texts[kind.plural]:
            raise AlreadyExistsError(f"{key} exists", status=409)
        made = json.loads(json.dumps(obj))
        made["metadata"].setdefault("uid", f"00000000-0000-4000-8000-{self._version:012x}")
        made["metadata"] |= {"generation": 1, "creationTimestamp": f"{self._now:%Y-%m-%dT%H:%M:%SZ}"}
        return self._save(key, made, "ADDED")

    async def apply(self, kind: ResourceType, obj: JSON, *, force: bool = True) -> JSON:
        try:
            return await self.create(kind, obj)
        except AlreadyExistsError:
            return await self.patch(kind, obj["metadata"]["name"], obj["metadata"].get("namespace", ""), obj)

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSON) -> JSON:
        found = self._guarded(kind, name, namespace, patch)
        made = _merged(found, {part: value for part, value in patch.items() if part != "status"})
        if made.get("spec") != found.get("spec"):
            made["metadata"] = made["metadata"] | {"generation": found["metadata"]["generation"] + 1}
        return self._save((kind.plural, namespace, name), made, "MODIFIED")

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSON) -> JSON:
        found = self._guarded(kind, name, namespace, patch)
        made = _merged(found, {"status": patch["status"]})
        return self._save((kind.plural, namespace, name), made, "MODIFIED")

    async def delete(self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "") -> None:
        gone = self.texts[kind.plural].pop((kind.plural, namespace, name), None)
        if gone is not None:
            self._tell(kind.plural, WatchEvent("DELETED", json.loads(gone)))

    async def server_version(self) -> str:
        return "v1.36.3"

    async def close(self) -> None:
        return

    # ---- what the benchmark does

    def fill(self, objects: Iterable[tuple[ResourceType, JSON]]) -> None:
        """Put objects there that nobody watches yet; status and uid are taken as they are given."""
        for kind, obj in objects:
            meta = obj["metadata"]
            self._version += 1
            meta.setdefault("uid", f"00000000-0000-4000-8000-{self._version:012x}")
            stamps = {"generation": 1, "creationTimestamp": f"{self._now:%Y-%m-%dT%H:%M:%SZ}"}
            obj["metadata"] = {**stamps, **meta, "resourceVersion": str(self._version)}
            key = kind.plural, str(meta.get("namespace", "")), str(meta["name"])
            self.texts[kind.plural][key] = json.dumps(obj)

    def save(self) -> str:
        """All objects as text, from which `restore` makes them again."""
        kept = [[*key, text] for those in self.texts.values() for key, text in those.items()]
        return json.dumps({"version": self._version, "texts": kept})

    def restore(self, text: str) -> None:
        saved = json.loads(text)
        self._version = saved["version"]
        self.texts.clear()
        for plural, space, name, text in saved["texts"]:
            self.texts[plural][plural, space, name] = text

    # ---- inside

    def _found(self, kind: ResourceType, namespace: str, name: str) -> JSON:
        try:
            found: JSON = json.loads(self.texts[kind.plural][kind.plural, namespace, name])
        except KeyError:
            raise NotFoundError(f"{kind.plural} {namespace}/{name} not found", status=404) from None
        return found

    def _guarded(self, kind: ResourceType, name: str, namespace: str, patch: JSON) -> JSON:
        found = self._found(kind, namespace, name)
        for part in ("uid", "resourceVersion"):
            wanted = patch.get("metadata", {}).get(part)
            if wanted is not None and wanted != found["metadata"][part]:
                raise ConflictError(f"{kind.plural} {name}: {part} is another", status=409)
        return found

    def _save(self, key: Key, obj: JSON, event: str) -> JSON:
        self._version += 1
        self.writes += 1
        obj["metadata"] = obj["metadata"] | {"resourceVersion": str(self._version)}
        self.texts[key[0]][key] = json.dumps(obj)
        self._tell(key[0], WatchEvent("ADDED" if event == "ADDED" else "MODIFIED", obj))
        return obj

    def _tell(self, plural: str, event: WatchEvent) -> None:
        for queue in self._watchers.get(plural, ()):
            queue.put_nowait(event)


def _merged(target: JSON, patch: JSON) -> JSON:
    """RFC 7396 without touching the target."""
    made = dict(target)
    for part, value in patch.items():
        if value is None:
            made.pop(part, None)
        elif isinstance(value, dict):
            inner = made.get(part)
            made[part] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            made[part] = value
    return made


def objects_of(month: Month) -> Iterator[tuple[ResourceType, JSON]]:
    """What others than the operator wrote: namespaces, providers with their reports, accounts, and jobs."""
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.api.providerreport import ProviderReport

    now, size = month.now, month.size
    spaces = [tenant_name(index) for index in range(size.tenants)]
    spaces += [provider_namespace(provider_name(index)) for index in range(size.providers)]
    for space in [*spaces, "kube-system", "fedgpu-system"]:
        yield NAMESPACES, {"metadata": {"name": space, "labels": {}}}
    for index in range(size.tenants):
        spec = {"wallet": wallet("tenant", index), "proof": PROOF}
        meta = {"name": "default", "namespace": tenant_name(index)}
        yield ResourceType.of(ComputeAccount.info), {"metadata": meta, "spec": spec}
    busy: dict[int, int] = {}
    for attempt in month.running:
        busy[attempt.pair.provider] = busy.get(attempt.pair.provider, 0) + attempt.gpus
    for index in range(size.providers):
        yield ResourceType.of(GPUProvider.info), _provider(index, now)
        report = {"products": [_product(index, busy.get(index, 0))], "observedAt": _stamp(now)}
        meta = {"name": provider_name(index), "namespace": provider_namespace(provider_name(index))}
        body = {"metadata": meta, "spec": {"provider": provider_name(index)}, "status": report}
        yield ResourceType.of(ProviderReport.info), body
        lease = {"name": "fedgpu-agent", "namespace": meta["namespace"]}
        yield COORDINATION_LEASES, {"metadata": lease, "spec": {"renewTime": now.isoformat()}}
    for attempt in month.running:
        yield JOBS, _running_job(attempt)
    for index in range(size.waiting):
        yield JOBS, waiting_job(month, index)


def waiting_job(month: Month, index: int) -> JSON:
    """A job that nobody has room for; every twentieth is like another one."""
    gpu = {"count": (1, 2, 4, 8)[index % 4], "products": [PRODUCTS[index // 4 % len(PRODUCTS)]]}
    meta = {"name": f"wait-{index:05}", "namespace": tenant_name(index % month.size.tenants)}
    return {"metadata": meta, "spec": _job(gpu, WAITING[index // 16 % len(WAITING)])}


def running_status(attempt: Attempt, lease: JSON, at: int, now: datetime, *, ended: bool = False) -> JSON:
    """What the agent reports of a lease: all of its time used, `at` seconds after the month's beginning."""
    before = (lease.get("status") or {}).get("usage") or {}
    used = attempt.used(at)
    pod = {"name": "pod-0", "uid": "pod-0", "gpus": attempt.gpus, "seconds": used // attempt.gpus}
    usage = {
        "sequence": before.get("sequence", 0) + 1,
        "gpuSeconds": used,
        "observedAt": _stamp(now),
        "final": ended,
        "pods": [pod],
        "startedAt": before.get("startedAt") or lease["metadata"]["creationTimestamp"],
    }
    conditions = [_condition("Running", "True", "Running", now)]
    if ended:
        conditions = [_condition("Running", "False", "Ended", now), _condition("Complete", "True", "Succeeded", now)]
    return {
        "state": "Succeeded" if ended else "Running",
        "workloadUID": f"w-{attempt.uid}",
        "observedGeneration": lease["metadata"]["generation"],
        "usage": usage | ({"finishedAt": _stamp(now)} if ended else {}),
        "conditions": conditions,
    }


def leases(hub: MemoryHub) -> dict[str, JSON]:
    """The ComputeLeases by name."""
    return {name: json.loads(text) for (_, _, name), text in hub.texts[LEASES.plural].items()}


def _job(gpu: JSON, spec: JSON) -> JSON:
    pod = {"containers": [{"name": "main", "image": "registry.example/train:1"}]}
    # 32e03ab reads one form, the newer ones another; each ignores the other.
    limits = {"runLimit": "48h", "runLimitSeconds": 172_800}
    return {"gpu": gpu, "template": {**pod, "spec": pod}, **limits, **spec}


def _running_job(attempt: Attempt) -> JSON:
    """A job that was placed; its lease is not there, so the operator makes it again under the attempt's terms."""
    gpu = {"count": attempt.gpus, "products": [attempt.product]}
    meta = {"name": attempt.job, "namespace": attempt.pair.names[0], "uid": attempt.uid, "finalizers": [FINALIZER]}
    price, at = f"{attempt.price / 10**6:.6f}", _stamp(START + timedelta(seconds=attempt.created))
    placement = {
        "provider": attempt.pair.names[1],
        "product": attempt.product,
        "lease": attempt.lease,
        "attempt": 1,
        "price": price,
        "effectivePrice": price,
        "placedAt": at,
        "priority": 0,
    }
    status = {"observedGeneration": 1, "state": "Running", "reason": "Running", "placement": placement}
    return {"metadata": meta, "spec": _job(gpu, {}), "status": status}


def _provider(index: int, now: datetime) -> JSON:
    product, price = offer_of(index)
    name = provider_name(index)
    spec = {
        "location": {"country": COUNTRIES[index % len(COUNTRIES)]},
        "connection": {"kubeconfigSecretRef": {"name": name}},
        "offers": [{"product": product, "pricePerGPUHour": f"{price / 10**6:.6f}"}],
        "payout": {"address": wallet("provider", index), "proof": PROOF},
    }
    meta = {"name": name, "uid": f"00000000-0000-4000-9000-{index:012x}"}
    read = GPUProvider.parse({"metadata": {**meta, "resourceVersion": "1", "generation": 1}, "spec": spec})
    status = {
        "observedGeneration": 1,
        "state": "Ready",
        "namespace": provider_namespace(name),
        "conditions": [_condition("Ready", "True", "Ready", now)],
        "acceptance": _acceptance(read, now),
    }
    return {"metadata": meta, "spec": spec, "status": status}


def _acceptance(provider: GPUProvider, now: datetime) -> JSON:
    """As the providers' loop writes it; 32e03ab kept less of it."""
    told = {"hash": provider.spec.acceptance_hash(), "acceptedAt": _stamp(now)}
    return Acceptance.of(provider.spec, now).to_wire() | told if hasattr(Acceptance, "of") else told


def _product(index: int, busy: int) -> JSON:
    """All of its GPUs are taken."""
    total = max(NODE_GPUS, -(-busy // NODE_GPUS) * NODE_GPUS)
    facts = {"product": offer_of(index)[0], "architecture": "hopper", "memoryMiB": 81559}
    taken = {"foreign": total - busy, "gpusInUseByOthers": total - busy}
    return {**facts, "total": total, **taken, "buckets": [], "freeGPUHistogram": []}


def _condition(kind: str, status: str, reason: str, at: datetime) -> JSON:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": _stamp(at)}


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
