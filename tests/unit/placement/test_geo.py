"""Countries, groups and regions: the names that rules are written in."""

from __future__ import annotations

import pytest

from fedgpu_operator.domain.geo import GROUPS, locate, point_of, resolve_countries
from fedgpu_operator.domain.geo_countries import COUNTRIES
from fedgpu_operator.domain.geo_regions import REGIONS
from fedgpu_operator.domain.location import Location, great_circle_km, round_trip_floor_ms


def test_the_tables_are_whole() -> None:
    assert len(COUNTRIES) == 249
    assert all(len(code) == 2 and code.isupper() and code.isascii() for code in COUNTRIES)
    assert {country for country, _, _ in REGIONS.values()} <= set(COUNTRIES)
    assert all(members <= set(COUNTRIES) for members in GROUPS.values())
    for north, east in [row[1:] for row in (*COUNTRIES.values(), *REGIONS.values())]:
        assert -90 <= north <= 90
        assert -180 <= east <= 180


def test_every_region_lies_in_or_near_its_country() -> None:
    for name, (country, north, east) in REGIONS.items():
        distance = great_circle_km(north, east, *COUNTRIES[country][1:])
        assert distance < 4_500, f"{name} is {distance:.0f} km from the centre of {country}"


def test_groups_are_the_law_of_their_day() -> None:
    assert {name: len(members) for name, members in GROUPS.items()} == {
        "EU": 27,
        "EEA": 30,
        "EFTA": 4,
        "SCHENGEN": 29,
        "G7": 7,
        "GDPR_ADEQUATE": 14,
    }
    assert {"GB", "CH", "NO", "RE"}.isdisjoint(GROUPS["EU"])
    assert {"US", "CA"}.isdisjoint(GROUPS["GDPR_ADEQUATE"])


def test_countries_and_groups_resolve_to_their_union() -> None:
    assert resolve_countries(["US"], ["EEA"]) == GROUPS["EU"] | {"IS", "LI", "NO", "US"}
    assert resolve_countries([], []) == frozenset()


@pytest.mark.parametrize(
    ("countries", "groups", "said"),
    [
        (["de"], [], "did you mean 'DE'"),
        (["EU"], [], "'EU' is a group"),
        (["XX"], [], "'XX' is no ISO 3166-1"),
        (["DE"], ["Europe"], "known groups: EEA, EFTA, EU, G7"),
        (["DE"], ["eu"], "'eu' is no known country group"),
    ],
)
def test_an_unknown_name_is_named(countries: list[str], groups: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve_countries(countries, groups)


def test_the_most_exact_fact_locates() -> None:
    assert locate(region="europe-west3") == Location("DE", "europe-west3", 50.1, 8.7)
    assert locate(country="SG") == Location("SG", "", 1.35, 103.82)
    assert locate(country="SG", region="jurong") == Location("SG", "jurong", 1.35, 103.82)
    assert locate(country="DE", region="eu-west-1").latitude == COUNTRIES["DE"][1]
    assert locate(country="DE", region="eu-central-1", coordinates=(52.5, 13.4)) == Location(
        "DE", "eu-central-1", 52.5, 13.4
    )
    assert locate(coordinates=(0.0, 0.0)) == Location("", "", 0.0, 0.0)


@pytest.mark.parametrize(
    ("country", "region", "coordinates", "said"),
    [
        ("de", "", None, "did you mean 'DE'"),
        ("", "atlantis-1", None, "region 'atlantis-1' is not known"),
        ("", "", None, "give coordinates"),
        ("", "", (91.0, 0.0), "off the globe"),
        ("", "", (float("nan"), 0.0), "off the globe"),
    ],
)
def test_what_cannot_be_located_is_said(
    country: str, region: str, coordinates: tuple[float, float] | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        locate(country=country, region=region, coordinates=coordinates)


def test_a_country_alone_is_no_point() -> None:
    assert point_of(Location("DE")) is None
    assert point_of(Location("DE", "eu-central-1")) == (50.1, 8.7)
    assert point_of(Location("FR", "eu-central-1")) is None
    assert point_of(Location("", "", 0.0, 0.0)) == (0.0, 0.0)


def test_the_floor_of_a_round_trip() -> None:
    assert great_circle_km(0, 0, 0, 180) == pytest.approx(20_015.1, abs=0.1)
    assert great_circle_km(52.52, 13.405, 48.857, 2.352) == pytest.approx(877.5, abs=2)  # Berlin to Paris
    assert round_trip_floor_ms(100) == 1.0
