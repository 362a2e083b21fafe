"""Vantages: measuring points near users that stand for places which latency is counted from; values only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from fedgpu_operator.domain.geo import Location, great_circle_km, locate, point_of
from fedgpu_operator.domain.job import LatencyRule

NEAR_KM: Final = 50.0
"""A vantage within this distance of a place stands for it: half a millisecond of light in fibre, there and back."""


_WORD: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
MAX_VANTAGES: Final = 32
"""As many as a report's spec can list."""
MAX_URL: Final = 512


@dataclass(frozen=True, slots=True)
class Vantage:
    """An endpoint that agents measure round trips to: its name, its http(s) URL, and where it stands."""

    name: str
    url: str
    location: Location


def with_vantages(rule: LatencyRule, vantages: Iterable[Vantage]) -> LatencyRule:
    """The rule with the vantages that stand for its origin: the one it names, else those of its region or near it.

    A rule that names a vantage takes its place from it.
    Raises ValueError if the named vantage is not among `vantages`.
    """
    known = {vantage.name: vantage for vantage in vantages}
    if rule.vantages:
        missing = sorted(rule.vantages - set(known))
        if missing:
            names = ", ".join(sorted(known)) or "none"
            raise ValueError(f"unknown vantage {missing[0]!r}; vantages of this hub: {names}")
        return replace(rule, origin=known[min(rule.vantages)].location)
    return replace(rule, vantages=frozenset(name for name, each in known.items() if _stands_for(each, rule.origin)))


def _stands_for(vantage: Vantage, origin: Location) -> bool:
    if origin.region and (vantage.location.region, vantage.location.country) == (origin.region, origin.country):
        return True
    here, there = point_of(origin), point_of(vantage.location)
    return here is not None and there is not None and great_circle_km(*here, *there) <= NEAR_KM


def parse_vantages(text: str) -> tuple[Vantage, ...]:
    """The measuring points of a JSON list of {name, url, and region or country or latitude with longitude}.

    Raises ValueError that names the entry and the fix.
    """
    try:
        entries = json.loads(text) if text else []
    except ValueError as error:
        raise ValueError(f"must be a JSON list: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ValueError('must be a JSON list such as [{"name": …, "url": …, "region": …}]')
    vantages = tuple(_vantage(f"entry {i}", each) for i, each in enumerate(entries))
    if len({each.name for each in vantages}) < len(vantages):
        raise ValueError("names must be unique")
    if len(vantages) > MAX_VANTAGES:
        raise ValueError(f"at most {MAX_VANTAGES} entries, not {len(vantages)}")
    return vantages


def _vantage(where: str, entry: Mapping[str, object]) -> Vantage:
    if unknown := sorted(set(entry) - {"name", "url", "country", "region", "latitude", "longitude"}):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    name, url, country, region = (str(entry.get(key, "")) for key in ("name", "url", "country", "region"))
    if not _WORD.fullmatch(name):
        raise ValueError(f"{where}: name must be a word such as frankfurt-1, not {name!r}")
    _refuse_url(where, url)
    point = _point(where, entry.get("latitude"), entry.get("longitude"))
    if region == country == "" and point is None:
        raise ValueError(f"{where}: location missing: set region, country, or latitude and longitude")
    try:
        return Vantage(name, url, locate(country=country, region=region, coordinates=point))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _refuse_url(where: str, url: str) -> None:
    """Owners' probers read it, so nothing in it may be a secret; what is refused is not repeated in the message."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in {"http", "https"} and bool(parts.hostname) and len(url) <= MAX_URL
        secret = parts.username is not None or parts.password is not None or "?" in url or "#" in url
    except ValueError as error:
        raise ValueError(f"{where}: invalid url") from error
    if not fit:
        raise ValueError(f"{where}: url must be an http or https URL of at most {MAX_URL} characters")
    if secret:
        raise ValueError(
            f"{where}: url must not contain a user, password, query or fragment, since every owner's prober reads it"
        )


def _point(where: str, north: object, east: object) -> tuple[float, float] | None:
    if isinstance(north, int | float) and isinstance(east, int | float):
        return float(north), float(east)
    if north is None and east is None:
        return None
    raise ValueError(f"{where}: latitude and longitude must be two numbers, in degrees")
