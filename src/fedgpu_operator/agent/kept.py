"""What is kept of what a member sends, by kind: the fields that are read here and no others; pure, fails on nothing.

A field of another type than Kubernetes gives it is left out, so that nobody who reads what is kept can stumble over it.
Add a field here before you read it of a member's object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from fedgpu_operator.agent.pods import GPU_RESOURCE
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.text import REPLACEMENT, is_name
from fedgpu_operator.ports import EVENTS, JOBS, NAMESPACES, NODES, PODS, ResourceType

MAX_TEXT: Final = 2048
"""Longest text that is kept, in characters; what is written to the hub of it is shorter still."""
MAX_ENTRIES: Final = 128
"""Longest list that is kept."""
PREFIXES: Final = ("fedgpu.dev/", "nvidia.com/gpu", "batch.kubernetes.io/", "pod-security.kubernetes.io/")
"""Of the labels and annotations that are kept."""

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


def _marks(value: object) -> dict[str, str] | None:
    """Labels or annotations with our prefixes; one whose value is more than a word is no mark of ours, and left out."""
    if not isinstance(value, dict):
        return None
    found = {
        key: each
        for key, each in value.items()
        if key.startswith(PREFIXES) and is_name(key) and (each == "" or is_name(each))
    }
    return dict(list(found.items())[:MAX_ENTRIES])


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
    """Of amounts of resources, those of these names."""

    def keep(value: object) -> JSONObject | None:
        found = {name: _plain(value[name]) for name in names if name in value} if isinstance(value, dict) else {}
        return found or None

    return keep


_GPUS: Final = _amounts(GPU_RESOURCE)
_LIMITS: Final = _amounts(GPU_RESOURCE, "memory")


_META: Final = _fields(
    name=_identity,
    namespace=_identity,
    uid=_identity,
    resourceVersion=_identity,
    generation=_number,
    creationTimestamp=text,
    deletionTimestamp=text,
    labels=_marks,
    annotations=_marks,
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
_NODE: Final = _fields(
    metadata=_META,
    spec=_fields(unschedulable=_flag, taints=_each(_fields(key=text, effect=text))),
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
    JOBS: _of(_JOB),
    NODES: _of(_NODE),
    EVENTS: _of(_EVENT),
    NAMESPACES: _of(_NAMESPACE),
}
