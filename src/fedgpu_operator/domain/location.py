"""Places on Earth and the bound that light in fibre puts on a round trip."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt

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
