"""Places: countries, legal groups, cloud regions, and the bound that light in fibre puts on a round trip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt
from typing import Final

from fedgpu_operator.domain.geo_countries import COUNTRIES
from fedgpu_operator.domain.geo_groups import LAW_DATE, MEMBERS
from fedgpu_operator.domain.geo_regions import REGIONS

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth, IUGG."""

FIBRE_KM_PER_MS = 200.0
"""Light travels about two thirds of c in glass (refractive index near 1.468): 204 km/ms, rounded down."""


@dataclass(frozen=True, slots=True)
class Location:
    """`country` is ISO 3166-1 alpha-2, `region` the owner's or cloud's region name; degrees north and east."""

    country: str
    region: str = ""
    latitude: float | None = None
    longitude: float | None = None


def great_circle_km(latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float) -> float:
    """Great-circle distance in km by the haversine formula; arguments in degrees."""
    lat_a, lat_b = radians(latitude_a), radians(latitude_b)
    half_lat = sin((lat_b - lat_a) / 2)
    half_lon = sin(radians(longitude_b - longitude_a) / 2)
    chord = half_lat * half_lat + cos(lat_a) * cos(lat_b) * half_lon * half_lon
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(chord)))


def round_trip_floor_ms(distance_km: float) -> float:
    """The least round trip over fibre for that distance, in ms: a lower bound, never a measurement."""
    return 2 * distance_km / FIBRE_KM_PER_MS


__all__ = ["GROUPS", "LAW_DATE", "is_country", "locate", "point_of", "resolve_countries"]

GROUPS: Final[dict[str, frozenset[str]]] = {name: frozenset(codes.split()) for name, codes in MEMBERS.items()}
"""Legal groups, strict by ISO code: overseas territories with a code of their own (RE, GF, AX) are not "EU".

Sources, notes and days stand in hack/law, a file for each; `LAW_DATE` is the day of these tables.
"""


def is_country(code: str) -> bool:
    """Whether `code` is exactly an ISO 3166-1 alpha-2 code; ``de`` is not."""
    return code in COUNTRIES


def resolve_countries(countries: Iterable[str], groups: Iterable[str] = ()) -> frozenset[str]:
    """The union of countries and groups as ISO 3166-1 alpha-2 codes; nothing given is the empty set.

    Raises ValueError naming the first unknown code or group; case is exact.
    """
    resolved: set[str] = set()
    for code in countries:
        if not is_country(code):
            raise ValueError(f"{code!r} is no ISO 3166-1 alpha-2 country code such as 'DE'{_hint(code)}")
        resolved.add(code)
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"{group!r} is no known country group; known groups: {', '.join(sorted(GROUPS))}")
        resolved |= GROUPS[group]
    return frozenset(resolved)


def locate(*, country: str = "", region: str = "", coordinates: tuple[float, float] | None = None) -> Location:
    """A Location from what is given, the most exact fact winning: coordinates, then region, then country.

    `coordinates` are (degrees north, degrees east). A known cloud region gives country and coordinates unless
    `country` says otherwise (owners may reuse a cloud's region name); a country gives its centre.
    Raises ValueError on an unknown country, on coordinates off the globe, and when nothing can be located.
    """
    if country and not is_country(country):
        raise ValueError(f"{country!r} is no ISO 3166-1 alpha-2 country code such as 'DE'{_hint(country)}")
    known = REGIONS.get(region)
    if known is not None and country in ("", known[0]):
        country = known[0]
    else:
        known = None
    point = _checked(coordinates) if coordinates else known[1:] if known else None
    if point is None:
        if not country:
            raise ValueError(
                f"region {region!r} is not known: give coordinates, a country, or a cloud region "
                "such as 'eu-central-1', 'europe-west3' or 'germanywestcentral'"
            )
        point = COUNTRIES[country][1:]
    return Location(country=country, region=region, latitude=point[0], longitude=point[1])


def point_of(location: Location) -> tuple[float, float] | None:
    """Where a place is, in degrees (north, east): its own coordinates, else its cloud region's, else None.

    A country's centre is never used here: it may lie thousands of kilometres from the machines.
    """
    if location.latitude is not None and location.longitude is not None:
        return location.latitude, location.longitude
    known = REGIONS.get(location.region)
    return known[1:] if known is not None and known[0] == location.country else None


def _checked(point: tuple[float, float]) -> tuple[float, float]:
    north, east = point
    if not (-90 <= north <= 90 and -180 <= east <= 180):
        raise ValueError(f"coordinates {north}, {east} are off the globe: latitude is -90 to 90, longitude -180 to 180")
    return point


def _hint(code: str) -> str:
    if code.upper() in GROUPS:
        return f"; {code.upper()!r} is a group, name it under groups"
    return f"; did you mean {code.upper()!r}?" if code.upper() in COUNTRIES else ""
