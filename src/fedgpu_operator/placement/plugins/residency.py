"""Residency: where the law lets the work run; a fact the owner did not state never satisfies a rule."""

from __future__ import annotations

from collections.abc import Iterable

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import is_country
from fedgpu_operator.domain.job import PlacementRules
from fedgpu_operator.domain.location import Location
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal


def refusal(ctx: Context, offer: Offer) -> Refusal | None:
    """Refuses an offer outside the job's countries and regions."""
    why = breach(ctx.job.rules, offer.location)
    return Refusal(Reason.RESIDENCY_DENIED, why) if why else None


def breach(rules: PlacementRules, location: Location) -> str:
    """What of `rules` a place breaks, as a sentence; empty where it breaks nothing. Case is exact."""
    return _country_breach(rules, location.country) or _region_breach(rules, location.region)


def _country_breach(rules: PlacementRules, country: str) -> str:
    if rules.countries is None and not rules.excluded_countries:
        return ""
    if not is_country(country):
        return f"its country {country!r} is not known, and the rules need one"
    if country in rules.excluded_countries:
        return f"country {country} is excluded"
    if rules.countries is not None and country not in rules.countries:
        return f"country {country} is not among {_listed(rules.countries)}"
    return ""


def _region_breach(rules: PlacementRules, region: str) -> str:
    if rules.regions is None:
        return ""
    if not region:
        return "its region is not known, and the rules need one"
    if region not in rules.regions:
        return f"region {region} is not among {_listed(rules.regions)}"
    return ""


def _listed(names: Iterable[str], most: int = 8) -> str:
    ordered = sorted(names)
    if not ordered:
        return "the none allowed"
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
