"""A job and the rules that bind it, as placement sees them: values only, with no trace of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.offer import GpuNeed


class SelectorOperator(StrEnum):
    """The operators of a Kubernetes label selector requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One label requirement; an absent key satisfies `NotIn`, as in Kubernetes."""

    key: str
    operator: SelectorOperator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy the requirement."""
        match self.operator:
            case SelectorOperator.IN:
                return labels.get(self.key) in self.values
            case SelectorOperator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case SelectorOperator.EXISTS:
                return self.key in labels
            case SelectorOperator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """Where work may lawfully run; None means "not restricted", an empty set would mean "nowhere".

    `countries` are ISO 3166-1 alpha-2 codes with groups (EU, EEA, …) already resolved; `regions` are the
    providers' own region names. `excluded_countries` wins over `countries`.
    """

    countries: frozenset[str] | None = None
    excluded_countries: frozenset[str] = frozenset()
    regions: frozenset[str] | None = None
    compliance: frozenset[str] = frozenset()
    selector: tuple[Requirement, ...] = ()
    audited_location: bool = False
    """Only where a platform admin has confirmed where the machines stand; the owner's word alone does not do."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data that a job reads, and the law that comes with it.

    It lies at `provider` (a GPUProvider: nothing has to move there) or elsewhere, in `country`. `mib` is its size;
    `egress_per_gib` is what its host charges to read it out (µUSD per GiB), None if nobody said. `countries` and
    `excluded_countries` say where it may be processed, as in PlacementRules.
    """

    name: str
    mib: int = 0
    provider: str = ""
    country: str = ""
    egress_per_gib: MicroUSD | None = NOTHING
    countries: frozenset[str] | None = None
    excluded_countries: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """A platform admin's guardrail that already matched the job's namespace; intersected with the job's rules."""

    name: str
    generation: int
    rules: PlacementRules = PlacementRules()
    max_price: MicroUSD | None = None


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """Round-trip bound from a point; an estimate satisfies `max_ms` only when `allow_estimate` is set.

    `vantages` names the measuring points that stand for the origin. Measurements to all of them count for `max_ms`
    while none is older than `max_age` seconds.
    """

    origin: Location
    max_ms: int | None = None
    allow_estimate: bool = False
    vantages: frozenset[str] = frozenset()
    max_age: int = 86_400


@dataclass(frozen=True, slots=True)
class ExchangeRates:
    """What a job pays to avoid a millisecond of latency or a kilogram of CO2e, in µUSD (per GPU-hour)."""

    per_ms: int = 0
    per_kg_co2e: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One pending job.

    `max_price` is µUSD per GPU-hour; `budget_left` is what the job may still spend over all attempts (µUSD);
    `run_limit` is the most billable seconds of one attempt and bounds the cost; `deadline` is the instant at which it
    is stopped.
    `avoid` maps offers (`provider/product`) at which it is not to be placed now to why: an attempt failed there.
    `data` is what it reads and `output_mib` what it writes out of the provider; `checkpoint_seconds` is how often its
    work is saved (None: never, an interruption loses all of it) and `checkpoint_country` where to.
    `priority` is the value of its PriorityClass; `preempts` is whether it may push others aside.
    """

    uid: str
    namespace: str
    name: str
    gpu: GpuNeed
    replicas: int
    run_limit: int
    priority: int = 0
    rules: PlacementRules = PlacementRules()
    latency: LatencyRule | None = None
    max_price: MicroUSD | None = None
    budget_left: MicroUSD | None = None
    deadline: datetime | None = None
    rates: ExchangeRates = ExchangeRates()
    avoid: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()
    output_mib: int = 0
    checkpoint_seconds: int | None = None
    checkpoint_country: str = ""
    preempts: bool = False

    @property
    def gpus(self) -> int:
        """GPUs over all replicas."""
        return self.gpu.count * self.replicas

    def within(self, budget: MicroUSD) -> Job:
        """The same job with no more than this left to spend (µUSD)."""
        left = budget if self.budget_left is None else min(budget, self.budget_left)
        return replace(self, budget_left=left)
