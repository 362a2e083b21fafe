"""What the verbs that read the hub tell people and programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import yaml

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.domain.text import is_clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import FakeHub

    Run = Callable[..., tuple[int, str, str]]

API = {"apiVersion": "fedgpu.dev/v1alpha1"}
TRANSACTION = "0x" + "ab" * 32


def provider(name: str, price: str, *, free: int | None, state: str = "Ready") -> JSONObject:
    inventory = [] if free is None else [{"product": "NVIDIA-L4", "nodes": 1, "total": 8, "free": free}]
    return {
        **API,
        "kind": "GPUProvider",
        "metadata": {"name": name},
        "spec": {
            "location": {"country": "DE", "region": "eu-central-1"},
            "connection": {"kubeconfigSecretRef": {"name": "x"}},
            "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": price}],
            "compliance": ["ISO27001"],
        },
        "status": {"state": state, "inventory": inventory, "conditions": []},
    }


def condition(kind: str, status: str, reason: str, message: str = "") -> JSONObject:
    when = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": when}


def job(name: str, *, namespace: str = "acme", **status: object) -> JSONObject:
    return {
        **API,
        "kind": "ComputeJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"runLimitSeconds": 3600, "template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}},
        "status": {"state": "Pending", "conditions": [], **status},
    }


def candidate(provider: str, *, reason: str = "", message: str = "") -> JSONObject:
    return {
        "provider": provider,
        "product": "NVIDIA-L4",
        "eligible": not reason,
        "reason": reason,
        "message": message,
        "price": "0.43",
        "effectivePrice": "0.444876",
        "components": {"carbon": "0.014876"},
        "cost": "0.43",
        "latencyMs": 2.1,
        "latencySource": "estimate",
        "score": 0 if reason else 100,
    }


@pytest.fixture
def placed() -> JSONObject:
    return job(
        "train",
        state="Succeeded",
        placement={
            "provider": "merlion",
            "product": "NVIDIA-L4",
            "lease": "u-1",
            "attempt": 1,
            "price": "0.43",
            "effectivePrice": "0.444876",
            "placedAt": "2026-01-01T00:00:00Z",
            "policies": ["eu@3"],
            "law": "2026-11-23",
        },
        candidates=[candidate("merlion"), candidate("spree", reason="LatencyTooHigh", message="needs 99.3 ms")],
        usage={"gpuSeconds": 7200, "cost": "0.86"},
        settlement={"epoch": 4, "postTransaction": TRANSACTION, "claimTransaction": TRANSACTION},
        conditions=[
            condition("Placed", "True", "Placed", "merlion: least effective price 0.444876 of 1 that fit"),
            condition("Settled", "True", "Paid", "paid on chain"),
        ],
    )


def test_offers_are_sorted_by_product_and_price(hub: FakeHub, run: Run) -> None:
    hub.objects = [provider("dear", "10.5", free=8), provider("cheap", "9", free=3), provider("new", "11", free=None)]
    code, out, _ = run("offers", "-o", "json")
    offers = json.loads(out)["offers"]
    assert code == 0
    assert [each["provider"] for each in offers] == ["cheap", "dear", "new"]
    assert (offers[0]["free"], offers[0]["total"], offers[0]["state"]) == (3, 8, "Ready")
    assert offers[2]["free"] is None
    assert hub.closed
    _, text, _ = run("offers")
    assert "3/8" in text
    assert "?" in text
    assert "ISO27001" in text
    assert {each["location"] for each in offers} == {"self-declared"}


def test_an_audit_confirms_the_location_that_was_shown_and_can_be_taken_back(hub: FakeHub, run: Run) -> None:
    hub.objects = [provider("spree", "1", free=8)]
    hub.objects[0]["metadata"] |= {"uid": "u-1", "resourceVersion": "7"}
    code, out, _ = run("provider", "audit", "spree")
    assert code == 0
    assert "country     DE" in out
    assert "self-declared: not confirmed" in out
    assert hub.patches == [], "looking changes nothing"
    _, out, _ = run("provider", "audit", "spree", "--confirm")
    assert "location    audited" in out
    assert hub.patches[0]["metadata"]["uid"] == "u-1"
    assert hub.patches[0]["metadata"]["resourceVersion"] == "7", "what the owner changes meanwhile is not confirmed"
    assert json.loads(run("offers", "-o", "json")[1])["offers"][0]["location"] == "self-declared", "the hub has its say"
    hub.objects[0]["status"]["locationAudited"] = True
    assert json.loads(run("offers", "-o", "json")[1])["offers"][0]["location"] == "audited"
    hub.objects[0]["spec"]["location"]["country"] = "US"
    _, out, _ = run("provider", "audit", "spree")
    assert "self-declared: changed after it was confirmed" in out
    hub.objects[0]["spec"]["location"]["country"] = "DE"
    unheld = {"type": "LocationAudited", "status": "False", "reason": "AuditNotEnforced", "message": "any owner could"}
    hub.objects[0]["status"] |= {"locationAudited": False}
    hub.objects[0]["status"].setdefault("conditions", []).append(
        {**unheld, "lastTransitionTime": "2026-11-01T12:00:00Z", "observedGeneration": 1}
    )
    assert "self-declared: any owner could" in run("provider", "audit", "spree")[1]
    _, out, _ = run("provider", "audit", "spree", "--withdraw")
    assert "self-declared: not confirmed" in out
    assert run("provider", "audit", "spree", "--confirm", "--withdraw")[0] != 0


def test_an_acceptance_is_of_what_was_shown_and_can_be_withdrawn(hub: FakeHub, run: Run) -> None:
    hub.objects = [provider("spree", "1", free=8)]
    hub.objects[0]["metadata"] |= {"uid": "u-1", "resourceVersion": "7"}
    shown = GPUProvider.parse(hub.objects[0])
    code, out, _ = run("provider", "accept", "spree")
    assert code == 0
    for text in (
        "DE, eu-central-1",
        "ISO27001",
        "Secret x key kubeconfig",
        shown.spec.acceptance_hash(),
        "none: the operator does not connect",
    ):
        assert text in out
    assert hub.patches == [], "looking changes nothing"
    _, out, _ = run("provider", "accept", "spree", "--confirm")
    assert "the operator applies it with its next pass" in out
    assert hub.patches[0] == {
        "metadata": {"uid": "u-1", "resourceVersion": "7"},
        "spec": {"acceptance": {"hash": shown.spec.acceptance_hash(), "withdrawn": None}},
    }, "what the owner changes meanwhile is not accepted"
    hub.objects[0]["status"]["acceptance"] = Acceptance.of(shown.spec, datetime(2026, 1, 1, tzinfo=UTC)).to_wire()
    assert "accepted as shown on 2026-01-01T00:00:00Z" in run("provider", "accept", "spree")[1]
    hub.objects[0]["spec"]["location"]["country"] = "US"
    assert "of an earlier spec" in run("provider", "accept", "spree")[1]
    taken = condition("Accepted", "False", "SecretTaken", "Secret x belongs to provider fjord")
    hub.objects[0]["status"]["conditions"] = [taken]
    assert "refused: Secret x belongs to provider fjord" in run("provider", "accept", "spree")[1]
    _, out, _ = run("provider", "accept", "spree", "--withdraw")
    assert "acceptance  withdrawn" in out
    assert hub.patches[-1]["spec"] == {"acceptance": {"hash": None, "withdrawn": True}}
    assert run("provider", "accept", "spree", "--confirm", "--withdraw")[0] != 0


def test_a_provider_is_drained_and_given_work_again(hub: FakeHub, run: Run) -> None:
    seen = provider("spree", "1", free=8)
    seen["status"]["leases"] = 1
    hub.objects = [seen]
    assert run("provider", "drain", "spree") == (0, "gpuprovider/spree draining; 1 lease there now\n", "")
    assert hub.patches[-1] == {"spec": {"drain": True}}
    assert run("provider", "drain", "spree", "--undo") == (0, "gpuprovider/spree no longer drained\n", "")
    assert hub.patches[-1] == {"spec": {"drain": None}}


def test_no_offers_is_said_in_words(hub: FakeHub, run: Run) -> None:
    assert run("offers") == (0, "No offers found: no GPUProvider has been applied yet.\n", "")


def test_explain_shows_where_why_there_and_who_was_refused(hub: FakeHub, run: Run, placed: JSONObject) -> None:
    hub.objects = [placed]
    code, out, _ = run("explain", "train")
    assert code == 0
    for wanted in (
        "acme/train is Succeeded",
        "least effective price 0.444876 of 1 that fit",
        "eu@3; country groups as of 2026-11-23",
        "carbon 0.014876",
        "LatencyTooHigh",
        "needs 99.3 ms",
        "2.1 ms (estimate)",
        "7200 GPU-seconds, 0.86 USD",
        "epoch 4",
        TRANSACTION,
        "fedgpu-provider-merlion/u-1",
    ):
        assert wanted in out


def test_explain_of_a_refused_job_begins_with_the_histogram(hub: FakeHub, run: Run) -> None:
    histogram = "0/5 providers fit: 3 ResidencyDenied, 2 InsufficientGPUs"
    hub.objects = [job("stuck", conditions=[condition("Placed", "False", "ResidencyDenied", histogram)])]
    _, out, _ = run("explain", "stuck")
    assert histogram in out.splitlines()[1]
    _, text, _ = run("explain", "stuck", "-o", "yaml")
    document = yaml.safe_load(text)
    assert document["why"] == histogram
    assert document["placement"] is None


def test_explain_of_a_job_nobody_judged_says_so(hub: FakeHub, run: Run) -> None:
    hub.objects = [job("new")]
    assert "not processed by the operator yet; check that it is running" in run("explain", "new")[1]


def test_cost_adds_up_in_base_units(hub: FakeHub, run: Run, placed: JSONObject) -> None:
    open_one = job("open", state="Running", usage={"gpuSeconds": 1800, "cost": "0.100001"})
    elsewhere = job("else", namespace="other", usage={"gpuSeconds": 3600, "cost": "5"})
    hub.objects = [placed, open_one, elsewhere]
    document = json.loads(run("cost", "-o", "json")[1])
    assert [each["name"] for each in document["jobs"]] == ["open", "train"]
    assert document["totals"] == {
        "jobs": 2,
        "gpuSeconds": 9000,
        "gpuHours": 2.5,
        "cost": "0.960001",
        "settled": "0.86",
        "unsettled": "0.100001",
    }
    assert document["jobs"][1]["claimTransaction"] == TRANSACTION
    assert len(json.loads(run("cost", "-A", "-o", "json")[1])["jobs"]) == 3
    assert len(json.loads(run("cost", "train", "-o", "json")[1])["jobs"]) == 1
    assert "0.86 settled, 0.100001 unsettled" in run("cost")[1]


def test_the_namespace_is_that_of_the_context_unless_given(hub: FakeHub, run: Run) -> None:
    hub.objects = [job("here"), job("there", namespace="other")]
    assert run("explain", "here")[0] == 0
    assert run("explain", "there")[0] == 1
    assert run("explain", "-n", "other", "there")[0] == 0


def test_the_context_is_passed_on(hub: FakeHub, run: Run) -> None:
    run("offers", "--context", "main")
    assert hub.context == "main"


def test_a_whole_terminal_line_is_not_wrapped_when_piped(hub: FakeHub, run: Run, placed: JSONObject) -> None:
    hub.objects = [placed]
    assert any(TRANSACTION in line and "train" in line for line in run("cost")[1].splitlines())


STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r\u2028"


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_no_text_in_an_object_can_steer_the_terminal(hub: FakeHub, run: Run, output: str) -> None:
    """Whoever wrote it: members' words come to a status by several hands."""
    text = f"denied {STEERING} größer 大きい"
    hub.objects = [
        job(
            "stuck",
            conditions=[condition("Placed", "False", "NoOffer", text)],
            candidates=[candidate("b", reason="X", message=text)],
        )
    ]
    code, out, _ = run("explain", "stuck", "-o", output)
    assert code == 0
    assert is_clean(out)
    assert "owned" in out
    if output == "table":
        assert "größer" in out
    else:
        shown = json.loads(out) if output == "json" else yaml.safe_load(out)
        assert shown["why"] == text, "data stays what it is, written another way"


def test_data_without_such_text_is_written_as_it_reads(hub: FakeHub, run: Run) -> None:
    hub.objects = [job("stuck", conditions=[condition("Placed", "False", "NoOffer", "größer 大きい")])]
    for output in ("json", "yaml"):
        assert "größer 大きい" in run("explain", "stuck", "-o", output)[1]


@pytest.mark.parametrize(
    ("verb", "condition_type", "reason"),
    [("accept", "Accepted", "SecretTaken"), ("audit", "LocationAudited", "AuditNotEnforced")],
)
def test_no_word_about_a_provider_can_steer_the_terminal(
    hub: FakeHub, run: Run, verb: str, condition_type: str, reason: str
) -> None:
    seen = provider("spree", "1", free=8)
    if verb == "audit":
        seen["spec"]["locationAudit"] = {"hash": GPUProvider.parse(seen).spec.location.audit_hash()}
    seen["status"]["conditions"] = [condition(condition_type, "False", reason, f"denied {STEERING}")]
    hub.objects = [seen]
    code, out, _ = run("provider", verb, "spree")
    assert code == 0
    assert "denied" in out
    assert is_clean(out)
