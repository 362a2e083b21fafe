"""The parts of a job's spec: its data, its latency bound and its bounded pod template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field

from fedgpu_operator.api.base import (
    MAX_RUN_SECONDS,
    CountryCode,
    DecimalUSD,
    Latitude,
    Longitude,
    Model,
    ObjectName,
    Rule,
    Word,
    cel,
    hint,
    map_list,
)
from fedgpu_operator.api.placementpolicy import DataResidency
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.geo import Location, locate
from fedgpu_operator.domain.job import DataSet, LatencyRule, PlacementRules
from fedgpu_operator.domain.money import NOTHING, parse_usd
from fedgpu_operator.errors import InvalidResourceError


class DataSetSpec(Model):
    """One data set that the job reads, and where the law lets it be processed."""

    name: Word = Field(description="Name of the data set, for messages.")
    size_gi_b: int = Field(default=0, alias="sizeGiB", ge=0, le=10_000_000, description="Size in GiB.")
    provider: ObjectName | None = Field(
        default=None, description="GPUProvider at which it lies already; nothing has to move there."
    )
    country: CountryCode | None = Field(default=None, description="Country in which it lies, where not at a provider.")
    egress_price_per_gi_b: DecimalUSD | None = Field(
        default=None,
        alias="egressPricePerGiB",
        description="What its host charges to read out one GiB, USD. Unset: what its provider states, nothing where "
        "it lies at no provider.",
    )
    residency: DataResidency | None = Field(
        default=None,
        description="Where it may be processed; binds the job, its checkpoints and every later attempt.",
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "!has(self.provider) || !has(self.country)",
                "data.sets: set provider or country, not both; what lies at a GPUProvider lies where that one stands",
                ".country",
            )
        )
    }

    def to_domain(self) -> DataSet:
        """The same as a domain value; raises InvalidResourceError (`UnknownPlace`)."""
        allowed, excluded = (None, frozenset[str]())
        if self.residency is not None:
            allowed, excluded = self.residency.resolved(f"spec.data.sets[{self.name}].residency")
        price = None if self.provider else NOTHING
        return DataSet(
            name=self.name,
            mib=self.size_gi_b * 1024,
            provider=self.provider or "",
            country=self.country or "",
            egress_per_gib=price if self.egress_price_per_gi_b is None else parse_usd(self.egress_price_per_gi_b),
            countries=allowed,
            excluded_countries=excluded,
        )


class DataSpec(Model):
    """The data that the job moves."""

    sets: list[DataSetSpec] = Field(
        default_factory=list,
        max_length=16,
        description="Data sets that the job reads.",
        json_schema_extra=map_list("name"),
    )
    output_gi_b: int = Field(
        default=0, alias="outputGiB", ge=0, le=10_000_000, description="GiB that leave the provider as results."
    )

    def to_domain(self) -> tuple[DataSet, ...]:
        """The data sets by name; raises InvalidResourceError (`UnknownPlace`)."""
        return tuple(each.to_domain() for each in sorted(self.sets, key=lambda each: each.name))


class Checkpoint(Model):
    """How the job saves its work."""

    interval_seconds: int = Field(
        ge=1,
        le=MAX_RUN_SECONDS,
        description="Seconds between two savings of the work, e.g. 600; an interruption loses half of them.",
    )
    country: CountryCode | None = Field(
        default=None, description="Country in which checkpoints are kept; needed where a data set has a residency."
    )


CHECKPOINT_RULES = (
    Rule(
        "!has(self.checkpoint) || has(self.checkpoint.country) || !has(self.data) || !has(self.data.sets) || "
        "!self.data.sets.exists(s, has(s.residency))",
        "checkpoint.country: needed, since a data set has a residency: name the country in which checkpoints are kept",
        ".checkpoint",
    ),
    Rule(
        "!has(self.checkpoint) || !has(self.checkpoint.country) || !has(self.data) || !has(self.data.sets) || "
        "!self.data.sets.exists(s, has(s.residency) && has(s.residency.excludedCountries) && "
        "self.checkpoint.country in s.residency.excludedCountries)",
        "checkpoint.country: among the excludedCountries of a data set; keep checkpoints where the data may be",
        ".checkpoint",
    ),
    Rule(
        "!has(self.checkpoint) || !has(self.checkpoint.country) || !has(self.data) || !has(self.data.sets) || "
        "!self.data.sets.exists(s, has(s.residency) && has(s.residency.countries) && s.residency.countries.size() > 0 "
        "&& (!has(s.residency.groups) || s.residency.groups.size() == 0) && "
        "!(self.checkpoint.country in s.residency.countries))",
        "checkpoint.country: not among the countries of a data set's residency; keep checkpoints where the data may be",
        ".checkpoint",
    ),
)
"""Of a job's spec. Groups of countries are the hub's to resolve: `check_law` judges those."""


def check_law(rules: PlacementRules, data: Iterable[DataSet], checkpoint: Checkpoint | None) -> None:
    """Raises InvalidResourceError where the data's residency leaves no country, or not that of the checkpoints.

    Reasons: `ResidencyConflict`, `CheckpointOutsideResidency`. Data without a residency asks for nothing.
    """
    bound = [each for each in data if each.countries is not None or each.excluded_countries]
    if not bound:
        return
    names = ", ".join(each.name for each in bound)
    limits = [each for each in (rules.countries, *(each.countries for each in bound)) if each is not None]
    excluded = rules.excluded_countries.union(*(each.excluded_countries for each in bound))
    if limits and not frozenset.intersection(*limits) - excluded:
        raise InvalidResourceError(
            ConditionReason.RESIDENCY_CONFLICT,
            f"spec.data.sets: no country is left that spec.placement and the residency of {names} all allow; "
            "split the job, or loosen one of them",
        )
    if checkpoint is not None:
        _check_checkpoint(bound, checkpoint.country or "")


def _check_checkpoint(bound: Iterable[DataSet], country: str) -> None:
    for each in bound:
        outside = each.countries is not None and country not in each.countries
        if not country or outside or country in each.excluded_countries:
            kept = f"{country} is no country" if country else "it is not known"
            raise InvalidResourceError(
                ConditionReason.CHECKPOINT_OUTSIDE_RESIDENCY,
                f"spec.checkpoint.country: {kept} in which data set {each.name} may be kept; a checkpoint holds data",
            )


class Origin(Model):
    """A point that latency is counted from: exactly one of vantage, region, country or coordinates."""

    vantage: Word | None = Field(default=None, description="A measuring point of this hub, by name.")
    region: Word | None = Field(default=None, description="A well-known cloud region, e.g. ap-southeast-1.")
    country: CountryCode | None = Field(default=None, description="A country (ISO 3166-1 alpha-2): its centre.")
    latitude: Latitude | None = None
    longitude: Longitude | None = None

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "[has(self.vantage), has(self.region), has(self.country), has(self.latitude)].filter(x, x).size() == 1 "
                "&& has(self.latitude) == has(self.longitude)",
                "latency.from: set exactly one of vantage, region, country, or latitude with longitude",
            )
        )
    }


class LatencySpec(Model):
    """How far from its users the work may run."""

    origin: Origin = Field(alias="from", description="Where the users are.")
    max_ms: int | None = Field(default=None, ge=1, le=10_000, description="Longest round trip in ms.")
    max_age_seconds: int = Field(
        default=86_400, ge=1, le=2**31 - 1, description="Age in seconds up to which a measurement may satisfy maxMs."
    )
    allow_estimate: bool = Field(
        default=False,
        description="Let a great-circle estimate (a lower bound) satisfy maxMs where no measurement exists.",
    )

    def to_domain(self) -> LatencyRule:
        """The same as a domain value; raises InvalidResourceError (`UnknownPlace`)."""
        where, max_age = self.origin, self.max_age_seconds
        if where.vantage is not None:
            # Where it stands is the hub's to say: `with_vantages` fills it in.
            named = frozenset({where.vantage})
            return LatencyRule(Location(""), self.max_ms, self.allow_estimate, named, max_age)
        point = None
        if where.latitude is not None and where.longitude is not None:
            point = (float(where.latitude), float(where.longitude))
        try:
            origin = locate(country=where.country or "", region=where.region or "", coordinates=point)
        except ValueError as error:
            raise InvalidResourceError(ConditionReason.UNKNOWN_PLACE, f"spec.latency.from: {error}") from error
        return LatencyRule(origin, self.max_ms, self.allow_estimate, max_age=max_age)


DNSLabel = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        json_schema_extra=hint("must be a DNS label: lower-case letters, digits and '-', e.g. trainer-0"),
    ),
]
Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        json_schema_extra=hint("must be a quantity with an optional unit, e.g. 500m, '4' or 16Gi"),
    ),
]
MAX_TEXT: Final = 131_072
"""Characters of a template's commands, arguments, environment, mount paths and annotations together.

Stored, each may take six bytes, and a lease carries them all; `excess_of_job` and `excess_of_lease` in api/base.py have
the limits they must stay below.
"""
Argument = Annotated[str, Field(max_length=65_536)]
_WORD: Final = "[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?"
ANNOTATION_KEY: Final = f"({_WORD}|([a-z0-9]([-a-z0-9]*[a-z0-9])?[.])*fedgpu[.]dev/{_WORD}([.]{_WORD})*)"
"""Keys that steer nothing on a member: one word without dots, or one of our own domain.

An allow-list, since runtimes, meshes and network plugins each read keys of their own, many of them without a slash
(``io.katacontainers.config.hypervisor.path``).
"""
NVIDIA_PREFIX: Final = "NVIDIA_"
HARMLESS_NVIDIA: Final = ("NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE")
"""The variables of NVIDIA's prefix by which a container cannot take devices; its container runtime reads the others."""
AnnotationKey = Annotated[str, Field(min_length=1, max_length=317)]
AnnotationValue = Annotated[str, Field(max_length=1024)]


class EnvVar(Model):
    """One environment variable with a literal value."""

    name: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the variable.",
        json_schema_extra=hint("must be letters, digits and '_', not beginning with a digit, e.g. BATCH_SIZE"),
    )
    value: str = Field(default="", max_length=65_536, description="Its value; no secrets: objects are readable.")


class VolumeMount(Model):
    """Where a volume appears in a container."""

    name: DNSLabel = Field(description="Name of the volume.")
    mount_path: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^/[^:]*$",
        description="Absolute path in the container.",
        json_schema_extra=hint("must be an absolute path without ':', e.g. /data"),
    )
    read_only: bool = Field(default=False, description="Whether the container may only read it.")


class ResourceList(Model):
    """Requests or limits; GPUs are set by spec.gpu, not here."""

    cpu: Quantity | None = Field(default=None, description="CPU, e.g. 500m or 4.")
    memory: Quantity | None = Field(default=None, description="Memory, e.g. 16Gi.")
    ephemeral_storage: Quantity | None = Field(
        default=None, alias="ephemeral-storage", description="Scratch space on the node, e.g. 50Gi."
    )


class Resources(Model):
    """CPU, memory and scratch space of one container."""

    requests: ResourceList = Field(default_factory=ResourceList, description="What is set aside.")
    limits: ResourceList = Field(default_factory=ResourceList, description="What must not be passed.")


class Container(Model):
    """One container."""

    name: DNSLabel = Field(description="Name of the container.")
    image: str = Field(min_length=1, max_length=512, description="Image reference.")
    command: list[Argument] = Field(default_factory=list, max_length=64, description="Entry point.")
    args: list[Argument] = Field(default_factory=list, max_length=256, description="Arguments.")
    env: list[EnvVar] = Field(
        default_factory=list, max_length=128, description="Environment.", json_schema_extra=map_list("name")
    )
    working_dir: str | None = Field(default=None, max_length=1024, description="Working directory.")
    resources: Resources = Field(default_factory=Resources, description="CPU, memory and scratch space.")
    volume_mounts: list[VolumeMount] = Field(
        default_factory=list,
        max_length=16,
        description="Volumes of this container.",
        json_schema_extra=map_list("mountPath"),
    )


class EmptyDir(Model):
    """Scratch space that lives as long as the pod."""

    medium: Literal["", "Memory"] = Field(default="", description="Memory for tmpfs, empty for the node's disk.")
    size_limit: Quantity | None = Field(default=None, description="At most this much, e.g. 10Gi.")


CHECKPOINT_ANNOTATION: Final = "fedgpu.dev/checkpoint-requested"
"""On a workload's Job and pods: when it was asked to save its work, RFC 3339 in UTC."""


class FieldRef(Model):
    """The one field of its pod that a workload may be shown."""

    field_path: Literal["metadata.annotations['fedgpu.dev/checkpoint-requested']"] = Field(
        description="When a checkpoint was asked for; empty until then."
    )


class DownwardFile(Model):
    """One file of a downward-API volume."""

    path: str = Field(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_][-.A-Za-z0-9_]*$",
        description="Name of the file.",
        json_schema_extra=hint("must be a file name of letters, digits, '-', '.' and '_', e.g. checkpoint-requested"),
    )
    field_ref: FieldRef = Field(description="What the file shows.")


class DownwardAPI(Model):
    """Files that show the workload what it is asked for; kept up to date by the member's kubelet."""

    items: list[DownwardFile] = Field(min_length=1, max_length=4, description="The files.")


class Volume(Model):
    """A volume of a safe kind."""

    name: DNSLabel = Field(description="Name of the volume.")
    empty_dir: EmptyDir | None = Field(default=None, description="Scratch space that lives as long as the pod.")
    downward_api: DownwardAPI | None = Field(
        default=None, alias="downwardAPI", description="Files that show what the workload is asked for."
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "has(self.emptyDir) != has(self.downwardAPI)",
                "template.spec.volumes: a volume is of one kind, emptyDir or downwardAPI",
            )
        )
    }


def _sizes(field: str, each: str) -> str:
    """CEL: the sum of `each` over a list that may be absent."""
    return f"(has({field}) ? {field}.map(x, {each}).sum() : 0)"


_TEXT: Final = (
    "self.spec.containers.map(c, "
    + " + ".join(
        (
            _sizes("c.command", "size(x)"),
            _sizes("c.args", "size(x)"),
            _sizes("c.env", "size(x.name) + (has(x.value) ? size(x.value) : 0)"),
            _sizes("c.volumeMounts", "size(x.mountPath)"),
        )
    )
    + ").sum() + (has(self.metadata) && has(self.metadata.annotations) ? "
    + "self.metadata.annotations.map(k, size(k) + size(self.metadata.annotations[k])).sum() : 0)"
    + f" <= {MAX_TEXT}"
)


class TemplateMetadata(Model):
    """Metadata of the pods; the operator adds the labels."""

    annotations: dict[AnnotationKey, AnnotationValue] = Field(
        default_factory=dict,
        max_length=32,
        description="Annotations of the pods, for people to read: keys are one word, or of the domain fedgpu.dev.",
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                f"!has(self.annotations) || self.annotations.all(k, k.matches('^{ANNOTATION_KEY}$'))",
                "template.metadata.annotations: a key must be one word without dots, e.g. team, or of the domain "
                "fedgpu.dev, since others steer the node or its plugins; rename it, e.g. example.com/team to team",
            )
        )
    }


class PodSecurityContext(Model):
    """Whose rights the containers run with."""

    run_as_user: int = Field(
        default=65532, ge=1, le=2**31 - 1, description="User id of all containers; root is not possible."
    )
    run_as_non_root: Literal[True] = Field(default=True, description="Always true; may be left out.")


class PodSpec(Model):
    """The part of a PodSpec that a job may set; a member runs it under Pod Security `restricted`."""

    containers: list[Container] = Field(
        min_length=1,
        max_length=4,
        description="Containers; the first one gets the GPUs.",
        json_schema_extra=map_list("name"),
    )
    volumes: list[Volume] = Field(
        default_factory=list, max_length=16, description="Volumes.", json_schema_extra=map_list("name")
    )
    security_context: PodSecurityContext = Field(
        default_factory=PodSecurityContext, description="Whose rights the containers run with."
    )
    restart_policy: Literal["Never"] = Field(
        default="Never", description="Always Never: what follows a failure is in spec.retries of the job."
    )
    termination_grace_period_seconds: int = Field(
        default=30, ge=0, le=3600, description="Seconds between the request to stop and the kill."
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                f"self.containers.all(c, !has(c.env) || c.env.all(e, !e.name.startsWith('{NVIDIA_PREFIX}') || "
                f"e.name in {list(HARMLESS_NVIDIA)}))",
                "template.spec.containers: of the variables NVIDIA_* only NVIDIA_DRIVER_CAPABILITIES and "
                "NVIDIA_TF32_OVERRIDE may be set, the member sets the others from spec.gpu; remove them from env",
            ),
            Rule(
                "self.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, "
                "has(self.volumes) && self.volumes.exists(v, v.name == m.name)))",
                "template.spec.containers: every volumeMounts name must be that of an entry in template.spec.volumes",
            ),
        )
    }


class PodTemplate(Model):
    """What one replica runs: the part of a PodTemplateSpec that is safe on somebody else's cluster, names as there."""

    metadata: TemplateMetadata = Field(default_factory=TemplateMetadata, description="Metadata of the pods.")
    spec: PodSpec = Field(description="Containers and volumes of the pods.")

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                _TEXT,
                f"template: commands, arguments, environment, mount paths and annotations have at most {MAX_TEXT} "
                "characters together; put scripts and data into the image or into a data set",
            )
        )
    }


def harmless_annotation(key: str) -> bool:
    """Whether an annotation of that key steers nothing on a member."""
    return re.fullmatch(ANNOTATION_KEY, key) is not None


def takes_devices(variable: str) -> bool:
    """Whether a variable of that name could give a container devices that it did not ask for."""
    return variable.startswith(NVIDIA_PREFIX) and variable not in HARMLESS_NVIDIA
