"""Places: countries, legal groups, cloud regions, and the bound that light in fibre puts on a round trip.

The tables are package data in domain/data, each with its source and its date, and are read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt
from types import MappingProxyType
from typing import Final, NamedTuple

from fedgpu_operator.domain.tables import DATA, rows

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


class Country(NamedTuple):
    """A country or territory of ISO 3166-1 and its rough centre, in degrees north and east."""

    name: str
    latitude: float
    longitude: float


class CloudRegion(NamedTuple):
    """A region of a public cloud: its country (ISO 3166-1 alpha-2) and rough coordinates, in degrees north and east."""

    country: str
    latitude: float
    longitude: float


COUNTRIES: Final[Mapping[str, Country]] = MappingProxyType(
    {
        row["code"]: Country(row["name"], float(row["latitude"]), float(row["longitude"]))
        for row in rows("countries.csv")
    }
)
"""By ISO 3166-1 alpha-2 code."""

REGIONS: Final[Mapping[str, CloudRegion]] = MappingProxyType(
    {
        row["region"]: CloudRegion(row["country"], float(row["latitude"]), float(row["longitude"]))
        for row in rows("regions.csv")
    }
)
"""By the cloud's own name; no two clouds share one."""

_LAW: Final = json.loads(DATA.joinpath("groups.json").read_text(encoding="utf-8"))

LAW_DATE: Final[str] = _LAW["checked"]
"""The day on which the tables were last checked against their sources: the name of this state of the law."""

GROUPS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name: frozenset(group["members"]) for name, group in _LAW["groups"].items()}
)
"""Legal groups, strict by ISO code: overseas territories with a code of their own (RE, GF, AX) are not "EU".

Sources, notes and days are in hack/law, a file for each; `LAW_DATE` is the day of these tables.
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
            raise ValueError(f"unknown country {code!r}: use an ISO 3166-1 alpha-2 code such as 'DE'{_hint(code)}")
        resolved.add(code)
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"unknown country group {group!r}; known groups: {', '.join(sorted(GROUPS))}")
        resolved |= GROUPS[group]
    return frozenset(resolved)


def locate(*, country: str = "", region: str = "", coordinates: tuple[float, float] | None = None) -> Location:
    """A Location from what is given, the most exact fact winning: coordinates, then region, then country.

    `coordinates` are (degrees north, degrees east). A known cloud region gives country and coordinates unless
    `country` says otherwise (owners may reuse a cloud's region name); a country gives its centre.
    Raises ValueError on an unknown country, on coordinates out of range, and when nothing can be located.
    """
    if country and not is_country(country):
        raise ValueError(f"unknown country {country!r}: use an ISO 3166-1 alpha-2 code such as 'DE'{_hint(country)}")
    known = REGIONS.get(region)
    if known is not None and country in ("", known.country):
        country = known.country
    else:
        known = None
    point = _checked(coordinates) if coordinates else (known.latitude, known.longitude) if known else None
    if point is None:
        if not country:
            raise ValueError(
                f"unknown region {region!r}: set coordinates, a country, or a cloud region "
                "such as 'eu-central-1', 'europe-west3' or 'germanywestcentral'"
            )
        point = COUNTRIES[country].latitude, COUNTRIES[country].longitude
    return Location(country=country, region=region, latitude=point[0], longitude=point[1])


def point_of(location: Location) -> tuple[float, float] | None:
    """Where a place is, in degrees (north, east): its own coordinates, else its cloud region's, else None.

    A country's centre is never used here: it may lie thousands of kilometres from the machines.
    """
    if location.latitude is not None and location.longitude is not None:
        return location.latitude, location.longitude
    known = REGIONS.get(location.region)
    return (known.latitude, known.longitude) if known is not None and known.country == location.country else None


def _checked(point: tuple[float, float]) -> tuple[float, float]:
    north, east = point
    if not (-90 <= north <= 90 and -180 <= east <= 180):
        raise ValueError(f"coordinates {north}, {east} are out of range: latitude is -90 to 90, longitude -180 to 180")
    return point


def _hint(code: str) -> str:
    if code.upper() in GROUPS:
        return f"; {code.upper()!r} is a group, name it under groups"
    return f"; did you mean {code.upper()!r}?" if code.upper() in COUNTRIES else ""
