"""The agent's own check of a rendered workload: an allow-list of what a lease may start, whoever wrote it; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedgpu_operator.api.base import wire_name
from fedgpu_operator.api.computelease import ComputeLease, ComputeLeaseSpec
from fedgpu_operator.api.jobspec import harmless_annotation, takes_devices
from fedgpu_operator.api.providerreport import MAX_SELECTORS
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.devices import HOSTNAME_LABEL, MAX_AVOIDED
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.supply.judge import names, tolerated
from fedgpu_operator.supply.node import Taint, may_be_gpus

LONGEST_BACKSTOP: Final = 3600
"""Seconds past the run limit within which the member itself must end the Job, should the agent be gone."""


class _Strict(BaseModel):
    """What is not named here is refused, and nothing is coerced."""

    model_config = ConfigDict(
        alias_generator=wire_name, extra="forbid", frozen=True, strict=True, hide_input_in_errors=True
    )


class _Metadata(_Strict):
    name: str
    namespace: str
    labels: dict[str, str] = Field(default_factory=dict)


class _PodMetadata(_Strict):
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class _EnvVar(_Strict):
    name: str
    value: str = ""


class _Mount(_Strict):
    name: str
    mount_path: str
    read_only: bool = False


_Amounts = dict[str, str]
_PLAIN: Final = frozenset({"cpu", "memory", "ephemeral-storage"})


class _Resources(_Strict):
    requests: _Amounts = Field(default_factory=dict)
    limits: _Amounts = Field(default_factory=dict)

    def extended(self) -> set[str]:
        """Names of the resources beyond CPU, memory and scratch space."""
        return {*self.requests, *self.limits} - _PLAIN


class _Capabilities(_Strict):
    drop: Annotated[list[Literal["ALL"]], Field(min_length=1, max_length=1)]


class _ContainerSecurity(_Strict):
    allow_privilege_escalation: Literal[False]
    capabilities: _Capabilities


class _Container(_Strict):
    name: str
    image: str
    command: list[str] = Field(default_factory=list)
    args: list[str] = Field(default_factory=list)
    env: list[_EnvVar] = Field(default_factory=list)
    working_dir: str = ""
    resources: _Resources = Field(default_factory=_Resources)
    volume_mounts: list[_Mount] = Field(default_factory=list)
    security_context: _ContainerSecurity


class _EmptyDir(_Strict):
    medium: Literal["", "Memory"] = ""
    size_limit: str = ""


class _FieldRef(_Strict):
    field_path: Literal["metadata.annotations['fedgpu.dev/checkpoint-requested']"]


class _DownwardFile(_Strict):
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][-.A-Za-z0-9_]*$")]
    field_ref: _FieldRef


class _DownwardAPI(_Strict):
    items: Annotated[list[_DownwardFile], Field(min_length=1, max_length=4)]


class _Volume(_Strict):
    name: str
    empty_dir: _EmptyDir | None = None
    downward_api: _DownwardAPI | None = Field(default=None, alias="downwardAPI")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.empty_dir is None) == (self.downward_api is None):
            raise ValueError(f"volume {self.name} must be of one kind, emptyDir or downwardAPI")
        return self


class _Seccomp(_Strict):
    type: Literal["RuntimeDefault"]


class _PodSecurity(_Strict):
    run_as_non_root: Literal[True]
    run_as_user: int = Field(ge=1)
    seccomp_profile: _Seccomp


class _Toleration(_Strict):
    key: str = Field(min_length=1)
    operator: Literal["Exists", "Equal"]
    value: str = ""
    effect: Literal["NoSchedule"]


class _Expression(_Strict):
    key: str
    operator: Literal["In", "NotIn"]
    values: list[str] = Field(min_length=1, max_length=MAX_AVOIDED)


class _Term(_Strict):
    match_expressions: list[_Expression] = Field(min_length=1, max_length=8)


class _Required(_Strict):
    node_selector_terms: list[_Term] = Field(min_length=1, max_length=MAX_SELECTORS)


class _NodeAffinity(_Strict):
    required_during_scheduling_ignored_during_execution: _Required


class _Affinity(_Strict):
    node_affinity: _NodeAffinity


class _PodSpec(_Strict):
    restart_policy: Literal["Never"]
    automount_service_account_token: Literal[False]
    enable_service_links: Literal[False]
    termination_grace_period_seconds: int = Field(ge=0, le=3600)
    affinity: _Affinity
    tolerations: list[_Toleration] = Field(default_factory=list, max_length=16)
    runtime_class_name: str = ""
    security_context: _PodSecurity
    containers: list[_Container] = Field(min_length=1, max_length=4)
    volumes: list[_Volume] = Field(default_factory=list)


class _Template(_Strict):
    metadata: _PodMetadata = Field(default_factory=_PodMetadata)
    spec: _PodSpec


class _JobSpec(_Strict):
    completion_mode: Literal["Indexed"]
    completions: int
    parallelism: int
    backoff_limit: Literal[0]
    pod_replacement_policy: Literal["Failed"]
    active_deadline_seconds: int
    template: _Template

    @model_validator(mode="after")
    def _first_container_alone_holds_gpus(self) -> Self:
        for position, container in enumerate(self.template.spec.containers):
            for name in container.resources.extended():
                if position or not may_be_gpus(name):
                    raise ValueError(f"container {container.name} asks for {name}; only the first one may, for GPUs")
        return self


class _Workload(_Strict):
    api_version: Literal["batch/v1"]
    kind: Literal["Job"]
    metadata: _Metadata
    spec: _JobSpec


def check_workload(lease: ComputeLease, rules: InventoryRules = NO_RULES) -> None:
    """Accept exactly the kind of Job that this lease speaks of, on nodes as labels and the owner's `rules` name them.

    Everything that is not on the list is refused: service accounts and their tokens, host paths, ports and namespaces,
    node names, privileges, other volumes, other resources, GPUs past the lease, and variables or annotations by which
    a container could take devices it did not ask for. Raises InvalidResourceError (`WorkloadRefused`) naming the field.
    """
    try:
        workload = _Workload.model_validate(lease.spec.workload)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidResourceError(
            ConditionReason.WORKLOAD_REFUSED, f"workload.{field}: {first['msg']}"[:512]
        ) from error
    for complaint in _complaints(lease, workload, rules):
        raise InvalidResourceError(ConditionReason.WORKLOAD_REFUSED, f"workload: {complaint}")


def _complaints(lease: ComputeLease, workload: _Workload, rules: InventoryRules) -> Iterator[str]:
    """What is wrong between a well-formed workload and its lease."""
    spec, job = lease.spec, workload.spec
    pod = job.template.spec
    if workload.metadata.name != lease.metadata.name or workload.metadata.namespace != spec.member_namespace:
        yield "its name and namespace are not those of the lease"
    if (job.completions, job.parallelism) != (spec.replicas, spec.replicas):
        yield f"the lease is for {counted(spec.replicas, 'replica')}"
    if not spec.run_limit_seconds <= job.active_deadline_seconds <= spec.run_limit_seconds + LONGEST_BACKSTOP:
        yield f"activeDeadlineSeconds must lie within {LONGEST_BACKSTOP} s after the run limit"
    yield from _device_request(spec, pod, rules)
    for key in job.template.metadata.annotations:
        if not harmless_annotation(key):
            yield f"annotation {key} could steer the node or its devices"
    yield from _device_variables(pod)


def _device_request(spec: ComputeLeaseSpec, pod: _PodSpec, rules: InventoryRules) -> Iterator[str]:
    """How it asks for its GPUs: so many of one resource, on nodes that have the lease's product, and no more."""
    first = pod.containers[0].resources
    resource = next(iter(first.extended()), "")
    asked = {first.limits.get(resource), first.requests.get(resource, first.limits.get(resource))}
    if asked != {str(spec.gpus_per_replica)} or len(first.extended()) != 1:
        yield f"the first container must ask for {spec.gpus_per_replica} GPUs"
    for term in pod.affinity.node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms:
        yield from _other_nodes(term, resource, spec.product, rules)
    for each in pod.tolerations:
        if not tolerated(Taint(each.key, each.value, each.effect), rules):
            yield f"the taint {each.key}={each.value} is not one of GPU nodes here"
    if pod.runtime_class_name != rules.runtime_class:
        yield f"runtimeClassName must be {rules.runtime_class or 'unset'}"


def _other_nodes(term: _Term, resource: str, product: str, rules: InventoryRules) -> Iterator[str]:
    """A workload goes to nodes with the lease's product, by labels that this agent itself would know it by."""
    chosen = {each.key: each.values[0] for each in term.match_expressions if each.operator == "In"}
    if not names(product, resource, chosen, rules):
        yield f"its nodes must be chosen by labels that name {product} as {resource}"
    for each in term.match_expressions:
        if each.operator == "In" and len(each.values) != 1:
            yield f"its nodes must have one value of {each.key}"
        if each.operator == "NotIn" and each.key != HOSTNAME_LABEL:
            yield f"its nodes may be excluded by {HOSTNAME_LABEL} alone"


def _device_variables(pod: _PodSpec) -> Iterator[str]:
    """NVIDIA's runtime gives a container that asked for no GPU whatever its environment (or its image's) names."""
    for position, container in enumerate(pod.containers):
        found = [(v.name, v.value) for v in container.env if takes_devices(v.name)]
        allowed = [("NVIDIA_VISIBLE_DEVICES", "void")] if position else []
        if found != allowed:
            yield f"container {container.name} must leave the choice of its GPUs to the member"
