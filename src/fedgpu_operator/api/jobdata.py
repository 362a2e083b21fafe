"""The data of a ComputeJob and where it saves its work, as people write it, and the law that comes with both."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from fedgpu_operator.api.base import CountryCode, DecimalUSD, Duration, Model, ObjectName, Rule, Word, cel, map_list
from fedgpu_operator.api.placementrules import DataResidency
from fedgpu_operator.domain.job import DataSet, PlacementRules
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

    interval: Duration = Field(description="How often the work is saved, e.g. 10m; an interruption loses half of it.")
    country: CountryCode | None = Field(
        default=None, description="Country in which checkpoints are kept; needed where a data set has a residency."
    )

    model_config = Model.model_config | {
        "json_schema_extra": cel(
            Rule(
                "!self.interval.matches('^([0-9]+[hms])+$') || "
                "(duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('720h'))",
                "checkpoint.interval: between 1s and 720h, e.g. 10m",
                ".interval",
            )
        )
    }


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
            "ResidencyConflict",
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
                "CheckpointOutsideResidency",
                f"spec.checkpoint.country: {kept} in which data set {each.name} may be kept; a checkpoint holds data",
            )
