"""Follows our Jobs and pods on a member, and keeps of what it sends only the fields that are read here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.lease import Sight
from fedgpu_operator.agent.workload import Identity, lease_of
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.inventory import InventoryRules
from fedgpu_operator.domain.text import REPLACEMENT, is_name
from fedgpu_operator.errors import ListTooLargeError
from fedgpu_operator.ports import BATCH_JOBS, EVENTS, NAMESPACES, NODES, PODS, Kube, ResourceType
from fedgpu_operator.reflector import Bound, Key, Reflector, weight
from fedgpu_operator.supply.node import LABELS_READ, may_be_gpus

log = logging.getLogger(__name__)

MAX_TEXT: Final = 2048
"""Longest text that is kept, in characters; what is written to the hub of it is shorter still."""
MAX_ENTRIES: Final = 128
"""Longest list that is kept."""
PREFIXES: Final = ("fedgpu.dev/", "batch.kubernetes.io/", "pod-security.kubernetes.io/")
"""Of the labels and annotations that are kept; of nodes those beside that name their GPUs."""

Part: TypeAlias = Callable[[object], Any]
"""From a value to what is kept of it; None for what is left out."""


def text(value: object) -> str | None:
    """A text, cut; for people, and for words that are compared."""
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _plain(value: object) -> object:
    """A quantity: JSON has it as a text or a number."""
    return text(value) if isinstance(value, str) else _number(value)


def _identity(value: object) -> object:
    """As it is; what cannot identify anything as something that no name is: whoever checks it refuses it."""
    return value if value is None or isinstance(value, str) else REPLACEMENT


def _marks(*prefixes: str) -> Part:
    """Labels or annotations with these prefixes; one whose value is more than a word is left out."""

    def keep(value: object) -> dict[str, str] | None:
        if not isinstance(value, dict):
            return None
        found = {
            key: each
            for key, each in value.items()
            if key.startswith(prefixes) and is_name(key) and (each == "" or is_name(each))
        }
        return dict(list(found.items())[:MAX_ENTRIES])

    return keep


def _fields(**parts: Part) -> Part:
    """An object with these fields."""

    def keep(value: object) -> JSONObject | None:
        if not isinstance(value, dict):
            return None
        found = ((name, part(value[name])) for name, part in parts.items() if name in value)
        return {name: each for name, each in found if each is not None}

    return keep


def _each(part: Part) -> Part:
    """A list of such."""

    def keep(value: object) -> list[Any] | None:
        if not isinstance(value, list):
            return None
        return [kept for kept in map(part, value[:MAX_ENTRIES]) if kept is not None]

    return keep


def _amounts(*names: str) -> Part:
    """Of amounts of resources, those that may be GPUs and those of these names."""

    def keep(value: object) -> JSONObject | None:
        if not isinstance(value, dict):
            return None
        found = {name: _plain(each) for name, each in value.items() if name in names or may_be_gpus(name)}
        return dict(list(found.items())[:MAX_ENTRIES]) or None

    return keep


_GPUS: Final = _amounts()
_LIMITS: Final = _amounts("memory")


_META: Final = _fields(
    name=_identity,
    namespace=_identity,
    uid=_identity,
    resourceVersion=_identity,
    generation=_number,
    creationTimestamp=text,
    deletionTimestamp=text,
    labels=_marks(*PREFIXES),
    annotations=_marks(*PREFIXES),
)
_CONDITIONS: Final = _each(_fields(type=text, status=text, reason=text, message=text, lastTransitionTime=text))
_ENDED: Final = _fields(startedAt=text, finishedAt=text, exitCode=_number, signal=_number, reason=text, message=text)
_STATE: Final = _fields(waiting=_fields(reason=text, message=text), running=_fields(startedAt=text), terminated=_ENDED)
_CONTAINER: Final = _fields(
    name=text, image=text, resources=_fields(limits=_LIMITS, requests=_GPUS), restartPolicy=text
)
_CONTAINER_STATUS: Final = _fields(
    name=text, image=text, state=_STATE, lastState=_STATE, restartCount=_number, started=_flag
)
_POD: Final = _fields(
    metadata=_META,
    spec=_fields(
        nodeName=text,
        containers=_each(_CONTAINER),
        initContainers=_each(_CONTAINER),
        resources=_fields(limits=_LIMITS),
    ),
    status=_fields(
        phase=text,
        reason=text,
        message=text,
        startTime=text,
        conditions=_CONDITIONS,
        containerStatuses=_each(_CONTAINER_STATUS),
        initContainerStatuses=_each(_CONTAINER_STATUS),
    ),
)
_JOB: Final = _fields(
    metadata=_META,
    spec=_fields(suspend=_flag, completions=_number, parallelism=_number, activeDeadlineSeconds=_number),
    status=_fields(
        startTime=text,
        completionTime=text,
        active=_number,
        ready=_number,
        succeeded=_number,
        failed=_number,
        conditions=_CONDITIONS,
    ),
)


def _node(*prefixes: str) -> Part:
    return _fields(
        metadata=_fields(name=_identity, uid=_identity, resourceVersion=_identity, labels=_marks(*prefixes)),
        spec=_fields(unschedulable=_flag, taints=_each(_fields(key=text, value=text, effect=text))),
        status=_fields(allocatable=_GPUS, conditions=_each(_fields(type=text, status=text))),
    )


_EVENT: Final = _fields(metadata=_META, type=text, reason=text, message=text, lastTimestamp=text, eventTime=text)
_NAMESPACE: Final = _fields(metadata=_META)


def _of(part: Part) -> Callable[[JSONObject], JSONObject]:
    """An object of that kind; its metadata, if it has any, names what identifies it, or says that it is empty."""

    def keep(obj: JSONObject) -> JSONObject:
        found: JSONObject = part(obj)
        if "metadata" in found:
            found["metadata"] = {"name": "", "namespace": "", "uid": "", "resourceVersion": "", **found["metadata"]}
        return found

    return keep


KEPT: Final[Mapping[ResourceType, Callable[[JSONObject], JSONObject]]] = {
    PODS: _of(_POD),
    BATCH_JOBS: _of(_JOB),
    NODES: _of(_node(*LABELS_READ)),
    EVENTS: _of(_EVENT),
    NAMESPACES: _of(_NAMESPACE),
}


def kept(rules: InventoryRules) -> Mapping[ResourceType, Callable[[JSONObject], JSONObject]]:
    """What is kept of the objects of a member whose owner says so much of its nodes."""
    return {**KEPT, NODES: _of(_node(*LABELS_READ, *sorted(rules.keys)))} if rules.keys else KEPT


PATIENCE_SECONDS: Final = 5.0
"""What is known of a member that cannot be followed is shown no longer than this: as long as one answer may take."""
MOST_HELD: Final = 8 * 2**20
"""Bytes of memory, about, that our Jobs on one member may take, our pods as well, and again how pods ended."""
HELD_PER_POD: Final = 16 * 1024
"""And so many more for each pod that our leases there can have, of which one takes about half."""
LOOKS: Final = 2
"""Leases of one member that are looked at by name at the same time: each may take as much as a list may."""
MOST_PODS: Final = 4096
"""Pods of one lease, present and ended: a lease has at most 1,024 replicas, and none of them runs twice."""


class MemberWatch:
    """List-and-watch of one member. It shows what may have changed since; `look` asks the member itself."""

    def __init__(self, member: Kube, identity: Identity, wake: Callable[[], None], *, longest_pause: float) -> None:
        self._member = member
        self._identity = identity
        self._wake = wake
        self._expected = 0
        self._known: frozenset[str] | None = None
        self._looks = asyncio.Semaphore(LOOKS)

        def follow(
            kind: ResourceType, changed: Callable[[Key, JSONObject | None, JSONObject | None], None]
        ) -> Reflector[JSONObject]:
            bound, labels = Bound(weight, self._most), identity.selector
            return Reflector(member, kind, KEPT[kind], changed, labels=labels, longest_pause=longest_pause, bound=bound)

        self._jobs = follow(BATCH_JOBS, self._job_changed)
        self._pods = follow(PODS, self._pod_changed)
        self._job_of: dict[str, JSONObject] = {}
        self._pods_of: dict[str, dict[str, JSONObject]] = {}
        self._changed: set[str] = set()
        """Leases whose pods are not yet those in `_present`: that one is made once per sight, not once per event."""
        self._present: dict[str, tuple[JSONObject, ...]] = {}
        self._ended: dict[str, tuple[JSONObject, ...]] = {}
        self._ever: set[str] = set()
        self._ended_weight = 0
        self._overflows = False

    async def run(self) -> None:
        """Follow until cancelled; a member that does not answer is asked again, ever more slowly."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._jobs.run())
            group.create_task(self._pods.run())

    def expect(self, leases: Iterable[ComputeLease]) -> None:
        """These are the leases on this member: of others nothing is remembered that the member does not show now."""
        pods = {lease.metadata.name: lease.spec.replicas for lease in leases}
        self._known, self._expected = frozenset(pods), sum(pods.values())
        self.forget(pods)

    def _most(self) -> int:
        return MOST_HELD + HELD_PER_POD * self._expected

    async def sight(self) -> Sight:
        """What is known of the member; raises the KubeError for which it cannot be followed."""
        for each in (self._jobs, self._pods):
            await each.synced()
            each.check(PATIENCE_SECONDS)
        for lease in list(self._changed):
            pods = tuple(self._pods_of.get(lease, {}).values())
            if len(pods) > MOST_PODS:
                raise crowded(lease)
            if pods:
                self._present[lease] = pods
            else:
                self._present.pop(lease, None)
            self._changed.discard(lease)
        return Sight(self._job_of, self._present, self._ended, self._ever)

    def silence(self) -> float:
        """Seconds since the member last told us anything of its pods; what it shows may be as old as that."""
        return self._pods.silence()

    async def look(self, lease: str) -> Sight:
        """What the member shows of one lease, asked now.

        Jobs first: a Job that is already gone then cannot bring forth a pod that the second list lacks.
        """
        labels = self._identity.selector_of(lease)
        async with self._looks:
            jobs, _ = await self._member.list(BATCH_JOBS, labels=labels)
            pods, _ = await self._member.list(PODS, labels=labels)
        if len(pods) > MOST_PODS:
            raise crowded(lease)
        present = {str(pod["metadata"]["uid"]) for pod in pods}
        seen = (*self._pods_of.get(lease, {}).values(), *self._ended.get(lease, ()))
        gone = tuple(pod for pod in seen if pod["metadata"]["uid"] not in present and podlib.end_known(pod))
        return Sight({lease_of(job): job for job in jobs}, {lease: tuple(pods)}, {lease: gone}, self._ever)

    def took(self, job: JSONObject) -> JSONObject:
        """The member took a Job of ours: it is there from now on, as the object that the next sight shows."""
        self._ever.add(lease_of(job))
        return self._jobs.put(job) or job

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is remembered of Jobs and pods that are gone, of all leases but these."""
        self._ever &= set(keep)
        for lease in set(self._ended) - set(keep):
            self._ended_weight -= sum(map(weight, self._ended.pop(lease)))
            self._overflows = False

    def _job_changed(self, _: Key, before: JSONObject | None, after: JSONObject | None) -> None:
        if after is not None:
            self._job_of[lease_of(after)] = after
            if self._remembers(lease_of(after)):
                self._ever.add(lease_of(after))
        elif before is not None and self._job_of.get(lease_of(before)) is before:
            del self._job_of[lease_of(before)]
        self._wake()

    def _pod_changed(self, _: Key, before: JSONObject | None, after: JSONObject | None) -> None:
        if before is not None and after is not None and _pod_key(before) != _pod_key(after):
            self._pod_changed(_, before, None)
        known = after or before or {}
        lease, uid = lease_of(known), known["metadata"]["uid"]
        if after is not None:
            self._pods_of.setdefault(lease, {})[uid] = after
        else:
            self._pods_of.get(lease, {}).pop(uid, None)
            if not self._pods_of.get(lease):
                self._pods_of.pop(lease, None)
            if podlib.end_known(known) and self._remembers(lease):
                self._remember(lease, known)
        if lease in self._pods_of or lease in self._present:
            self._changed.add(lease)
        else:
            self._changed.discard(lease)
        self._wake()

    def _remembers(self, lease: str) -> bool:
        """Whether more is kept of that lease than what the member shows now; before the first pass nobody can say."""
        return self._known is None or lease in self._known

    def _remember(self, lease: str, pod: JSONObject) -> None:
        """How a pod ended; beyond what an honest member can have ended between two passes, nothing is remembered."""
        heavy, ended = weight(pod), self._ended.get(lease, ())
        if self._ended_weight + heavy > self._most() or len(ended) >= MOST_PODS:
            if not self._overflows:
                log.warning("more pods ended than are remembered, of lease %s to begin with", lease)
            self._overflows = True
            return
        self._ended[lease] = (*ended, pod)
        self._ended_weight += heavy


def crowded(lease: str) -> ListTooLargeError:
    """The member shows what cannot be."""
    return ListTooLargeError(f"the member shows more than {MOST_PODS} pods of lease {lease}")


def _pod_key(pod: JSONObject) -> tuple[str, str]:
    """Which pod it is, and of which lease."""
    return pod["metadata"]["uid"], lease_of(pod)
