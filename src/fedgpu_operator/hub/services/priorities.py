"""The hub's PriorityClasses: which value a job has, and whether it may push others aside."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.errors import ForbiddenError, InvalidResourceError, KubeError
from fedgpu_operator.ports import Clock, Kube, ResourceType

log = logging.getLogger(__name__)


PRIORITY_CLASSES: Final = ResourceType("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False)
SYSTEM_PREFIX: Final = "system-"
"""Of the classes that Kubernetes keeps for the cluster's own components."""
FRESH: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Priority:
    """What a class gives: a value, and whether its jobs may have others stopped."""

    value: int = 0
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class Priorities:
    """One reading of the classes; `default` is that of a job that names none.

    `unread` says why the classes cannot be known and what ends that, empty where they are.
    """

    classes: Mapping[str, Priority] = field(default_factory=dict)
    default: Priority = Priority()
    unread: str = ""

    def of(self, job: ComputeJob) -> Priority:
        """The job's priority.

        What it was when the job was first placed stays its value for good; a class that is gone since then gives no
        right to stop others. Raises InvalidResourceError, ``UnknownPriorityClass`` or ``ReservedPriorityClass``, for a
        job that was never placed and names a class that does not exist, cannot be read, or is one of the cluster's own.
        """
        name, placed = job.spec.priority_class_name, job.status.placement
        known = self.default if name is None else self.classes.get(name)
        if placed is not None and placed.priority is not None:
            return Priority(placed.priority, known is not None and known.preempts)
        if name is not None and name.startswith(SYSTEM_PREFIX):
            text = f"spec.priorityClassName: {name} is for the cluster's own components; name a class of its users"
            raise InvalidResourceError(ConditionReason.RESERVED_PRIORITY_CLASS, text)
        if known is None and self.unread:
            text = f"spec.priorityClassName: the hub's PriorityClasses cannot be read: {self.unread}; the job waits"
            raise InvalidResourceError(ConditionReason.UNKNOWN_PRIORITY_CLASS, text)
        if known is None:
            text = f"spec.priorityClassName: the hub has no PriorityClass {name}; the job waits until there is one"
            raise InvalidResourceError(ConditionReason.UNKNOWN_PRIORITY_CLASS, text)
        return known


def priorities_of(items: Iterable[JSONObject]) -> Priorities:
    """The classes as the API server lists them; of several global defaults the lowest counts, as in Kubernetes."""
    classes: dict[str, Priority] = {}
    defaults: list[Priority] = []
    for item in items:
        # Absent means the default of the API, which fills it in: PreemptLowerPriority.
        found = Priority(int(item["value"]), item.get("preemptionPolicy", "PreemptLowerPriority") != "Never")
        classes[item["metadata"]["name"]] = found
        if item.get("globalDefault"):
            defaults.append(found)
    return Priorities(classes, min(defaults, key=lambda each: each.value, default=Priority()))


class PriorityBook:
    """Reads the classes, at most every few seconds."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._known: tuple[datetime, Priorities] | None = None

    async def look(self) -> Priorities:
        """The classes as they are now, or were a moment ago; as they were last where they cannot be read.

        Where they never could be, jobs that name no class have the value 0.
        """
        now = self._clock.now()
        if self._known is None or now - self._known[0] >= FRESH:
            before = self._known[1] if self._known is not None else Priorities()
            try:
                items, _ = await self._kube.list(PRIORITY_CLASSES)
            except KubeError as error:
                log.warning("the PriorityClasses of the hub cannot be read: %s", error)
                self._known = now, replace(before, unread=_why(error))
            else:
                self._known = now, priorities_of(items)
        return self._known[1]


def _why(error: KubeError) -> str:
    """What a tenant may know of the failure: no address, and no account of the operator."""
    if isinstance(error, ForbiddenError):
        return "the operator may not list priorityclasses of scheduling.k8s.io, which a cluster admin can allow"
    return error.reason
