"""Reasons are one list: documented, used instead of words of their own, and each of them met by some test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedgpu_operator
from fedgpu_operator.api.base import Condition
from fedgpu_operator.api.reasons import PAYS_NOTHING, ConditionReason
from fedgpu_operator.domain import faults
from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.running import MoveReason
from fedgpu_operator.errors import Refusal

SOURCES = Path(fedgpu_operator.__file__).parent
TESTS = Path(__file__).resolve().parents[2]
ARGUMENT = {
    "Finding": 2,
    "JobEvent": 1,
    "Verdict": 1,
    "event": 2,
    "InvalidResourceError": 0,
    "Hindrance": 0,
    "ReceiptVerdict": 0,
    "SignatureVerdict": 0,
}
"""Where a call takes its reason."""
PURE = {"domain", "placement", "metering", "settlement"}
"""Beneath the API or beside it: they may not import it."""
WRITERS = sorted(path for path in SOURCES.rglob("*.py") if PURE.isdisjoint(path.relative_to(SOURCES).parts[:1]))
NOT_SHOWN = {"InvalidConfigMap", "TooManyOffers"}
"""Words of errors that only a command prints."""


def literals(source: str) -> Iterator[str]:
    """Reasons that are spelled out where one of ours belongs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            for argument in node.args[ARGUMENT.get(name, len(node.args)) :][:1]:
                values = (argument.body, argument.orelse) if isinstance(argument, ast.IfExp) else (argument,)
                yield from (
                    value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
                )


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: str(path.relative_to(SOURCES)))
def test_nobody_spells_out_a_reason(path: Path) -> None:
    assert set(literals(path.read_text(encoding="utf-8"))) <= NOT_SHOWN


def test_a_reason_that_is_spelled_out_is_found() -> None:
    assert list(literals('Finding("Placed", "False", "Queued" if waits else "Placed", text)')) == ["Queued", "Placed"]


@pytest.mark.parametrize("reason", list(ConditionReason))
def test_a_reason_is_a_word_with_a_meaning(reason: ConditionReason) -> None:
    pattern = next(each.pattern for each in Condition.model_fields["reason"].metadata if hasattr(each, "pattern"))
    assert re.fullmatch(pattern, reason)
    assert reason.meaning.endswith(".")


def test_what_placement_and_attempts_say_is_among_them() -> None:
    words = {*Reason, *MoveReason, *faults.OUTCOMES, *Refusal} - {Refusal.OTHER}
    assert {str(word) for word in words} <= set(ConditionReason)


def test_each_reason_is_met_by_a_test() -> None:
    met: set[str] = set()
    for path in TESTS.rglob("*.py"):
        if path != Path(__file__).resolve():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    met |= set(re.findall(r"\w+", node.value))
                elif isinstance(node, ast.Attribute):
                    met.add(node.attr)
                elif isinstance(node, ast.Name):
                    met.add(node.id)
    assert [str(reason) for reason in ConditionReason if not {reason, reason.name} & met] == []


def test_the_chart_lets_epochs_be_deleted_by_the_same_reasons(repository: Path) -> None:
    rule = (repository / "helm" / "fedgpu-operator" / "templates" / "admission.yaml").read_text()
    (named,) = re.findall(r"c\.type == 'Posted' && c\.status == 'False'\s+&& c\.reason in \[([^\]]*)\]", rule)
    assert set(re.findall(r"'(\w+)'", named)) == PAYS_NOTHING
