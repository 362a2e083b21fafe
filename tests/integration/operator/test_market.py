"""What a tenant is told before he hands a job in is what the hub then decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.commands import run
from tests.integration.operator.federation import COUNTRIES, PRICES, Tenant, eventually

from fedgpu_lab.chart import NAMESPACE

Json = dict[str, Any]


@pytest.fixture
def user(tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """The tenant as a person with a kubeconfig: he may view his own namespace, and nothing else."""
    hub, namespace = tenant.federation.hub, tenant.namespace
    account = f"--serviceaccount={namespace}:default"
    hub.kubectl("create", "rolebinding", "view", "--clusterrole=view", account, f"-n={namespace}")
    path = tmp_path / "kubeconfig"
    path.write_text(hub.kubeconfig_for_service_account(namespace, "default"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("FEDGPU_NAMESPACE", NAMESPACE)
    return tenant


def told(*arguments: str) -> Json:
    code, out, err = run(*arguments, "-o", "json")
    assert code == 0, err
    return dict(json.loads(out))


def row(region: str) -> Json | None:
    """The market of a region, None until the operator has published one."""
    code, out, err = run("market", "--region", region, "-o", "json")
    if code:
        assert "no operator has published a market" in err
        return None
    return next(iter(json.loads(out)["markets"]), None)


def test_a_quote_agrees_with_the_placement_that_follows_it(user: Tenant, tmp_path: Path) -> None:
    german = next(name for name, country in COUNTRIES.items() if country == "DE")
    eventually("a market with free GPUs", lambda: (found := row("DE")) is not None and found["free"] >= 2)
    asked = user.job("asked", run="", placement={"groups": ["EU"]})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(asked))
    (quote,) = told("quote", "-f", str(path))["quotes"]
    assert (quote["fits"], quote["placement"]["provider"]) == (True, german)
    assert quote["wait"]["hours"] == 0

    user.apply(asked)
    status = user.until_state("asked", "Running")
    assert status["placement"]["provider"] == german
    assert status["placement"]["price"] == quote["placement"]["price"]
    assert status["placement"]["effectivePrice"] == quote["placement"]["effectivePrice"]
    assert {each["provider"]: (each["reason"] or "", each["cost"]) for each in status["candidates"]} == {
        each["provider"]: (each["reason"] or "", each["maxCost"]) for each in quote["offers"]
    }
    assert {each["provider"] for each in quote["offers"]} == set(PRICES)


def test_work_that_finds_no_place_is_demand_in_the_market(user: Tenant, tmp_path: Path) -> None:
    # What was published while the job of another test still waited would count it for ever.
    eventually("a market in which nobody waits", lambda: (now := row("DE")) is not None and not now["wanted"])
    huge = user.job("huge", gpu={"count": 16}, placement={"countries": ["DE"]})
    user.apply(huge)
    user.until("huge", "Placed", "False", "InsufficientGPUs")
    found = eventually(
        "the waiting work to be seen",
        lambda: now if (now := row("DE")) is not None and now["wanted"] >= 16 else None,
    )
    assert found["clearing"]["high"] is None
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(huge))
    (quote,) = told("quote", "-f", str(path))["quotes"]
    assert not quote["fits"]
    assert quote["wait"]["why"]
