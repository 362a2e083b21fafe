"""The report says what is, and its verdict falls with the first thing that does not hold."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fedgpu_lab.audit import Account, Audit
from fedgpu_lab.demo_compare import Alternative
from fedgpu_lab.demo_report import (
    Check,
    JobResult,
    ProviderResult,
    Report,
    conservation,
    document,
    percent,
    show,
)
from fedgpu_operator.domain.money import MicroUSD

TRANSACTION = "0x" + "12ab" * 16
WALLET = "0x" + "c8" * 20


@pytest.fixture
def report() -> Report:
    placed = JobResult(
        name="eu-fine-tuning",
        namespace="acme-research",
        state="Succeeded",
        provider="spree-collective",
        product="NVIDIA-H100-80GB-HBM3",
        reason="Placed",
        why="least effective price 1.25 of 2 that fit; 4 refused",
        effective_price="1.25",
        gpu_seconds=56,
        cost=19_444,
        settled=True,
        transaction=TRANSACTION,
        alternatives={
            "gpu-cloud": Alternative("gpu-cloud", None, None, "ResidencyDenied"),
            "hyperscaler": Alternative("hyperscaler", "atlas-cloud", MicroUSD(93_955), ""),
        },
    )
    refused = JobResult(
        name="over-budget",
        namespace="pixelforge",
        state="Pending",
        provider=None,
        product=None,
        reason="OverBudget",
        why="0/6 providers fit: 5 OverBudget, 1 HardwareMismatch",
        effective_price=None,
        gpu_seconds=0,
        cost=0,
        settled=False,
        transaction="",
        alternatives={},
    )
    audit = Audit(
        block=79,
        deposited=1_000_000,
        paid=19_444,
        withdrawn=0,
        held=980_556,
        accounts={"0x01": Account(980_000, 500, 56)},
        owed=0,
        paid_to={WALLET: 19_444},
        problems=(),
    )
    provider = ProviderResult("spree-collective", "decentralized", "DE", 56, 19_444, 19_444, WALLET)
    return Report([placed, refused], [provider], audit, [Check("Ends", ok=True, detail="all")], [86_391], 61.3)


def as_text(report: Report, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    show(report, console)
    return console.export_text()


def test_the_json_object_has_every_promised_field(report: Report) -> None:
    found = json.loads(json.dumps(document(report)))
    assert {"providers", "jobs", "escrow", "conserved", "seconds"} <= found.keys()
    assert {"name", "state", "provider", "reason", "effectivePrice", "cost", "settled"} <= found["jobs"][0].keys()
    escrow = found["escrow"]
    assert {"deposited", "paid", "withdrawn", "balances", "allocated", "pending", "held"} <= escrow.keys()
    assert all(isinstance(value, int) for value in escrow.values())
    assert escrow["deposited"] - escrow["paid"] - escrow["withdrawn"] == escrow["held"]
    assert escrow["balances"] + escrow["allocated"] + escrow["pending"] == escrow["held"]
    assert found["conserved"] is True
    assert found["jobs"][0]["cost"] == "0.019444"
    assert found["jobs"][1]["provider"] is None


def test_the_tables_show_where_why_and_what_was_saved(report: Report) -> None:
    text = as_text(report)
    for wanted in ("spree-collective", "least effective price 1.25", "0.019444", "79 %", "unlawful"):
        assert wanted in text
    assert "0x12ab12…12ab" in text
    assert "OverBudget" in text
    assert "0.0156" in text  # GPU-hours
    assert "86391 s" in text


@pytest.mark.parametrize("width", [80, 100, 132, 160])
def test_no_width_loses_a_figure(report: Report, width: int) -> None:
    text = as_text(report, width)
    for figure in ("eu-fine-tuning", "spree-collective", "1.25", "0.019444", "79 %", "0x12ab12…12ab", "0.0156"):
        assert figure in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_conservation_line_is_the_identity_in_units(report: Report) -> None:
    line = conservation(report.audit)
    assert line == (
        "1000000 in − 19444 paid − 0 withdrawn = 980556 held = 980000 balances + 500 allocated + 56 pending"
    )
    broken = replace(report.audit, problems=("a unit is missing",))
    assert "≠" in conservation(broken)
    assert document(replace(report, audit=broken))["conserved"] is False


def test_one_failed_check_fails_the_demo_and_is_shown(report: Report) -> None:
    failed = replace(report, checks=[*report.checks, Check("Paid", ok=False, detail="fjord earned 5, was paid 4")])
    assert report.holds
    assert not failed.holds
    text = as_text(failed)
    assert "✗ Paid: fjord earned 5, was paid 4" in text
    assert "does not hold" in text


@pytest.mark.parametrize(
    ("paid", "price", "text"), [(0, 0, "–"), (50, 100, "50 %"), (100, 100, "0 %"), (5, 4, "-25 %")]
)
def test_percentages(paid: int, price: int, text: str) -> None:
    assert percent(paid, price) == text
