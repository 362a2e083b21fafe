"""An API server in memory, a clock that stands still, and counters: what the hub's loops see in these tests."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from fedgpu_operator.adapters.kube.holding import HoldingKube
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.domain.market import PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import AlreadyExistsError, ConflictError, NotFoundError
from fedgpu_operator.placement.problem import Solution
from fedgpu_operator.ports import Kube, Listed, Metrics, R, Reading, ResourceType, WatchEvent
from fedgpu_operator.reflector import Reflector
from fedgpu_operator.settlement.funding import Purse

Key = tuple[str, str, str]
"""(plural, namespace, name)."""


class FakeClock:
    """Time that only a test moves."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def forward(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class FakeKube:
    """Objects in a dictionary with the manners of an API server that the loops rely on.

    resourceVersion rises with each write, generation with each change of the spec; a patch that carries another uid or
    resourceVersion is a conflict; a status patch changes the status alone; finalizers hold a deleted object back.
    `before` is called ahead of each write and may raise, as a server that refuses or a process that dies.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.objects: dict[Key, JSONObject] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.before: Callable[[str, str, str], None] = lambda verb, plural, name: None
        self._clock = clock
        self._version = 0

    # ---- ports.Kube

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        return copy.deepcopy(self._found(kind, namespace, name))

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        assert not labels
        wanted = fields.removeprefix("metadata.name=")
        found = [
            copy.deepcopy(obj)
            for (plural, space, name), obj in sorted(self.objects.items())
            if plural == kind.plural and namespace in ("", space) and wanted in ("", name)
        ]
        return found, str(self._version)

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        for key in sorted(self.objects):
            if key[0] == kind.plural:
                yield WatchEvent("ADDED", copy.deepcopy(self.objects[key]))

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        meta = obj["metadata"]
        self._write("create", kind, meta["name"])
        key = (kind.plural, meta.get("namespace", ""), meta["name"])
        if key in self.objects:
            raise AlreadyExistsError(f"{key} exists", status=409)
        made = copy.deepcopy(obj)
        made["metadata"] |= {
            "uid": str(uuid5(NAMESPACE_OID, f"{key}/{self._version}")),
            "generation": 1,
            "creationTimestamp": self._stamp(),
        }
        self.objects[key] = made
        return self._saved(made)

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        try:
            return await self.create(kind, obj)
        except AlreadyExistsError:
            return await self.patch(kind, obj["metadata"]["name"], obj["metadata"].get("namespace", ""), obj)

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        self._write("patch", kind, name)
        found = self._guarded(kind, name, namespace, patch)
        spec = copy.deepcopy(found.get("spec"))
        _merge(found, {key: value for key, value in patch.items() if key != "status"})
        if found.get("spec") != spec:
            found["metadata"]["generation"] += 1
        meta = found["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            del self.objects[kind.plural, namespace, name]
        return self._saved(found)

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        self._write("status", kind, name)
        found = self._guarded(kind, name, namespace, patch)
        _merge(found.setdefault("status", {}), patch["status"])
        return self._saved(found)

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        self._write("delete", kind, name)
        found = self.objects.get((kind.plural, namespace, name))
        if found is None:
            return
        for field, wanted in (("uid", uid), ("resourceVersion", resource_version)):
            if wanted and found["metadata"][field] != wanted:
                raise ConflictError(f"{name}: {field} is another", status=409)
        if found["metadata"].get("finalizers"):
            found["metadata"].setdefault("deletionTimestamp", self._stamp())
            self._saved(found)
            return
        del self.objects[kind.plural, namespace, name]

    async def server_version(self) -> str:
        return "v1.36.3"

    async def close(self) -> None:
        return

    # ---- inside

    def _found(self, kind: ResourceType, namespace: str, name: str) -> JSONObject:
        try:
            return self.objects[kind.plural, namespace, name]
        except KeyError:
            raise NotFoundError(f"{kind.plural} {namespace}/{name} not found", status=404) from None

    def _guarded(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        found = self._found(kind, namespace, name)
        for field in ("uid", "resourceVersion"):
            wanted = patch.get("metadata", {}).get(field)
            if wanted is not None and wanted != found["metadata"][field]:
                raise ConflictError(f"{kind.plural} {name}: {field} is another", status=409)
        return found

    def _write(self, verb: str, kind: ResourceType, name: str) -> None:
        self.before(verb, kind.plural, name)
        self.writes.append((verb, kind.plural, name))

    def _saved(self, obj: JSONObject) -> JSONObject:
        self.bump(obj)
        return copy.deepcopy(obj)

    def bump(self, obj: JSONObject) -> None:
        """Give the object the next resourceVersion."""
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)

    def _stamp(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeHub(HoldingKube):
    """The client that the operator reads the hub with, over a FakeKube; each reading is as new as the server.

    What a test does to `objects` by hand counts as a write by somebody else.
    """

    def __init__(self, server: FakeKube) -> None:
        self.server = server
        self._read: dict[Key, JSONObject] = {}
        self.restart()

    def restart(self) -> None:
        """Another life of the process: nothing is held, and it has made nothing."""
        super().__init__(self.server, KINDS, lambda *_: None)

    @property
    def objects(self) -> dict[Key, JSONObject]:
        return self.server.objects

    @property
    def writes(self) -> list[tuple[str, str, str]]:
        return self.server.writes

    @property
    def before(self) -> Callable[[str, str, str], None]:
        return self.server.before

    @before.setter
    def before(self, called: Callable[[str, str, str], None]) -> None:
        self.server.before = called

    async def reading(self, kind: type[R], namespace: str = "") -> Reading[R]:
        await self._catch_up(self._kinds[kind.info.plural])
        return await super().reading(kind, namespace)

    async def labels(self) -> dict[str, dict[str, str]]:
        await self._catch_up(self._namespaces)
        return await super().labels()

    async def _catch_up(self, held: Reflector[Any]) -> None:
        """Hold what the server has now; what was changed by hand gets a version of its own first."""
        for key, obj in self.objects.items():
            if key[0] == held.kind.plural:
                known = self._read.get(key)
                if known is not None and known != obj and _version_of(known) == _version_of(obj):
                    self.server.bump(obj)
                self._read[key] = copy.deepcopy(obj)
        await held.relist()


def _version_of(obj: JSONObject) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def _merge(target: JSONObject, patch: JSONObject) -> None:
    """RFC 7396, written here once more so that the operator's own is not judged by itself."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.get(key)
            target[key] = inner if isinstance(inner, dict) else {}
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


class FakeMetrics:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.failed: Counter[tuple[str, str]] = Counter()
        self.ledger_gap_count = 0
        self.passes: Counter[tuple[str, bool]] = Counter()
        self.gpu_seconds: Counter[str] = Counter()
        self.states: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.paid_total = 0
        self.moves: Counter[str] = Counter()
        self.gaps: list[float] = []
        self.prices: tuple[PricePoint, ...] = ()
        self.in_the_way: set[str] = set()
        self.purse: Purse | None = None
        self.waits: list[tuple[str, float]] = []
        self.waiting: dict[tuple[str, str], int] = {}
        self.evictions: Counter[str] = Counter()
        self.connected: dict[str, bool] = {}
        self.due: datetime | None = None

    def decided(self, placed: int, refused: dict[str, int], seconds: float) -> None:
        self.refused = refused

    def admitted(self, namespace: str, waited: float) -> None:
        self.waits.append((namespace, waited))

    def pending(self, jobs: Mapping[tuple[str, str], int]) -> None:
        self.waiting = dict(jobs)

    def evicted(self, reason: str) -> None:
        self.evictions[reason] += 1

    def providers(self, connected: Mapping[str, bool]) -> None:
        self.connected = dict(connected)

    def epoch_due(self, at: datetime | None) -> None:
        self.due = at

    def loop_failed(self, loop: str, reason: str) -> None:
        self.failed[loop, reason] += 1

    def loop_passed(self, loop: str, seconds: float, *, succeeded: bool) -> None:
        self.passes[loop, succeeded] += 1

    def ledger_gaps(self, count: int) -> None:
        self.ledger_gap_count = count

    def billed(self, provider: str, gpu_seconds: int) -> None:
        self.gpu_seconds[provider] += gpu_seconds

    def moved(self, reason: str) -> None:
        self.moves[reason] += 1

    def jobs(self, by_state: dict[str, int]) -> None:
        self.states = by_state

    def paid(self, micro_usd: MicroUSD) -> None:
        self.paid_total += micro_usd

    def solved(self, solution: Solution) -> None:
        self.gaps.append(solution.gap)

    def market(self, prices: Sequence[PricePoint]) -> None:
        self.prices = tuple(prices)

    def settler(self, purse: Purse) -> None:
        self.purse = purse

    def obstacles(self, present: Mapping[str, bool]) -> None:
        self.in_the_way = {reason for reason, holds in present.items() if holds}


def as_ports(kube: FakeKube, metrics: FakeMetrics) -> tuple[Kube, Metrics]:
    """Type-checked only: the fakes are what ports/ asks for."""
    return kube, metrics
