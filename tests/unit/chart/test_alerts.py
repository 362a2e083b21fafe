"""The chart's alerts: every metric and label of every expression is served; every alert is in the runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml
from hack.generate import Instrument, instruments
from tests.unit.chart.test_files import CHART, ROOT

RUNBOOK = ROOT / "docs" / "operations.md"
ROW = re.compile(r"^\| `(FedGPU\w+)` \| (\w+) \| (.+) \|$", re.MULTILINE)
USED = re.compile(r"\$labels\.(\w+)")

Rule = dict[str, Any]
Known = dict[str, frozenset[str]]


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    groups = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def known() -> Known:
    """Labels by the name of each series, as a scrape has them."""
    return {name: frozenset(labels) for each in instruments() for name, labels in series(each)}


def series(each: Instrument) -> Iterator[tuple[str, tuple[str, ...]]]:
    if each.kind != "histogram":
        yield each.name, each.labels
        return
    yield f"{each.name}_bucket", (*each.labels, "le")
    yield f"{each.name}_sum", each.labels
    yield f"{each.name}_count", each.labels


def nodes(node: Any) -> Iterator[Any]:
    """Every part of a parsed expression."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (inner := getattr(node, name, None)) is not None:
            yield from nodes(inner)
    for each in getattr(node, "args", None) or ():
        yield from nodes(each)


def selectors(expression: str) -> list[Any]:
    return [each for each in nodes(promql.parse(expression)) if isinstance(each, promql.VectorSelector)]


def grouped(expression: str) -> Iterator[tuple[Any, set[str]]]:
    """Each aggregation by labels, with those."""
    for each in nodes(promql.parse(expression)):
        if isinstance(each, promql.AggregateExpr) and each.modifier is not None:
            yield each, set(each.modifier.labels)


def missing(expression: str, known: Known) -> set[str]:
    """Metrics, and labels as ``metric{label}``, that the operator does not serve."""
    found = selectors(expression)
    unknown = {each.name for each in found if each.name not in known}
    for each in found:
        served = known.get(each.name, frozenset())
        unknown |= {f"{each.name}{{{m.name}}}" for m in each.matchers.matchers if m.name not in served}
    for aggregation, labels in grouped(expression):
        for name in (str(node.name) for node in nodes(aggregation) if isinstance(node, promql.VectorSelector)):
            unknown |= {f"{name}{{{label}}}" for label in labels - known.get(name, frozenset(labels))}
    return unknown


def test_every_metric_and_label_of_every_alert_is_served(rules: list[Rule], known: Known) -> None:
    assert len(rules) >= 8
    for rule in rules:
        assert selectors(rule["expr"]), rule["alert"]
        assert missing(rule["expr"], known) == set(), rule["alert"]


def test_a_metric_or_a_label_that_is_not_served_is_found(known: Known) -> None:
    assert missing("rate(fedgpu_lopp_failures_total[5m]) > 0", known) == {"fedgpu_lopp_failures_total"}
    assert missing("fedgpu_loop_pass_seconds > 1", known) == {"fedgpu_loop_pass_seconds"}
    assert missing('time() - fedgpu_jobs{stat="Running"} > 1', known) == {"fedgpu_jobs{stat}"}
    wrong = "1 < (fedgpu_jobs or sum by (loop) (increase(fedgpu_moves_total[1h])))"
    assert missing(wrong, known) == {"fedgpu_moves_total{loop}"}


def test_an_alert_says_what_is_wrong_with_labels_that_its_result_has(rules: list[Rule]) -> None:
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        used = set(USED.findall(" ".join(rule["annotations"].values())))
        kept = set().union(*(labels for _, labels in grouped(rule["expr"])))
        assert used <= kept, rule["alert"]


def test_every_alert_has_its_line_in_the_runbook(rules: list[Rule]) -> None:
    lines = ROW.findall(RUNBOOK.read_text(encoding="utf-8"))
    assert [(name, severity) for name, severity, _ in lines] == [
        (rule["alert"], rule["labels"]["severity"]) for rule in rules
    ]
    assert all(len(text) > 60 for _, _, text in lines), "what to do, in a sentence"


def test_every_metric_is_named_ours_and_says_what_it_is() -> None:
    found = instruments()
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each.name.startswith("fedgpu_")
        assert each.help.endswith(".")
        if "seconds" in each.name and each.kind == "histogram":
            assert each.name.endswith("_seconds")
