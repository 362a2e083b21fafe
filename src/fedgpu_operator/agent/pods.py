"""Reads member Jobs and Pods as the API server sends them: facts for metering and how a workload ended; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import plausible
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.metering import ContainerFacts, PodFacts

GPU_RESOURCE: Final = "nvidia.com/gpu"
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
TERMINAL: Final = frozenset({"Succeeded", "Failed"})
MAX_MESSAGE: Final = 1000

_PULL_PROBLEMS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workload ended by itself; `reason` is that of the lease's Complete or Failed condition."""

    kind: Literal["Succeeded", "Failed"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a workload does not start."""

    kind: Literal["NoPods", "Unschedulable", "ImagePull", "NotStarted"]
    message: str


def gpus_of(pod: JSONObject) -> int:
    """GPUs that the scheduler set aside for a pod: the larger of its containers' sum and any one init container."""
    spec = _mapping(pod, "spec")
    together = sum(_gpus(container) for container in _sequence(spec, "containers"))
    return max([together, *(_gpus(container) for container in _sequence(spec, "initContainers"))])


def quantity(value: object) -> int:
    """A count of an extended resource; those are whole numbers, and what is not readable as one counts nothing."""
    text = str(value)
    return min(int(text), 1_000_000) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def pod_facts(pod: JSONObject) -> PodFacts:
    """What metering needs of one pod."""
    meta, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    labels = _mapping(meta, "labels")
    return PodFacts(
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        index=min(quantity(labels.get(INDEX_LABEL, 0)), 1023),
        phase=str(status.get("phase", "")),
        gpus=gpus_of(pod),
        containers=tuple(_container_facts(entry) for entry in _sequence(status, "containerStatuses")),
        deleted_at=_instant(meta.get("deletionTimestamp")),
    )


def terminal(pod: JSONObject) -> bool:
    """Whether nothing of the pod runs any more."""
    return _mapping(pod, "status").get("phase") in TERMINAL


def settled(pod: JSONObject) -> bool:
    """Whether the last sight of a pod that is gone bounds its end: it had ended, or was told when to."""
    return terminal(pod) or bool(_mapping(pod, "metadata").get("deletionTimestamp"))


def finished(job: JSONObject) -> bool:
    """Whether the Job controller is done with it."""
    return any(_condition(job, kind) is not None for kind in ("Complete", "Failed"))


def all_succeeded(pods: Iterable[JSONObject], replicas: int) -> bool:
    """Whether every replica ran to success."""
    done = {fact.index for fact in map(pod_facts, pods) if fact.phase == "Succeeded"}
    return len(done) == replicas


def outcome(job: JSONObject, pods: Sequence[JSONObject]) -> Outcome | None:
    """How the Job ended by itself; None while it goes on."""
    complete = _condition(job, "Complete")
    if complete is not None:
        return Outcome("Succeeded", "Succeeded", "all replicas succeeded")
    failed = _condition(job, "Failed")
    if failed is None:
        return None
    if failed.get("reason") == "DeadlineExceeded":
        return Outcome("Failed", "RunLimitExceeded", "the member ended the workload after the run limit")
    # After the first failure the Job controller deletes the other pods: those are neither failures nor evictions.
    own = list(_failures([pod for pod in pods if not _taken_away(pod)]))
    evicted = [text for text in map(_taken_away, pods) if text]
    if evicted and not own:
        return Outcome("Failed", "WorkloadEvicted", "; ".join(evicted)[:MAX_MESSAGE])
    message = "; ".join(own) or str(failed.get("message", "")) or "the workload failed"
    return Outcome("Failed", "WorkloadFailed", message[:MAX_MESSAGE])


def hindrance(pods: Sequence[JSONObject], *, replicas: int, ever: int, events: str) -> Hindrance | None:
    """Why the workload does not start: `ever` counts the pods that were ever seen, `events` is the member's word."""
    if ever < replicas:
        return Hindrance("NoPods", events or f"the member created {ever} of {replicas} pods")
    for pod in pods:
        scheduled = _condition(pod, "PodScheduled", "False")
        if scheduled is not None and not terminal(pod):
            return Hindrance("Unschedulable", str(scheduled.get("message", "no node takes the pod"))[:MAX_MESSAGE])
    for pod in pods:
        for entry in _sequence(_mapping(pod, "status"), "containerStatuses"):
            waiting = _mapping(_mapping(entry, "state"), "waiting")
            if waiting.get("reason") in _PULL_PROBLEMS:
                text = f"{entry.get('image', '')}: {waiting['reason']}: {waiting.get('message', '')}"
                return Hindrance("ImagePull", text[:MAX_MESSAGE])
    idle = next((pod for pod in pods if not terminal(pod) and not _ever_started(pod)), None)
    return Hindrance("NotStarted", _waits_for(idle)) if idle is not None else None


def _ever_started(pod: JSONObject) -> bool:
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
        code = ended.get("exitCode")
        return ContainerFacts(
            started_at=_instant(ended.get("startedAt")),
            finished_at=_instant(ended.get("finishedAt")),
            exit_code=code if isinstance(code, int) else None,
            reason=str(ended.get("reason", "")),
        )
    return ContainerFacts(started_at=_instant(_mapping(state, "running").get("startedAt")))


def _failures(pods: Sequence[JSONObject]) -> Iterator[str]:
    """One phrase per container that ended badly, e.g. ``pod x container main: exit code 3 (Error)``."""
    for pod in pods:
        status, name = _mapping(pod, "status"), _mapping(pod, "metadata").get("name", "")
        told = False
        for entry in _sequence(status, "containerStatuses"):
            ended = _mapping(_mapping(entry, "state"), "terminated")
            if ended.get("exitCode"):
                told = True
                why = ended.get("reason") or "Error"
                yield f"pod {name} container {entry.get('name', '')}: exit code {ended['exitCode']} ({why})"
        if not told and status.get("phase") == "Failed":
            yield f"pod {name}: {status.get('reason') or 'Failed'} {status.get('message') or ''}".rstrip()


def _taken_away(pod: JSONObject) -> str:
    """How something other than the workload ended a pod (preemption, eviction, drain, deletion); else empty."""
    meta = _mapping(pod, "metadata")
    disrupted = _condition(pod, "DisruptionTarget")
    if disrupted is not None:
        return f"pod {meta.get('name', '')}: {disrupted.get('reason', '')}: {disrupted.get('message', '')}"
    return f"pod {meta.get('name', '')}: deleted on the member" if meta.get("deletionTimestamp") else ""


def _condition(obj: JSONObject, kind: str, status: str = "True") -> JSONObject | None:
    for condition in _sequence(_mapping(obj, "status"), "conditions"):
        if condition.get("type") == kind and condition.get("status") == status:
            return condition
    return None


def _gpus(container: JSONObject) -> int:
    resources = _mapping(container, "resources")
    limits, requests = _mapping(resources, "limits"), _mapping(resources, "requests")
    return quantity(requests.get(GPU_RESOURCE, limits.get(GPU_RESOURCE, 0)))


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
