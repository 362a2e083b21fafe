"""Job → status and provider → status, as pairs of files in cases/: `NAME.input.yaml` and `NAME.output.yaml`.

An input holds what is known (see statuscases.py), its output the whole status that follows. After a change that is
meant, `WRITE_CASES=1 pytest tests/unit/hub/test_statuscases.py` writes the outputs anew: review them with `git diff`.
"""

from __future__ import annotations

import os
from difflib import unified_diff

import pytest
from tests.unit.hub.statuscases import (
    CASES,
    INPUT,
    KINDS,
    OUTPUT,
    Kind,
    job_input,
    names,
    output_file,
    provider_input,
    to_yaml,
)

from fedgpu_operator.hub.views import jobs


@pytest.fixture(autouse=True)
def law_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """New tables of country groups change no case."""
    monkeypatch.setattr(jobs, "LAW_DATE", "2026-01-01")


def same(kind: Kind, name: str, text: str) -> None:
    """Compare with the output file; with WRITE_CASES set, write that instead."""
    file = output_file(kind, name)
    if os.environ.get("WRITE_CASES"):
        file.write_text(text, encoding="utf-8")
        pytest.skip(f"{file.name} was written, not compared")
    wanted = file.read_text(encoding="utf-8") if file.exists() else ""
    diff = "".join(unified_diff(wanted.splitlines(True), text.splitlines(True), file.name, "status now"))
    assert not diff, f"the status differs from {kind}/{file.name}:\n{diff}"


@pytest.mark.parametrize("name", names("jobs"))
def test_the_status_of_a_job_is_the_one_in_the_file(name: str) -> None:
    same("jobs", name, to_yaml(job_input(name).status()))


@pytest.mark.parametrize("name", names("providers"))
def test_the_status_of_a_provider_is_the_one_in_the_file(name: str) -> None:
    same("providers", name, to_yaml(provider_input(name).status()))


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_lacks_its_other_half(kind: Kind) -> None:
    files = {each.name for each in (CASES / kind).iterdir()}
    assert files == {f"{name}{half}" for name in names(kind) for half in (INPUT, OUTPUT)}
