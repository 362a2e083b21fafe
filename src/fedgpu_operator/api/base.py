"""What every kind shares: base models, conditions, bounded scalars, and what a CRD needs beyond a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.geo import COUNTRIES
from fedgpu_operator.errors import InvalidResourceError

GROUP: Final = "fedgpu.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

JSONObject: TypeAlias = dict[str, Any]
"""An object as an API server sends it; parsed at once, never carried into the domain."""


@dataclass(frozen=True, slots=True)
class Column:
    """A print column of `kubectl get`; `wide` ones show only with `-o wide`."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    description: str = ""
    wide: bool = False


READY_COLUMN: Final = Column("Ready", ".status.conditions[?(@.type=='Ready')].status", description="As its spec asks")


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule; the message names the field and the fix."""

    rule: str
    message: str
    field_path: str | None = None

    def to_schema(self) -> dict[str, str]:
        """As an entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        if self.field_path is not None:
            entry["fieldPath"] = self.field_path
        return entry


def cel(*rules: Rule) -> JSONObject:
    """Schema extra that carries CEL rules, for the `json_schema_extra` of a `ConfigDict` or a `Field`."""
    return {"x-kubernetes-validations": [rule.to_schema() for rule in rules]}


def map_list(*keys: str) -> JSONObject:
    """Schema extra of a list that is a map keyed by these fields, so that appliers can own single entries."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


SET_LIST: Final[JSONObject] = {"x-kubernetes-list-type": "set"}
ATOMIC_MAP: Final[JSONObject] = {"x-kubernetes-map-type": "atomic"}
"""Schema extra of an object that is written as a whole: that somebody owns it is then one entry, not one per field.

The API server reads and writes that bookkeeping anew with every request; for single fields it was half of a placed job.
"""

HINT: Final = "x-fedgpu-hint"
"""Schema extra beside a pattern: who breaks it then reads these words too, not a regular expression alone."""
FORM: Final = "x-fedgpu-form"
"""Schema extra beside a hint: a shorter pattern, for the schema alone, where the one that is checked is a long list."""


def hint(text: str) -> JSONObject:
    """Schema extra with the words for people whose value does not match the pattern: what to write."""
    return {HINT: text}


_ACRONYMS: Final = {"gpu": "GPU", "gpus": "GPUs"}


def wire_name(name: str) -> str:
    """The camelCase name of a field on the wire, acronyms as Kubernetes writes them inside a name.

    >>> wire_name("max_price_per_gpu_hour")
    'maxPricePerGPUHour'
    """
    first, *rest = name.split("_")
    return first + "".join(_ACRONYMS.get(word, word[:1].upper() + word[1:]) for word in rest)


@dataclass(frozen=True, slots=True)
class KindInfo:
    """Names and printing of one kind; `rules` are CEL rules at the root of the object."""

    kind: str
    plural: str
    singular: str
    short_name: str
    namespaced: bool
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    selectable: tuple[str, ...] = ()
    """JSON paths that `--field-selector` takes; strings, integers and booleans outside of lists."""

    @property
    def crd_name(self) -> str:
        """The CRD's own name, ``<plural>.<group>``."""
        return f"{self.plural}.{GROUP}"


class Model(BaseModel):
    """Base of everything inside an object: camelCase on the wire, snake_case here, unknown fields ignored.

    The API server prunes what the schema does not know, and an older operator must read a newer object.
    """

    model_config = ConfigDict(alias_generator=wire_name, populate_by_name=True, frozen=True, extra="ignore")

    def to_wire(self) -> JSONObject:
        """As JSON values with camelCase keys, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


MAX_MESSAGE: Final = 2048
"""Characters of a condition's message; with the number of conditions it bounds what a status weighs."""


class Condition(Model):
    """One condition, as metav1.Condition has it."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    type: str = Field(description="Name of the condition in CamelCase.", max_length=64)
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="Why, in one CamelCase word.", max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")
    message: str = Field(default="", description="Why, in words for people.", max_length=MAX_MESSAGE)
    last_transition_time: datetime = Field(description="When the status last changed.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this judges.")


ObservedGeneration: TypeAlias = Annotated[
    int, Field(ge=-1, le=2**53, description="Generation of the spec that this status judges; -1 before the first time.")
]
"""Its default of -1 makes an object that nobody has judged yet read as in progress."""
Conditions: TypeAlias = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        description="What is known of the object, one entry per type.",
        max_length=16,
        json_schema_extra=map_list("type"),
    ),
]


class Meta(Model):
    """The part of ObjectMeta that the operator reads; API servers define its schema themselves."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)

    def guard(self) -> JSONObject:
        """Metadata that makes a patch fail with ConflictError on any other version of the object or another object."""
        return {"uid": self.uid, "resourceVersion": self.resource_version}


class Resource(Model):
    """Base of every kind; subclasses add `spec` and `status` and set `info`."""

    info: ClassVar[KindInfo]
    metadata: Meta

    @classmethod
    def parse(cls, obj: Mapping[str, object]) -> Self:
        """Read an object as the API server sent it.

        Raises InvalidResourceError with reason ``InvalidSpec`` where a schema newer or older than ours let
        something through that this version cannot read.
        """
        try:
            return cls.model_validate(obj)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidResourceError(ConditionReason.INVALID_SPEC, f"{field}: {first['msg']}") from error

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone for a cluster-scoped object."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


def _country_pattern() -> str:
    """All assigned codes, grouped by first letter so that CEL's estimate of the cost stays small."""
    seconds: dict[str, str] = {}
    for code in sorted(COUNTRIES):
        seconds[code[0]] = seconds.get(code[0], "") + code[1]
    return "^(" + "|".join(f"{first}[{rest}]" for first, rest in seconds.items()) + ")$"


CountryCode: TypeAlias = Annotated[
    str,
    Field(
        pattern=_country_pattern(),
        max_length=64,
        json_schema_extra={
            **hint("must be an ISO 3166-1 alpha-2 country code in capitals, e.g. DE, US or GB (not UK)"),
            FORM: "^[A-Z]{2}$",
        },
    ),
]
"""ISO 3166-1 alpha-2."""
Word: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        json_schema_extra=hint(
            "must be one word of letters, digits, '-', '_' or '.' that begins and ends with a letter or digit"
        ),
    ),
]
"""A label-value-like word: a product, a region, a claim."""
MAX_RUN_SECONDS: Final = 720 * 3600
"""Thirty days: the longest that one attempt may run."""
MAX_DECIMAL_USD: Final = 10**18 - 1
"""What a DecimalUSD can show (µUSD)."""
DecimalUSD: TypeAlias = Annotated[
    str,
    Field(
        max_length=20,
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$",
        json_schema_extra=hint(
            "must be a decimal string of US dollars, not negative, with at most six places, e.g. '2.49'"
        ),
    ),
]
"""A decimal string in USD with at most six places: 1 base unit is 0.000001 USD."""
Latitude: TypeAlias = Annotated[
    str,
    Field(
        max_length=12,
        pattern=r"^-?(90([.]0{1,6})?|[1-8]?[0-9]([.][0-9]{1,6})?)$",
        description="Degrees north as a decimal string, e.g. '50.11'.",
        json_schema_extra=hint("must be degrees from -90 to 90 as a decimal string, e.g. '50.11'"),
    ),
]
"""Degrees north, -90 to 90, as a decimal string: a spec has no floating-point numbers, which writers round each their
own way."""
Longitude: TypeAlias = Annotated[
    str,
    Field(
        max_length=12,
        pattern=r"^-?(180([.]0{1,6})?|(1[0-7][0-9]|[1-9]?[0-9])([.][0-9]{1,6})?)$",
        description="Degrees east as a decimal string, e.g. '8.68'.",
        json_schema_extra=hint("must be degrees from -180 to 180 as a decimal string, e.g. '8.68'"),
    ),
]
"""Degrees east, -180 to 180, as a decimal string."""
_INSTANT: Final = WithJsonSchema(
    {
        "type": "string",
        "maxLength": 35,
        "pattern": r"^(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
        r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$",
        **hint("must be an instant of the years 1970 to 2999 with its zone, e.g. 2026-12-31T18:00:00Z"),
    }
)
Instant: TypeAlias = Annotated[datetime, _INSTANT]
"""An RFC 3339 instant that people write. Kubernetes' own date-time lets through zones and years that no clock has."""
ZonedInstant: TypeAlias = Annotated[AwareDatetime, _INSTANT]
"""The same, unreadable here too without a zone: for what no API server may have checked."""
WalletAddress: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^0x[0-9a-fA-F]{40}$",
        max_length=64,
        json_schema_extra=hint("must be a chain address: 0x and 40 hex digits"),
    ),
]
"""A 20-byte account address in hex."""
WalletOrNone: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^(0x[0-9a-fA-F]{40})?$",
        max_length=64,
        json_schema_extra=hint("must be a chain address, 0x and 40 hex digits, or empty"),
    ),
]
"""An account address in hex, or empty where there is none; fields that a CEL rule compares cannot be absent."""
HexBytes32: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^0x[0-9a-f]{64}$",
        max_length=66,
        json_schema_extra=hint("must be 32 bytes in hex: 0x and 64 lower-case hex digits"),
    ),
]
"""32 bytes in lower-case hex."""
HexSignature: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^0x([0-9a-fA-F]{2})+$",
        max_length=2050,
        json_schema_extra=hint("must be a signature in hex: 0x and an even number of digits"),
    ),
]
"""A signature: 65 bytes of an ordinary account, or what a contract account (ERC-1271) takes."""
ObjectName: TypeAlias = Annotated[str, Field(min_length=1, max_length=253)]


class WalletProof(Model):
    """A wallet's EIP-712 signature over who may use it here; `fedgpu account prove` and `provider prove` make it."""

    signature: HexSignature = Field(description="Signature of the wallet, in hex.")
    issued_at: int = Field(ge=0, le=2**40, description="When it was signed, Unix seconds; part of what is signed.")


Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a loop found out about one condition type, before it is merged into what is known."""

    type: str
    status: Status
    reason: str
    message: str = ""


READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
DRAINING: Final = "Draining"
PASSING: Final = frozenset({RECONCILING, STALLED, DRAINING})
"""Conditions that are there only while they are True; of these, kstatus reads the first two before `Ready`."""


def standing(ready: Finding, message: str = "", *, stalled: bool = False) -> tuple[Finding, ...]:
    """`Ready` and, unless it is True, the condition that tells tools whether waiting helps.

    `Stalled` if only a change by people helps, otherwise `Reconciling`; its message is `message`, or that of `ready`.
    """
    if ready.status == "True":
        return (ready,)
    return ready, Finding(STALLED if stalled else RECONCILING, "True", ready.reason, message or ready.message)


def merge(
    known: Sequence[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> list[Condition]:
    """The known conditions with the findings put in; order of first appearance, messages cut to fit.

    If `Ready` is among the findings, those of `PASSING` go unless they are found too.
    """
    findings = tuple(findings)
    found = {finding.type for finding in findings}
    gone = PASSING - found if READY in found else set()
    merged = {condition.type: condition for condition in known if condition.type not in gone}
    for finding in findings:
        before = merged.get(finding.type)
        moved = before is None or before.status != finding.status
        merged[finding.type] = Condition(
            type=finding.type,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:MAX_MESSAGE],
            last_transition_time=now.replace(microsecond=0) if moved or before is None else before.last_transition_time,
            observed_generation=generation,
        )
    return list(merged.values())


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def is_false(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and False."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "False"


MOST_STORED: Final = 3 * 2**19
"""Bytes of one object in etcd: its default limit of a request."""
HEADROOM: Final = 256 * 1024
"""Bytes left for what others add: labels, annotations, finalizers and the field managers' bookkeeping."""
JOB_STATUS_BYTES: Final = 32 * 1024
"""The most that a ComputeJob's status weighs; `fitted` in hub/views/jobs.py keeps it."""
LEASE_STATUS_BYTES: Final = 512 * 1024
"""The most that a ComputeLease's status can weigh by its schema; a test writes the fullest one."""
LEASE_METADATA_BYTES: Final = 8 * 1024
"""What an API server adds to a lease at its creation, and our own annotations on it."""

_ESCAPED: Final = re.compile("[<>&\u2028\u2029]")


def stored_bytes(obj: object) -> int:
    """Bytes of a JSON value as an API server stores it.

    Go's encoder writes `<`, `>`, `&`, U+2028 and U+2029 as six bytes each (encoding/json, HTML escaping, which the
    unstructured codec leaves on) and everything else as UTF-8.
    """
    text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"))
    escaped = _ESCAPED.findall(text)
    return len(text.encode(errors="surrogatepass")) + sum(6 - len(each.encode()) for each in escaped)


def excess_of_job(job: JSONObject) -> int:
    """By how many bytes a ComputeJob, as the API server returned it, is too large to be followed to its end.

    0 where its status and the head-room for others fit.
    """
    known = {key: value for key, value in job.items() if key != "status"}
    return max(0, stored_bytes(known) + JOB_STATUS_BYTES + HEADROOM - MOST_STORED)


def excess_of_lease(lease: JSONObject) -> int:
    """By how many bytes a ComputeLease that is to be created would be too large to be followed to its end."""
    later = LEASE_METADATA_BYTES + LEASE_STATUS_BYTES + HEADROOM
    return max(0, stored_bytes(lease) + later - MOST_STORED)
