"""Placement rules as jobs and policies write them, and PlacementPolicy, a platform admin's guardrail."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedgpu_operator.api.base import (
    SET_LIST,
    Column,
    CountryCode,
    DecimalUSD,
    KindInfo,
    Model,
    Resource,
    Rule,
    Word,
    cel,
)
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.geo import resolve_countries
from fedgpu_operator.domain.job import PlacementRules, Policy, Requirement, SelectorOperator
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.errors import InvalidResourceError

CountryGroup = Literal["EU", "EEA", "EFTA", "SCHENGEN", "G7", "GDPR_ADEQUATE", "UK_ADEQUATE", "SWISS_ADEQUATE"]
"""The tables of hack/law; a test holds both equal."""

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]


class LabelRequirement(Model):
    """One requirement of a label selector."""

    key: LabelKey = Field(description="Label key that the requirement is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How the values are compared.")
    values: list[LabelValue] = Field(
        default_factory=list, max_length=32, description="Values for In and NotIn; empty for the other two."
    )

    def to_domain(self) -> Requirement:
        """The same as a domain value."""
        return Requirement(self.key, SelectorOperator(self.operator), frozenset(self.values))


class LabelSelector(Model):
    """A Kubernetes label selector: every entry must hold."""

    match_labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels that must be there with exactly these values.",
    )
    match_expressions: list[LabelRequirement] = Field(
        default_factory=list, max_length=16, description="Requirements on single labels."
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? "
                "(has(e.values) && size(e.values) > 0) : (!has(e.values) || size(e.values) == 0))",
                "matchExpressions: In and NotIn need values; Exists and DoesNotExist take none",
            )
        )
    }

    def to_domain(self) -> tuple[Requirement, ...]:
        """All entries as requirements, in a stable order."""
        labels = [Requirement(k, SelectorOperator.IN, frozenset({v})) for k, v in sorted(self.match_labels.items())]
        return tuple(labels + [entry.to_domain() for entry in self.match_expressions])


class CountryRules(Model):
    """Which countries the law lets something be in; every rule that is set must hold."""

    countries: list[CountryCode] = Field(
        default_factory=list,
        max_length=64,
        description="Countries (ISO 3166-1 alpha-2) that are allowed; with groups, the union.",
        json_schema_extra=SET_LIST,
    )
    groups: list[CountryGroup] = Field(
        default_factory=list,
        max_length=8,
        description="Groups of countries that are allowed, e.g. EU or EEA.",
        json_schema_extra=SET_LIST,
    )
    excluded_countries: list[CountryCode] = Field(
        default_factory=list,
        max_length=64,
        description="Countries that are not allowed; wins over countries and groups.",
        json_schema_extra=SET_LIST,
    )

    def resolved(self, path: str) -> tuple[frozenset[str] | None, frozenset[str]]:
        """(countries or None for any, excluded countries), groups resolved.

        Raises InvalidResourceError (`UnknownPlace`) at `path` for two letters that are no ISO 3166-1 code.
        """
        try:
            allowed = resolve_countries(self.countries, self.groups)
            refused = resolve_countries(self.excluded_countries, [])
        except ValueError as error:
            raise InvalidResourceError(ConditionReason.UNKNOWN_PLACE, f"{path}: {error}") from error
        return (allowed if self.countries or self.groups else None), refused


class DataResidency(CountryRules):
    """Where data may lawfully be processed; every rule that is set must hold."""


class PlacementSpec(CountryRules):
    """Where work may lawfully run; every rule that is set must hold."""

    regions: list[Word] = Field(
        default_factory=list,
        max_length=32,
        description="Provider regions (GPUProvider spec.location.region) in which the work may run.",
        json_schema_extra=SET_LIST,
    )
    compliance: list[Word] = Field(
        default_factory=list,
        max_length=16,
        description="Claims the provider must make, e.g. HIPAA or ISO27001; compared exactly.",
        json_schema_extra=SET_LIST,
    )
    provider_selector: LabelSelector | None = Field(default=None, description="Labels that the GPUProvider must carry.")
    audited_location: bool = Field(
        default=False,
        description="Only where a platform admin has confirmed the location; the owner's word alone does not do.",
    )

    def to_domain(self) -> PlacementRules:
        """Rules with groups resolved to countries; what is not set stays unrestricted.

        Raises InvalidResourceError (`UnknownPlace`) for two letters that are no ISO 3166-1 code.
        """
        allowed, excluded = self.resolved("spec.placement")
        return PlacementRules(
            countries=allowed,
            excluded_countries=excluded,
            regions=frozenset(self.regions) if self.regions else None,
            compliance=frozenset(self.compliance),
            selector=self.provider_selector.to_domain() if self.provider_selector else (),
            audited_location=self.audited_location,
        )


class PlacementPolicySpec(Model):
    """Whom it binds, and to what."""

    namespace_selector: LabelSelector = Field(
        default_factory=LabelSelector, description="Labels of the namespaces that are bound; empty binds all."
    )
    placement: PlacementSpec = Field(
        default_factory=PlacementSpec,
        description="Rules that every job there must also meet; a job can tighten them, never loosen.",
    )
    max_price_per_gpu_hour: DecimalUSD | None = Field(
        default=None, description="Highest price of one GPU for one hour, USD as a decimal string."
    )


class PlacementPolicy(Resource):
    """Guardrails by namespace selector: residency, compliance, price cap, provider selector."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="PlacementPolicy",
        plural="placementpolicies",
        singular="placementpolicy",
        short_name="ppol",
        namespaced=False,
        columns=(
            Column("Groups", ".spec.placement.groups"),
            Column("Countries", ".spec.placement.countries"),
            Column("Max-Price", ".spec.maxPricePerGPUHour", description="USD per GPU-hour"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Namespaces", ".spec.namespaceSelector.matchLabels", wide=True),
            Column("Compliance", ".spec.placement.compliance", wide=True),
            Column("Audited", ".spec.placement.auditedLocation", "boolean", "Only audited locations", wide=True),
        ),
    )
    spec: PlacementPolicySpec = Field(description="Whom it binds, and to what.")

    def to_domain(self) -> Policy:
        """The guardrail itself; whom it binds was decided before."""
        cap = self.spec.max_price_per_gpu_hour
        return Policy(
            name=self.metadata.name,
            generation=self.metadata.generation,
            rules=self.spec.placement.to_domain(),
            max_price=parse_usd(cap) if cap is not None else None,
        )

    def binds(self, namespace_labels: dict[str, str]) -> bool:
        """Whether a namespace with these labels is bound."""
        return all(entry.matches(namespace_labels) for entry in self.spec.namespace_selector.to_domain())
