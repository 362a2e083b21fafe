"""What an attempt puts into the world: the batch/v1 Job for a member, and the ComputeLease that carries it; pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from fedgpu_operator.api.base import MAX_RUN_SECONDS, JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import (
    JOB_UID_LABEL,
    LEASE_LABEL,
    MAX_GPUS_PER_REPLICA,
    MAX_REPLICAS,
    PROVIDER_LABEL,
    TENANT_LABEL,
    ComputeLeaseSpec,
    JobRef,
)
from fedgpu_operator.api.jobspec import (
    Container,
    EmptyDir,
    PodSpec,
    PodTemplate,
    Volume,
    harmless_annotation,
    takes_devices,
)
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt
from fedgpu_operator.domain.devices import HOSTNAME_LABEL, DeviceRequest, Toleration
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.ports import LEASES

BACKSTOP_SECONDS: Final = 2400
"""The agent stops a run at its limit; this much later the member does it alone, should the agent be gone.

The member counts from the Job's creation: a start may take `AgentSettings.start_after`, and its images with it.
"""
MAX_LABEL: Final = 63
VISIBLE_DEVICES: Final = "NVIDIA_VISIBLE_DEVICES"

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LIKE_A_DIGEST: Final = re.compile(r".*-[0-9a-f]{16}")


def member_namespace(tenant: str) -> str:
    """The tenant's namespace on every member: ``fedgpu-tenant-<tenant>``."""
    return _namespace("fedgpu-tenant-", tenant)


def provider_namespace(provider: str) -> str:
    """The provider's namespace on the hub, where its leases and its report lie: ``fedgpu-provider-<provider>``."""
    return _namespace("fedgpu-provider-", provider)


def render_workload(
    job: ComputeJob,
    *,
    lease_name: str,
    member_namespace: str,
    provider: str,
    request: DeviceRequest,
    run_limit_seconds: int,
) -> JSONObject:
    """The batch/v1 Job of one attempt, in the shape that `agent.guard` demands.

    `request` is how a pod on that member asks for the product. It never restarts anything by itself: one attempt is one
    run of every replica. Raises InvalidResourceError (`TemplateRefused`) for a template that reaches for GPUs or node
    features past its lease.
    """
    template = job.spec.template
    _refuse_reserved(template)
    labels = {
        LEASE_LABEL: lease_name,
        PROVIDER_LABEL: provider,
        TENANT_LABEL: job.metadata.namespace,
        JOB_UID_LABEL: job.metadata.uid,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": lease_name, "namespace": member_namespace, "labels": dict(labels)},
        "spec": {
            "completionMode": "Indexed",
            "completions": job.spec.replicas,
            "parallelism": job.spec.replicas,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": run_limit_seconds + BACKSTOP_SECONDS,
            "template": {
                "metadata": {"labels": dict(labels), "annotations": dict(template.metadata.annotations)},
                "spec": _pod_spec(template.spec, gpus=job.spec.gpu.count, request=request),
            },
        },
    }


def _pod_spec(pod: PodSpec, *, gpus: int, request: DeviceRequest) -> JSONObject:
    return {
        "restartPolicy": pod.restart_policy,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pod.termination_grace_period_seconds,
        "affinity": _affinity(request),
        "tolerations": [_toleration(each) for each in request.tolerations],
        **({"runtimeClassName": request.runtime_class} if request.runtime_class else {}),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pod.security_context.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(container, {request.resource: str(gpus)} if position == 0 else {})
            for position, container in enumerate(pod.containers)
        ],
        "volumes": [_volume(volume) for volume in pod.volumes],
    }


def _toleration(each: Toleration) -> JSONObject:
    how = {"operator": "Equal", "value": each.value} if each.value else {"operator": "Exists"}
    return {"key": each.key, **how, "effect": "NoSchedule"}


def _affinity(request: DeviceRequest) -> JSONObject:
    """To nodes that have the product by any of its selectors, and not to those that merely look like it."""
    avoid = {"key": HOSTNAME_LABEL, "operator": "NotIn", "values": list(request.avoid)}
    terms = [
        {
            "matchExpressions": [
                *({"key": key, "operator": "In", "values": [value]} for key, value in labels),
                *([avoid] if request.avoid else []),
            ]
        }
        for labels in request.selectors
    ]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _container(container: Container, gpus: Mapping[str, str]) -> JSONObject:
    resources = container.resources.to_wire()
    env = [variable.to_wire() for variable in container.env]
    if gpus:
        resources["limits"] = resources.get("limits", {}) | gpus
    else:
        # CUDA images carry NVIDIA_VISIBLE_DEVICES=all, and NVIDIA's runtime believes it: a container that asked for
        # no GPU would see, and use unmetered, all GPUs of the node.
        env.append({"name": VISIBLE_DEVICES, "value": "void"})
    rendered: JSONObject = {
        "name": container.name,
        "image": container.image,
        "command": container.command,
        "args": container.args,
        "env": env,
        "resources": {key: value for key, value in resources.items() if value},
        "volumeMounts": [mount.to_wire() for mount in container.volume_mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if container.working_dir is not None:
        rendered["workingDir"] = container.working_dir
    return {key: value for key, value in rendered.items() if value not in ([], {})}


def _volume(volume: Volume) -> JSONObject:
    if volume.downward_api is not None:
        return {"name": volume.name, "downwardAPI": volume.downward_api.to_wire()}
    scratch = volume.empty_dir or EmptyDir()
    return {"name": volume.name, "emptyDir": {key: value for key, value in scratch.to_wire().items() if value}}


def _refuse_reserved(template: PodTemplate) -> None:
    for key in template.metadata.annotations:
        if not harmless_annotation(key):
            raise InvalidResourceError(
                ConditionReason.TEMPLATE_REFUSED,
                f"spec.template.metadata.annotations: {key} could steer the node or its devices; use one word without "
                "dots, or the domain fedgpu.dev",
            )
    for container in template.spec.containers:
        for variable in container.env:
            if takes_devices(variable.name):
                raise InvalidResourceError(
                    ConditionReason.TEMPLATE_REFUSED,
                    f"spec.template.spec.containers[{container.name}].env: {variable.name} is set by the member "
                    "from spec.gpu; remove it",
                )


def _namespace(prefix: str, name: str) -> str:
    """A DNS label from an object's name: the same name always gives the same label, two names never share one."""
    full = prefix + name
    # A name that ends as a digest does could be spelt out to be what another name is cut to.
    if len(full) <= MAX_LABEL and _DNS_LABEL.fullmatch(full) and not _LIKE_A_DIGEST.fullmatch(full):
        return full
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    stem = re.sub(r"[^a-z0-9-]", "-", full)[: MAX_LABEL - len(digest) - 1].rstrip("-")
    return f"{stem}-{digest}"


USUAL_GRACE_SECONDS: Final = 30
"""Kubernetes' own default of `terminationGracePeriodSeconds`."""


def first_lease(job: ComputeJob, attempt: Attempt, request: DeviceRequest) -> JSONObject:
    """The lease that starts the attempt's workload; `request` is how its provider's member is asked for the product.

    Raises InvalidResourceError: `TermsChanged` for a job that is not the one that the attempt was agreed for,
    `TemplateRefused` for one that cannot be rendered.
    """
    terms = attempt.terms
    if (job.gpus, job.billable_limit) != (terms.gpus, terms.run_limit):
        text = f"the job asks for {job.gpus} GPUs and {job.billable_limit} s, attempt {attempt.attempt} was agreed for "
        raise InvalidResourceError(ConditionReason.TERMS_CHANGED, f"{text}{terms.gpus} GPUs and {terms.run_limit} s")
    workload = render_workload(
        job,
        lease_name=attempt.lease_name,
        member_namespace=member_namespace(terms.tenant),
        provider=terms.provider,
        request=request,
        run_limit_seconds=job.run_limit,
    )
    return _lease(attempt, {**_shape_of(job), "workload": workload})


def remade_lease(attempt: Attempt, job: ComputeJob | None, *, sequence_base: int) -> JSONObject:
    """The lease object of an open attempt, made again after it was lost; it carries the attempt's stop, if any.

    `sequence_base` is the newest sequence of the attempt that is in the ledger. Without the job its shape is
    the one that the terms allow: the same number of GPUs and seconds.
    """
    terms = attempt.terms
    matches = job is not None and (job.gpus, job.billable_limit) == (terms.gpus, terms.run_limit)
    shape = _shape_of(job) if job is not None and matches else _shape_from_terms(attempt)
    stop: dict[str, Any] = {}
    if attempt.stop is not None:
        stop = {"desired": "Stop", "stop_reason": attempt.stop.reason, "stop_requested_at": attempt.stop.at}
    return _lease(attempt, {**shape, **stop, "sequence_base": sequence_base})


def _shape_of(job: ComputeJob) -> dict[str, Any]:
    return {
        "replicas": job.spec.replicas,
        "gpus_per_replica": job.spec.gpu.count,
        "run_limit_seconds": job.run_limit,
        "grace_seconds": job.spec.template.spec.termination_grace_period_seconds,
    }


def _shape_from_terms(attempt: Attempt) -> dict[str, Any]:
    gpus, seconds = attempt.terms.gpus, attempt.terms.run_limit
    # How much of the seconds is grace is not in the terms; their sum must be what was agreed.
    grace = max(min(USUAL_GRACE_SECONDS, seconds - 1), seconds - MAX_RUN_SECONDS)
    per_replica = next(each for each in range(MAX_GPUS_PER_REPLICA, 0, -1) if gpus % each == 0)
    return {
        "replicas": min(gpus // per_replica, MAX_REPLICAS),
        "gpus_per_replica": per_replica,
        "run_limit_seconds": seconds - grace,
        "grace_seconds": grace,
    }


def _lease(attempt: Attempt, fields: dict[str, Any]) -> JSONObject:
    terms = attempt.terms
    spec = ComputeLeaseSpec(
        job=JobRef(namespace=terms.tenant, name=terms.job_name, uid=terms.job_uid),
        attempt=attempt.attempt,
        fencing_epoch=attempt.attempt,
        provider=terms.provider,
        product=terms.product,
        price_per_gpu_hour=format_usd(terms.price),
        member_namespace=member_namespace(terms.tenant),
        tenant_wallet=terms.tenant_wallet,
        provider_wallet=terms.provider_wallet,
        **fields,
    )
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {
            "name": attempt.lease_name,
            "namespace": provider_namespace(terms.provider),
            "labels": {
                LEASE_LABEL: attempt.lease_name,
                PROVIDER_LABEL: terms.provider,
                TENANT_LABEL: terms.tenant,
                JOB_UID_LABEL: terms.job_uid,
            },
        },
        "spec": spec.to_wire(),
    }
