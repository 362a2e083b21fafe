"""Round trips for the oracle: great circles and measurements, from raw resources; imports nothing of the project."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import acos, cos, pi, radians, sin
from typing import Any

Raw = dict[str, Any]

POINTS = {("DE", "eu-central-1"): (50.1, 8.7), ("US", "us-east-1"): (38.9, -77.4)}
"""The cloud regions that the test worlds use; "paris" and "oslo" are regions of nobody's."""

ANTIPODES_US = int(2 * 6371.0088 * pi / 200 * 1000)


def round_trip_us(origin: Raw, place: Raw) -> int | None:
    """Light in fibre there and back, in whole µs rounded down; None where nobody said where a place is."""
    here, there = _point(origin), _point(place)
    if here is None or there is None:
        return None
    if here == there:
        return 0
    (north, east), (other_north, other_east) = ((radians(a), radians(b)) for a, b in (here, there))
    # The law of cosines: exact enough for places that are not next to each other, and none of these are.
    angle = acos(sin(north) * sin(other_north) + cos(north) * cos(other_north) * cos(east - other_east))
    return int(2 * 6371.0088 * angle / 200 * 1000)


def probe_that_counts(world: Raw, job: Raw, provider: Raw) -> Raw | None:
    """The slowest of the measurements to the origin's vantages, if all are young, of five trips, and as slow as light.

    A clock may be a minute ahead, and a vantage half a millisecond away from the place for which it stands.
    """
    rule, now = job["spec"].get("latency"), datetime.fromisoformat(world["now"])
    floor = None if rule is None else round_trip_us(rule["from"], provider["spec"]["location"])
    if rule is None or floor is None:
        return None
    counting = []
    for name in rule.get("vantages", []):
        probe = provider["status"].get("probes", {}).get(name)
        if probe is None:
            return None
        age = now - datetime.fromisoformat(probe["at"])
        young = timedelta(minutes=-1) <= age <= timedelta(seconds=rule.get("maxAgeSeconds", 86_400))
        if not young or probe["p50us"] < max(1, floor - 500) or probe["samples"] < 5:
            return None
        counting.append(probe)
    return max(counting, key=lambda each: int(each["p95us"]), default=None)


def _point(place: Raw) -> tuple[float, float] | None:
    if place.get("latitude") is not None:
        return place["latitude"], place["longitude"]
    return POINTS.get((place.get("country", ""), place.get("region", "")))
