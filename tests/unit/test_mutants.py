"""What `make mutants` counts: hack/mutants.py on results as mutmut writes them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hack import mutants


def write(root: Path, file: str, codes: dict[str, int | None]) -> None:
    path = root / f"{file}.meta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"exit_code_by_key": codes}))


@pytest.mark.parametrize(
    ("codes", "rc", "line"),
    [
        ({"a": 1, "b": 3, "c": 36}, 0, "metering: 100.0% died: 3 killed, 0 survived, 0 not checked"),
        ({"a": 1, "b": 0}, 1, "metering: 50.0% died: 1 killed, 1 survived, 0 not checked"),
        ({"a": 1, "no-test": 33}, 1, "metering: 50.0% died: 1 killed, 1 survived, 0 not checked"),
        ({"a": 1, "stopped-before": None}, 1, "metering: 100.0% died: 1 killed, 0 survived, 1 not checked"),
        ({}, 1, "error: at least 85% of the mutants of each package must die"),
    ],
)
def test_a_package_passes_if_enough_of_its_mutants_died_and_all_were_checked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: dict[str, int | None],
    rc: int,
    line: str,
) -> None:
    write(tmp_path, "metering/usage.py", codes)
    write(tmp_path, "hub/loops/jobs.py", {})  # copied, and not mutated
    monkeypatch.setattr(mutants, "FOUND", tmp_path)
    assert mutants.main([]) == rc
    out, err = capsys.readouterr()
    assert line in (out + err).splitlines()


def test_each_package_is_held_to_it_by_itself(tmp_path: Path) -> None:
    write(tmp_path, "metering/usage.py", {"a": 0})
    write(tmp_path, "hub/services/costs.py", {"b": 1})
    write(tmp_path, "hub/services/holds.py", {"c": 1, "d": 0})
    counts = mutants.count(tmp_path.rglob("*.py.meta"), tmp_path)
    assert {name: (found.killed, found.survivors) for name, found in counts.items()} == {
        "hub/services": (2, ["d"]),
        "metering": (0, ["a"]),
    }


def test_a_part_is_one_file_and_its_own_judges() -> None:
    pyproject = (mutants.ROOT / "pyproject.toml").read_text()
    part = mutants.settings_of_part(pyproject, "src/fedgpu_operator/hub/services/costs.py", ["tests/unit/hub"])
    whole, changed = tomllib.loads(pyproject), tomllib.loads(part)
    assert changed["tool"].pop("mutmut") == whole["tool"].pop("mutmut") | {
        "only_mutate": ["src/fedgpu_operator/hub/services/costs.py"],
        "pytest_add_cli_args_test_selection": ["tests/unit/hub"],
    }
    assert changed == whole


def test_a_part_is_refused_where_the_settings_are_written_otherwise() -> None:
    with pytest.raises(SystemExit, match="has 0 lines that set only_mutate"):
        mutants.settings_of_part("", "a.py", ["tests"])
