"""Residency: where the law lets the work and its data be; a fact the owner did not state never satisfies a rule."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import is_country
from fedgpu_operator.domain.job import DataSet, Job, PlacementRules
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import BoolVector, Context, OfferRefusal
from fedgpu_operator.placement.table import OfferTable


class DeclaredLocation(NamedTuple):
    """All that residency looks at of an offer."""

    country: str
    region: str
    audited: bool


def place(offer: Offer) -> DeclaredLocation:
    """Where the owner says that the machines stand, and whether a platform admin has confirmed it."""
    return DeclaredLocation(offer.location.country, offer.location.region, offer.location_audited)


def key(ctx: Context) -> Hashable:
    """The job's rules of place and those of its data; None if it has none."""
    rules, data = ctx.job.rules, ctx.job.data
    bound = _bound(data) if data else ()
    if rules.countries is None and rules.regions is None and not (rules.excluded_countries or rules.audited_location):
        return bound or None
    return rules.countries, rules.excluded_countries, rules.regions, rules.audited_location, bound


def _bound(data: Iterable[DataSet]) -> tuple[Hashable, ...]:
    return tuple(
        (each.name, each.countries, each.excluded_countries)
        for each in data
        if each.countries is not None or each.excluded_countries
    )


def refusal(ctx: Context, offer: Offer) -> OfferRefusal | None:
    """Refuses an offer outside the job's countries and regions, or where one of its data sets may not be processed."""
    why = _breach_of_job(ctx.job, place(offer))
    return OfferRefusal(Reason.RESIDENCY_DENIED, why) if why else None


def allowed(ctx: Context, table: OfferTable) -> BoolVector:
    """The same for all offers at once."""
    return table.kinds(place).where(lambda each: not _breach_of_job(ctx.job, each))


def breach(rules: PlacementRules, where: DeclaredLocation) -> str:
    """What of `rules` a place breaks, as a sentence; empty if it breaks nothing. Case is exact."""
    return (
        _country_breach(rules.countries, rules.excluded_countries, where.country)
        or _region_breach(rules, where.region)
        or _audit_breach(rules, where)
    )


def _breach_of_job(job: Job, where: DeclaredLocation) -> str:
    return breach(job.rules, where) or _data_breach(job, where.country)


def _data_breach(job: Job, country: str) -> str:
    for each in job.data:
        if why := _country_breach(each.countries, each.excluded_countries, country):
            return f"data set {each.name} may not be processed there: {why}"
    return ""


def _country_breach(allowed_in: frozenset[str] | None, excluded: frozenset[str], country: str) -> str:
    if allowed_in is None and not excluded:
        return ""
    if not is_country(country):
        return f"country {country!r} is unknown, but the rules restrict countries"
    if country in excluded:
        return f"country {country} is excluded"
    if allowed_in is not None and country not in allowed_in:
        return f"country {country} is not among {_listed(allowed_in)}"
    return ""


def _region_breach(rules: PlacementRules, region: str) -> str:
    if rules.regions is None:
        return ""
    if not region:
        return "region is unknown, but the rules restrict regions"
    if region not in rules.regions:
        return f"region {region} is not among {_listed(rules.regions)}"
    return ""


def _audit_breach(rules: PlacementRules, where: DeclaredLocation) -> str:
    if where.audited or not rules.audited_location:
        return ""
    return f"location {where.country or 'unknown'} is self-declared, but the rules require an audited one"


def _listed(names: Iterable[str], most: int = 8) -> str:
    ordered = sorted(names)
    if not ordered:
        return "(none allowed)"
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
