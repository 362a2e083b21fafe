"""Countries, groups and regions: the names that rules are written in."""

from __future__ import annotations

from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hack import law_tables

from fedgpu_operator.api.placementpolicy import CountryGroup
from fedgpu_operator.domain.geo import (
    COUNTRIES,
    GROUPS,
    LAW_DATE,
    REGIONS,
    Location,
    great_circle_km,
    locate,
    point_of,
    resolve_countries,
    round_trip_floor_ms,
)


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
        "UK_ADEQUATE": 42,
        "SWISS_ADEQUATE": 42,
    }
    assert {"GB", "CH", "NO", "RE"}.isdisjoint(GROUPS["EU"])
    for adequate in ("GDPR_ADEQUATE", "UK_ADEQUATE", "SWISS_ADEQUATE"):
        assert {"US", "CA"}.isdisjoint(GROUPS[adequate]), "only some recipients there are covered"
    assert GROUPS["EU"] < GROUPS["EEA"] < GROUPS["UK_ADEQUATE"]
    assert GROUPS["EEA"] < GROUPS["SWISS_ADEQUATE"]
    assert GROUPS["EEA"] == GROUPS["EU"] | (GROUPS["EFTA"] - {"CH"})
    assert GROUPS["SCHENGEN"] == (GROUPS["EU"] - {"CY", "IE"}) | GROUPS["EFTA"]
    assert GROUPS["EEA"].isdisjoint(GROUPS["GDPR_ADEQUATE"]), "third countries only"
    assert "GB" not in GROUPS["UK_ADEQUATE"]
    assert "CH" not in GROUPS["SWISS_ADEQUATE"]


def test_every_table_of_law_says_where_it_comes_from_and_when_it_was_checked() -> None:
    groups = law_tables.load()
    assert {group.name for group in groups} == set(GROUPS) == set(get_args(CountryGroup))
    for group in groups:
        assert frozenset(group.members) == GROUPS[group.name] <= set(COUNTRIES)
        assert group.title
        assert group.note
        assert group.check
        assert all(each.instrument and each.number for each in group.source)
        assert max(each.date for each in group.source) <= group.as_of <= group.checked, "nobody checks the future"
    assert date.fromisoformat(LAW_DATE) == max(group.checked for group in groups)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"members": ["DE", "DE"]}, "a member twice"),
        ({"source": []}, "no source"),
        ({"checked": "soon"}, "checked is no day"),
        ({"group": "NATO"}, "different groups"),
    ],
)
def test_a_table_without_a_source_or_with_a_slip_is_not_taken(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    for path in law_tables.FOLDER.glob("*.yaml"):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        changed = raw | change if path.name == "g7.yaml" else raw
        (tmp_path / path.name).write_text(yaml.safe_dump(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        law_tables.load(tmp_path)


def test_countries_and_groups_resolve_to_their_union() -> None:
    assert resolve_countries(["US"], ["EEA"]) == GROUPS["EU"] | {"IS", "LI", "NO", "US"}
    assert resolve_countries([], []) == frozenset()


@pytest.mark.parametrize(
    ("countries", "groups", "said"),
    [
        (["de"], [], "did you mean 'DE'"),
        (["EU"], [], "'EU' is a group"),
        (["XX"], [], "unknown country 'XX': use an ISO 3166-1"),
        (["DE"], ["Europe"], "known groups: EEA, EFTA, EU, G7"),
        (["DE"], ["eu"], "unknown country group 'eu'"),
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
        ("", "atlantis-1", None, "unknown region 'atlantis-1': set coordinates"),
        ("", "", None, "set coordinates"),
        ("", "", (91.0, 0.0), "out of range"),
        ("", "", (float("nan"), 0.0), "out of range"),
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


@pytest.mark.parametrize("name", ["countries.csv", "regions.csv"])
def test_each_table_names_its_source_and_its_date(name: str) -> None:
    text = files("fedgpu_operator.domain").joinpath("data", name).read_text(encoding="utf-8")
    preamble = [line for line in text.splitlines() if line.startswith("#")]
    assert any("Source" in line for line in preamble)
    (dated,) = [line.removeprefix("# As of: ") for line in preamble if line.startswith("# As of: ")]
    assert date.fromisoformat(dated) <= date.fromisoformat(LAW_DATE)
