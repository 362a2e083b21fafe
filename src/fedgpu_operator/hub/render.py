"""Renders the batch/v1 Job that a lease carries to a member; pure, and the only place that writes a pod spec."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import JOB_UID_LABEL, LEASE_LABEL, PROVIDER_LABEL, TENANT_LABEL
from fedgpu_operator.api.podtemplate import (
    Container,
    EmptyDir,
    PodTemplate,
    Volume,
    harmless_annotation,
    takes_devices,
)
from fedgpu_operator.errors import InvalidResourceError

GPU_RESOURCE: Final = "nvidia.com/gpu"
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
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
    product: str,
    run_limit_seconds: int,
) -> JSONObject:
    """The batch/v1 Job of one attempt, in the shape that `agent.guard` demands.

    It never restarts anything by itself: one attempt is one run of every replica. Raises InvalidResourceError
    (`TemplateRefused`) for a template that reaches for GPUs or node features past its lease.
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
                "metadata": {"labels": dict(labels), "annotations": dict(template.annotations)},
                "spec": _pod_spec(template, gpus=job.spec.gpu.count, product=product),
            },
        },
    }


def _pod_spec(template: PodTemplate, *, gpus: int, product: str) -> JSONObject:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds,
        "nodeSelector": {PRODUCT_LABEL: product},
        "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": template.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(container, gpus=gpus if position == 0 else 0)
            for position, container in enumerate(template.containers)
        ],
        "volumes": [_volume(volume) for volume in template.volumes],
    }


def _container(container: Container, *, gpus: int) -> JSONObject:
    resources = container.resources.to_wire()
    env = [variable.to_wire() for variable in container.env]
    if gpus:
        resources["limits"] = resources.get("limits", {}) | {GPU_RESOURCE: str(gpus)}
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
    for key in template.annotations:
        if not harmless_annotation(key):
            raise InvalidResourceError(
                "TemplateRefused",
                f"spec.template.annotations: {key} could steer the node or its devices; use one word without dots, "
                "or the domain fedgpu.dev",
            )
    for container in template.containers:
        for variable in container.env:
            if takes_devices(variable.name):
                raise InvalidResourceError(
                    "TemplateRefused",
                    f"spec.template.containers[{container.name}].env: {variable.name} is set by the member from "
                    "spec.gpu; remove it",
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
