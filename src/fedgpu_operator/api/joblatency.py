"""How far from its users a ComputeJob may run, as people write it."""

from __future__ import annotations

from pydantic import Field

from fedgpu_operator.api.base import CountryCode, Duration, Model, Rule, Word, cel, parse_duration
from fedgpu_operator.domain.geo import locate
from fedgpu_operator.domain.job import LatencyRule
from fedgpu_operator.domain.location import Location
from fedgpu_operator.errors import InvalidResourceError


class Origin(Model):
    """A point that latency is counted from: exactly one of vantage, region, country or coordinates."""

    vantage: Word | None = Field(default=None, description="A measuring point of this hub, by name.")
    region: Word | None = Field(default=None, description="A well-known cloud region, e.g. ap-southeast-1.")
    country: CountryCode | None = Field(default=None, description="A country (ISO 3166-1 alpha-2): its centre.")
    latitude: float | None = Field(default=None, ge=-90, le=90, description="Degrees north.")
    longitude: float | None = Field(default=None, ge=-180, le=180, description="Degrees east.")

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
    max_age: Duration = Field(default="24h", description="Oldest measurement that may satisfy maxMs.")
    allow_estimate: bool = Field(
        default=False,
        description="Let a great-circle estimate (a lower bound) satisfy maxMs where no measurement exists.",
    )

    def to_domain(self) -> LatencyRule:
        """The same as a domain value; raises InvalidResourceError (`UnknownPlace`)."""
        where, max_age = self.origin, parse_duration(self.max_age)
        if where.vantage is not None:
            # Where it stands is the hub's to say: `with_vantages` fills it in.
            named = frozenset({where.vantage})
            return LatencyRule(Location(""), self.max_ms, self.allow_estimate, named, max_age)
        point = None
        if where.latitude is not None and where.longitude is not None:
            point = (where.latitude, where.longitude)
        try:
            origin = locate(country=where.country or "", region=where.region or "", coordinates=point)
        except ValueError as error:
            raise InvalidResourceError("UnknownPlace", f"spec.latency.from: {error}") from error
        return LatencyRule(origin, self.max_ms, self.allow_estimate, max_age=max_age)
