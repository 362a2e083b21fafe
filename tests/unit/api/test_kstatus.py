"""What kstatus, and with it Flux and others, reads from every kind in every state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.kstatus.objects import Case, every_case
from tests.kstatus.rules import kstatus

from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.crd import root_schema
from fedgpu_operator.api.registry import KINDS

CASES = every_case()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.text}")
def test_kstatus_reads_what_holds(case: Case) -> None:
    assert kstatus(case.object) == case.word, case.object


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.text}")
def test_at_most_one_abnormal_condition_says_why_it_is_not_ready(case: Case) -> None:
    conditions = {each["type"]: each for each in (case.status or {}).get("conditions", [])}
    abnormal = [conditions[kind] for kind in ("Reconciling", "Stalled") if kind in conditions]
    if "Ready" not in conditions:
        assert not abnormal
        return
    ready = conditions["Ready"]
    assert [each["reason"] for each in abnormal] == ([] if ready["status"] == "True" else [ready["reason"]])
    assert all(each["status"] == "True" for each in abnormal), "what does not hold is left out"


def test_every_kind_is_there_and_begins_in_progress() -> None:
    assert {case.kind for case in CASES} == {kind.info.kind for kind in KINDS}
    for kind in KINDS:
        status = root_schema(kind)["properties"].get("status")
        if status is not None:
            # The API server puts both defaults into what was just created.
            assert status["default"] == {}
            assert status["properties"]["observedGeneration"]["default"] == -1


def test_the_page_shows_the_same(repository: Path) -> None:
    page = (repository / "docs" / "conditions.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| (InProgress|Current|Failed|Terminating) \|", page, re.MULTILINE)
    assert rows == [(case.kind, case.text, case.word) for case in CASES]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.info.kind)
def test_the_page_shows_the_fields_that_can_be_selected(kind: type[Resource], repository: Path) -> None:
    page = (repository / "docs" / "conditions.md").read_text()
    (shown,) = re.findall(rf"^\| {kind.info.kind} \| (`[^|]*`) \|$", page, re.MULTILINE) or [""]
    assert re.findall(r"`([^`]+)`", shown) == [path.removeprefix(".") for path in kind.info.selectable]
