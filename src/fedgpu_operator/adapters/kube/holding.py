"""A client of the hub that follows our kinds by watches, so that reading them costs no request and no parsing."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

from pydantic import BaseModel

from fedgpu_operator.api.base import GROUP, JSONObject, Resource
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.errors import ConflictError, InvalidResourceError
from fedgpu_operator.ports import LEASES, NAMESPACES, Kube, Listed, R, Reading, ResourceType, WatchEvent
from fedgpu_operator.pulse import Pulse
from fedgpu_operator.reflector import LONGEST_PAUSE_SECONDS, Key, PolledReflector, Reflector

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

NO_FIELDS: Final[set[str]] = set()
KEPT: Final = 4
"""Values of one field that a new one is compared with: those met last, since what is made together is alike."""
MOST_WORDS: Final = 4096
"""Texts that are remembered; the one that was met longest ago goes first."""
OWN: Final = frozenset({"name", "uid", "resource_version", "workload_uid", "signature"})
"""Fields whose text no other object has: remembering it would push out what many have."""


class Words:
    """Equal texts as one, at most so many: what `sys.intern` of Python 3.12.0 to 3.12.5 takes stays for ever."""

    def __init__(self, most: int = MOST_WORDS) -> None:
        self._most = most
        self._met: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met)

    def share(self, word: str) -> str:
        """The equal text that was met before, or this one."""
        known = self._met.setdefault(word, word)
        self._met.move_to_end(word)
        if len(self._met) > self._most:
            self._met.popitem(last=False)
        return known


WORDS: Final = Words()
"""Of all kinds together: a provider's name stands in jobs, leases and reports."""


class Twins:
    """Remembers, by type and field, the parts of models that were met last, and their words.

    The parts are frozen, and nobody changes a list or a mapping inside one, so that sharing them is not seen.
    """

    def __init__(self, words: Words = WORDS) -> None:
        self._words = words
        self._met: defaultdict[tuple[type[BaseModel], str], deque[BaseModel]] = defaultdict(lambda: deque(maxlen=KEPT))

    def share(self, model: BaseModel) -> None:
        """Put parts and words met before in the place of equal ones, from the inside out.

        Which fields were written out, and which by default, nobody asks; those sets are a third of all, and go.
        """
        object.__setattr__(model, "__pydantic_fields_set__", NO_FIELDS)
        fields = model.__dict__
        for name, value in fields.items():
            if type(value) is str:
                fields[name] = value if name in OWN else self._words.share(value)
            elif isinstance(value, BaseModel):
                fields[name] = self._twin(value, name)
            elif isinstance(value, list):
                fields[name] = [self._twin(each, name) if isinstance(each, BaseModel) else each for each in value]

    def _twin(self, part: M, field: str) -> M:
        self.share(part)
        met = self._met[type(part), field]
        for each in met:
            # Its own parts are shared by now, so that equal ones are the very same: the comparison is a short one.
            if isinstance(each, type(part)) and each.__dict__ == part.__dict__:
                return each
        met.append(part)
        return part


PATIENCE_SECONDS: Final = 60.0
"""What is held of a kind that cannot be followed is read no longer than this."""
LAW_PATIENCE_SECONDS: Final = 20.0
"""The same for what says where a job may run: a law that nobody hears of is a law that is broken."""
LAW_PAUSE_SECONDS: Final = 10.0
"""Between two tries to follow such a kind again at most, so that one list that fails does not stop placement."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that this version cannot read; it is left as it is."""

    name: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A namespace with its labels."""

    name: str
    labels: dict[str, str]


Parsed: TypeAlias = Resource | Unreadable
Changed: TypeAlias = Callable[[str, str, Resource | None, Resource | None], None]
"""(plural, namespace, before, after) of a change; an object that is absent or cannot be read is None."""


class HoldingKube:
    """Implements `ports.Kube` and `ports.Holding` over another client; `run` follows the server.

    Kinds in `polled` are not watched: they are listed every `every` seconds, the law more often, and `deliver` takes
    their events from another watch.
    """

    def __init__(
        self,
        kube: Kube,
        kinds: Sequence[type[Resource]],
        changed: Changed,
        *,
        polled: Collection[type[Resource]] = (),
        every: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._kube = kube
        self._changed = changed
        self._made: set[str] = set()
        self._making: set[Key] = set()
        self._polled: dict[str, PolledReflector[Parsed]] = {
            kind.info.plural: PolledReflector(
                kube,
                ResourceType.of(kind.info),
                _parser(kind),
                self._notice(kind.info.plural),
                every=min(every, _longest_pause(kind)),
                longest_pause=_longest_pause(kind),
            )
            for kind in polled
        }
        self._kinds: dict[str, Reflector[Parsed]] = {
            kind.info.plural: self._polled.get(kind.info.plural)
            or Reflector(
                kube,
                ResourceType.of(kind.info),
                _parser(kind),
                self._notice(kind.info.plural),
                longest_pause=_longest_pause(kind),
            )
            for kind in kinds
        }
        self._namespaces: Reflector[Labelled] = Reflector(
            kube, NAMESPACES, _labelled, self._notice_namespace, longest_pause=LAW_PAUSE_SECONDS
        )

    async def run(self) -> None:
        """Follow all kinds until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._namespaces.run(), name="watch-namespaces")
            for plural, each in self._kinds.items():
                group.create_task(each.run(), name=f"watch-{plural}")

    def deliver(self, kind: type[Resource], obj: JSONObject, *, deleted: bool) -> None:
        """Take an event of a kind that is not watched here: the object as it is, or as it was at last."""
        self._polled[kind.info.plural].deliver(obj, deleted=deleted)

    def silences(self) -> dict[str, Callable[[], float]]:
        """By plural, what tells how many seconds ago the server last told us anything of that kind."""
        found = {plural: each.silence for plural, each in self._kinds.items()}
        return {**found, NAMESPACES.plural: self._namespaces.silence}

    def pulses(self) -> list[Pulse]:
        """Of the watch of each kind."""
        return [self._namespaces.pulse, *(each.pulse for each in self._kinds.values())]

    def lags(self) -> dict[str, str]:
        """By plural, why a kind is not followed now; empty if all are."""
        found = {plural: each.lag(_patience(plural)) for plural, each in self._kinds.items()}
        found[NAMESPACES.plural] = self._namespaces.lag(LAW_PATIENCE_SECONDS)
        return {plural: why for plural, why in found.items() if why}

    # ---- ports.Holding

    async def reading(self, kind: type[R], namespace: str = "") -> Reading[R]:
        held = self._kinds[kind.info.plural]
        await held.synced()
        held.check(_patience(kind.info.plural))
        found = list(held.values(namespace))
        unreadable = tuple(each.name for each in found if isinstance(each, Unreadable))
        if unreadable:
            found = [each for each in found if not isinstance(each, Unreadable)]
        return Reading(cast("tuple[R, ...]", tuple(found)), unreadable)

    async def labels(self) -> dict[str, dict[str, str]]:
        await self._namespaces.synced()
        self._namespaces.check(LAW_PATIENCE_SECONDS)
        return {each.name: each.labels for each in self._namespaces.values()}

    def read(self, kind: type[R], obj: JSONObject) -> R:
        held = self._kinds[kind.info.plural].put(obj)
        return held if isinstance(held, kind) else kind.parse(obj)

    def answered(self, obj: Resource) -> float:
        meta = obj.metadata
        return self._kinds[obj.info.plural].answered(meta.namespace, meta.name, meta.resource_version)

    def claim(self, obj: Resource) -> bool:
        if (obj.metadata.namespace, obj.metadata.name) in self._making:
            raise ConflictError(f"{obj.info.kind} {obj.key} is being made")
        uid = obj.metadata.uid
        ours = uid in self._made
        self._made.discard(uid)
        return ours

    # ---- ports.Kube

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        return await self._kube.get(kind, name, namespace)

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        return await self._kube.list(kind, namespace, labels=labels, fields=fields)

    def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        return self._kube.pages(kind, namespace, labels=labels, fields=fields)

    def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        return self._kube.watch(kind, namespace, labels=labels, resource_version=resource_version)

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        if kind != LEASES:
            return self._put(kind, await self._kube.create(kind, obj))
        # The watch may tell of it before the answer comes: until then nobody can say whose it is.
        key = _name_of(obj)
        self._making.add(key)
        try:
            made = await self._kube.create(kind, obj)
            self._made.add(str(made["metadata"]["uid"]))
        finally:
            self._making.discard(key)
        return self._put(kind, made)

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        return self._put(kind, await self._kube.apply(kind, obj, force=force))

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return self._put(kind, await self._kube.patch(kind, name, namespace, patch))

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return self._put(kind, await self._kube.patch_status(kind, name, namespace, patch))

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        await self._kube.delete(kind, name, namespace, uid=uid, resource_version=resource_version)

    async def server_version(self) -> str:
        return await self._kube.server_version()

    async def close(self) -> None:
        await self._kube.close()

    # ---- inside

    def _put(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        if kind == NAMESPACES:
            self._namespaces.put(obj)
        elif kind.group == GROUP and kind.plural in self._kinds:
            self._kinds[kind.plural].put(obj)
        return obj

    def _notice(self, plural: str) -> Callable[[Key, Parsed | None, Parsed | None], None]:
        def notice(key: Key, before: Parsed | None, after: Parsed | None) -> None:
            if after is None and isinstance(before, ComputeLease):
                self._made.discard(before.metadata.uid)
            self._changed(plural, key[0], _readable(before), _readable(after))

        return notice

    def _notice_namespace(self, key: Key, before: Labelled | None, after: Labelled | None) -> None:
        if before is None or after is None or before.labels != after.labels:
            self._changed(NAMESPACES.plural, key[1], None, None)


def _patience(plural: str) -> float:
    return LAW_PATIENCE_SECONDS if plural == PlacementPolicy.info.plural else PATIENCE_SECONDS


def _longest_pause(kind: type[Resource]) -> float:
    return LAW_PAUSE_SECONDS if kind is PlacementPolicy else LONGEST_PAUSE_SECONDS


def _parser(kind: type[Resource]) -> Callable[[JSONObject], Parsed]:
    twins = Twins()

    def parse(obj: JSONObject) -> Parsed:
        try:
            return _slim(kind.parse(obj), twins)
        except InvalidResourceError as error:
            meta = obj["metadata"]
            log.warning("%s %s/%s: %s", kind.info.kind, meta.get("namespace", ""), meta.get("name"), error)
            return Unreadable(str(meta.get("name")))

    return parse


def _slim(obj: Resource, twins: Twins) -> Resource:
    """The object with no more than is read of it; ten thousand of them are held.

    A lease whose workload is on its member goes without the workload: it is never made from it again. A job that has a
    place goes without the offers that it was chosen from: they stay on the hub, and a next decision writes its own.
    """
    if isinstance(obj, ComputeLease) and obj.status.workload_uid:
        obj = obj.model_copy(update={"spec": obj.spec.model_copy(update={"workload": {}})})
    elif isinstance(obj, ComputeJob) and obj.status.decided and obj.status.candidates:
        obj = obj.model_copy(update={"status": obj.status.model_copy(update={"candidates": []})})
    twins.share(obj)
    return obj


def _name_of(obj: JSONObject) -> Key:
    return str(obj["metadata"].get("namespace", "")), str(obj["metadata"]["name"])


def _readable(value: Parsed | None) -> Resource | None:
    return value if isinstance(value, Resource) else None


def _labelled(obj: JSONObject) -> Labelled:
    meta = obj["metadata"]
    return Labelled(str(meta["name"]), dict(meta.get("labels") or {}))
