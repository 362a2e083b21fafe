"""Reads member Jobs and Pods as the API server sends them: facts for metering and how a workload ended; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import plausible
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.faults import (
    IMAGE_PULL_FAILED,
    IMAGE_UNAVAILABLE,
    MEMBER_REJECTED,
    NODE_PRESSURE,
    NODE_REJECTED,
    OUT_OF_MEMORY,
    RUN_LIMIT_EXCEEDED,
    START_FAILED,
    START_TIMEOUT,
    SUCCEEDED,
    WORKLOAD_EVICTED,
    WORKLOAD_FAILED,
    cause,
    meaning,
)
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.metering import ContainerFacts, PodFacts
from fedgpu_operator.supply.node import whole
from fedgpu_operator.supply.pods import devices_of, terminal

INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
MAX_MESSAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class PodsEnd:
    """How a workload ended by itself; `reason` is that of the lease's Complete or Failed condition."""

    kind: Literal["Succeeded", "Failed"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a workload does not start; `outcome` is how its attempt ends when that does not pass."""

    kind: ConditionReason
    outcome: str
    message: str


def pod_facts(pod: JSONObject) -> PodFacts:
    """What metering needs of one pod."""
    meta, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    labels = _mapping(meta, "labels")
    return PodFacts(
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        index=min(whole(labels.get(INDEX_LABEL, "0")), 1023),
        phase=str(status.get("phase", "")),
        gpus=sum(devices_of(pod).values()),
        containers=tuple(_container_facts(entry) for entry in _sequence(status, "containerStatuses")),
        deleted_at=_instant(meta.get("deletionTimestamp")),
    )


def end_known(pod: JSONObject) -> bool:
    """Whether the last sight of a pod that is gone bounds its end: it had ended, or was told when to."""
    return terminal(pod) or bool(_mapping(pod, "metadata").get("deletionTimestamp"))


def finished(job: JSONObject) -> bool:
    """Whether the Job controller is done with it."""
    return any(_condition(job, kind) is not None for kind in ("Complete", "Failed"))


def all_succeeded(pods: Iterable[JSONObject], replicas: int) -> bool:
    """Whether every replica ran to success."""
    done = {fact.index for fact in map(pod_facts, pods) if fact.phase == "Succeeded"}
    return len(done) == replicas


def suspended(job: JSONObject) -> bool:
    """Whether somebody on the member keeps the Job from having pods."""
    wanted = _mapping(job, "spec").get("suspend")
    return wanted if isinstance(wanted, bool) else _condition(job, "Suspended") is not None


def outcome(job: JSONObject, pods: Sequence[JSONObject]) -> PodsEnd | None:
    """How the Job ended by itself; None while it goes on."""
    complete = _condition(job, "Complete")
    if complete is not None:
        return PodsEnd("Succeeded", SUCCEEDED, "all replicas succeeded")
    failed = _condition(job, "Failed")
    if failed is None:
        return None
    if failed.get("reason") == "DeadlineExceeded":
        return PodsEnd("Failed", RUN_LIMIT_EXCEEDED, "the member ended the workload after the run limit")
    ends = [end for pod in pods for end in _ends(pod)]
    if ends:
        why = cause(word for word, _ in ends)
        first = [text for word, text in ends if word == why]
        return PodsEnd("Failed", why, "; ".join(first + [t for w, t in ends if w != why])[:MAX_MESSAGE])
    # After the first failure the Job controller deletes the other pods: that is an eviction only if nothing failed.
    deleted = [_name(pod) for pod in pods if _mapping(pod, "metadata").get("deletionTimestamp")]
    if deleted:
        text = "; ".join(f"pod {name}: deleted on the member" for name in deleted)
        return PodsEnd("Failed", WORKLOAD_EVICTED, text[:MAX_MESSAGE])
    message = str(failed.get("message", "")) or "the workload failed"
    return PodsEnd("Failed", WORKLOAD_FAILED, message[:MAX_MESSAGE])


def hindrance(pods: Sequence[JSONObject], *, replicas: int, ever: int, events: str) -> Hindrance | None:
    """Why the workload does not start: `ever` counts the pods that were ever seen, `events` is the member's word."""
    if ever < replicas:
        return Hindrance(
            ConditionReason.NO_PODS, MEMBER_REJECTED, events or f"the member created {ever} of {replicas} pods"
        )
    for pod in pods:
        scheduled = _condition(pod, "PodScheduled", "False")
        if scheduled is not None and not terminal(pod):
            text = str(scheduled.get("message", "no node takes the pod"))[:MAX_MESSAGE]
            return Hindrance(ConditionReason.UNSCHEDULABLE, MEMBER_REJECTED, text)
    for pod in pods:
        for entry, reason, message in _waiting(pod):
            text = f"{message}: {events}" if events and _causeless(reason, message) else message
            word = meaning(reason, text)
            if word is None:
                continue
            pulling = word in (IMAGE_PULL_FAILED, IMAGE_UNAVAILABLE)
            why = f"{entry.get('image', '')}: {reason}: {text}"[:MAX_MESSAGE]
            return Hindrance(ConditionReason.IMAGE_PULL if pulling else ConditionReason.START_FAILED, word, why)
    idle = next((pod for pod in pods if not terminal(pod) and not ever_started(pod)), None)
    if idle is None:
        return None
    if _condition(idle, "PodReadyToStartContainers", "False") is not None:
        # Its sandbox is not there, so no image was asked for: what is missing is the node's.
        return Hindrance(
            ConditionReason.NOT_STARTED, START_FAILED, f"{_waits_for(idle)}: the node has not set up its sandbox"
        )
    return Hindrance(ConditionReason.NOT_STARTED, START_TIMEOUT, _waits_for(idle))


def pull_without_cause(pods: Sequence[JSONObject]) -> JSONObject | None:
    """A pod whose image does not come and whose status does not tell why: its Events do."""
    return next((pod for pod in pods for _, reason, message in _waiting(pod) if _causeless(reason, message)), None)


def _waiting(pod: JSONObject) -> Iterator[tuple[JSONObject, str, str]]:
    """Each container that waits: its status, the reason and the message."""
    for entry in _sequence(_mapping(pod, "status"), "containerStatuses"):
        waiting = _mapping(_mapping(entry, "state"), "waiting")
        if waiting:
            yield entry, str(waiting.get("reason") or ""), str(waiting.get("message") or "")


def _causeless(reason: str, message: str) -> bool:
    """Between two tries older kubelets say only that they wait: ``Back-off pulling image "x"``."""
    return reason == "ImagePullBackOff" and message.rstrip().endswith('"')


def ever_started(pod: JSONObject) -> bool:
    """Whether a container of it ever ran; from then on the pod is metered."""
    return any(container.started_at is not None for container in pod_facts(pod).containers)


def _waits_for(pod: JSONObject) -> str:
    """E.g. ``pod x has started no container (main: ContainerCreating)``."""
    waits = [
        f"{entry.get('name', '')}: {_mapping(_mapping(entry, 'state'), 'waiting').get('reason') or 'waiting'}"
        for entry in _sequence(_mapping(pod, "status"), "containerStatuses")
    ]
    name = _mapping(pod, "metadata").get("name", "")
    return f"pod {name} has started no container ({', '.join(waits) or 'no word of any'})"[:MAX_MESSAGE]


def _container_facts(entry: JSONObject) -> ContainerFacts:
    state = _mapping(entry, "state")
    ended = _mapping(state, "terminated")
    if ended:
        return ContainerFacts(_instant(ended.get("startedAt")), _instant(ended.get("finishedAt")))
    return ContainerFacts(started_at=_instant(_mapping(state, "running").get("startedAt")))


def _ends(pod: JSONObject) -> Iterator[tuple[str, str]]:
    """How a failed pod ended: (outcome, a phrase such as ``pod x container main: exit code 3 (Error)``).

    The pod's own reason explains what its containers show, and so does what disrupted it.
    """
    status, name = _mapping(pod, "status"), _name(pod)
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    disrupted = _condition(pod, "DisruptionTarget")
    known = meaning(reason, message)
    if status.get("phase") == "Succeeded":
        return
    if known is not None and status.get("phase") == "Failed":
        yield known, f"pod {name}: {reason}: {message}"
    elif disrupted is not None:
        why, text = str(disrupted.get("reason") or ""), str(disrupted.get("message") or "")
        yield meaning(why, text) or WORKLOAD_EVICTED, f"pod {name}: {why}: {text}"
    elif ever_started(pod) or any(True for _ in _ended_containers(pod)):
        yield from _container_ends(pod)
    elif status.get("phase") == "Failed" and not _mapping(pod, "metadata").get("deletionTimestamp"):
        # It failed before a container of it was made: its node did not take it, whatever word it has for that.
        yield NODE_REJECTED, f"pod {name}: {reason or 'Failed'}: {message}".rstrip(": ")


def _ended_containers(pod: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    for entry in _sequence(_mapping(pod, "status"), "containerStatuses"):
        ended = _mapping(_mapping(entry, "state"), "terminated")
        if ended.get("exitCode"):
            yield str(entry.get("name", "")), ended


def _container_ends(pod: JSONObject) -> Iterator[tuple[str, str]]:
    deleted = _mapping(pod, "metadata").get("deletionTimestamp")
    for container, ended in _ended_containers(pod):
        reason, message = str(ended.get("reason") or "Error"), str(ended.get("message") or "")
        word = meaning(reason, message) or WORKLOAD_FAILED
        if word == WORKLOAD_FAILED and deleted:
            # It was asked to end, as the replicas of a failed one are: its exit code says nothing.
            continue
        if word == OUT_OF_MEMORY and not _memory_limit(pod, container):
            word, message = NODE_PRESSURE, "the node ran out of memory; the container has no limit of its own"
        # What a container that ran left as its message is the workload's own and no part of the reason.
        text = f": {message}" if message and word != WORKLOAD_FAILED else ""
        yield word, f"pod {_name(pod)} container {container}: exit code {ended['exitCode']} ({reason}){text}"


def _memory_limit(pod: JSONObject, container: str) -> bool:
    """Whether the container, or its pod as a whole, has a memory limit that it can pass."""
    spec = _mapping(pod, "spec")
    bounds = [spec, *(each for each in _sequence(spec, "containers") if each.get("name") == container)]
    return any(_mapping(_mapping(each, "resources"), "limits").get("memory") for each in bounds)


def _name(pod: JSONObject) -> str:
    return str(_mapping(pod, "metadata").get("name", ""))


def _condition(obj: JSONObject, kind: str, status: str = "True") -> JSONObject | None:
    for condition in _sequence(_mapping(obj, "status"), "conditions"):
        if condition.get("type") == kind and condition.get("status") == status:
            return condition
    return None


def _instant(value: object) -> datetime | None:
    """What the member's API server says; an instant that no clock shows is not known."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return plausible(datetime.fromisoformat(value))
    except (ValueError, InvalidResourceError):
        return None


def _mapping(obj: JSONObject, key: str) -> JSONObject:
    value = obj.get(key)
    return value if isinstance(value, dict) else {}


def _sequence(obj: JSONObject, key: str) -> list[JSONObject]:
    value = obj.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
