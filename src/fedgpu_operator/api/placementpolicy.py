"""PlacementPolicy: a platform admin's guardrail over the jobs of some namespaces."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedgpu_operator.api.base import Column, DecimalUSD, KindInfo, Model, Resource
from fedgpu_operator.api.placementrules import LabelSelector, PlacementSpec
from fedgpu_operator.domain.job import Policy
from fedgpu_operator.domain.money import parse_usd


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
