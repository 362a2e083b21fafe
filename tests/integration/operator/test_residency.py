"""Law that comes with data binds every attempt, and the status says which policy and which state of the law it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from tests.integration.operator.conftest import clear
from tests.integration.operator.federation import Federation, Json, Tenant, eventually, manifest

from fedgpu_operator.domain.geo import LAW_DATE

SCANS: Final[Json] = {"name": "scans", "sizeGiB": 10, "residency": {"groups": ["EEA"]}}
"""May be processed in alpha's country, and not in beta's, which is the cheaper one."""


@pytest.fixture
def clinic(running: Federation) -> Iterator[Tenant]:
    """A tenant whose policy lets both members serve it: what refuses beta here is the data alone."""
    label = {"law": f"law-{uuid4().hex[:8]}"}
    policy = {"namespaceSelector": {"matchLabels": label}, "placement": {"groups": ["EEA", "G7"]}}
    running.hub.apply([manifest("PlacementPolicy", "clinic", policy)])
    tenant = running.tenant(usd=100, labels=label)
    yield tenant
    clear(tenant)
    running.hub.kubectl("delete", "ppol", "clinic")


def audit(federation: Federation, folder: Path, *words: str) -> str:
    """`fedgpu provider audit alpha` as an admin runs it."""
    kubeconfig = folder / "admin.yaml"
    kubeconfig.write_text(federation.hub.kubeconfig_text())
    done = subprocess.run(
        [sys.executable, "-m", "fedgpu_operator", "provider", "audit", "alpha", *words],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusals(tenant: Tenant, name: str) -> dict[str, str]:
    """What each provider's candidate says, by provider."""
    return {each["provider"]: each.get("message", "") for each in tenant.status(name).get("candidates", [])}


def test_data_of_the_eea_stays_there_also_on_its_second_attempt(
    clinic: Tenant, running: Federation, tmp_path: Path
) -> None:
    job = clinic.job("scan", run="", data={"sets": [SCANS]}, checkpoint={"intervalSeconds": 600, "country": "DE"})
    clinic.apply(job)
    first = clinic.until_state("scan", "Running")["placement"]
    assert (first["provider"], first["attempt"]) == ("alpha", 1)
    assert (first["policies"], first["law"]) == (["clinic@1"], LAW_DATE)
    assert "data set scans may not be processed there: country US is not among" in refusals(clinic, "scan")["beta"]

    clinic.patch("scan", suspend=True)
    clinic.until_state("scan", "Suspended")
    running.hub.api.patch(
        "/apis/fedgpu.dev/v1alpha1/placementpolicies/clinic", {"spec": {"placement": {"auditedLocation": True}}}
    )
    clinic.patch("scan", suspend=False)
    placed = clinic.until("scan", "Placed", "False", "PolicyDenied")
    assert placed["message"] == "0/2 providers fit: 1 ResidencyDenied, 1 PolicyDenied"
    assert "policy clinic@2: location DE is self-declared" in refusals(clinic, "scan")["alpha"]
    assert len(clinic.leases("scan")) == 1, "law comes before capacity: nowhere rather than outside"

    assert "self-declared: not confirmed" in audit(running, tmp_path)
    try:
        assert "location    audited" in audit(running, tmp_path, "--confirm")
        running.until_provider("alpha", "LocationAudited", "True")
        second = clinic.until_state("scan", "Running")["placement"]
        assert (second["provider"], second["attempt"]) == ("alpha", 2)
        assert (second["policies"], second["law"]) == (["clinic@2"], LAW_DATE)
        assert {lease["spec"]["provider"] for lease in clinic.leases("scan")} == {"alpha"}
        assert clinic.workloads("beta") == []
    finally:
        audit(running, tmp_path, "--withdraw")
    running.until_provider("alpha", "LocationAudited", "False")


def test_data_that_no_law_lets_be_anywhere_together_is_told_so(clinic: Tenant) -> None:
    american = {"name": "census", "residency": {"countries": ["US"]}}
    clinic.apply(
        clinic.job("torn", data={"sets": [SCANS, american]}),
        clinic.job("lost", data={"sets": [{"name": "x", "provider": "nobody"}]}),
    )
    torn = clinic.until("torn", "Failed", "True", "ResidencyConflict")
    assert "the residency of census, scans" in torn["message"]
    lost = clinic.until("lost", "Failed", "True", "UnknownProvider")
    assert "spec.data.sets[x].provider: this hub has no GPUProvider nobody" in lost["message"]
    eventually("nothing to be leased", lambda: not clinic.leases())


def test_what_a_run_costs_beside_its_price_is_told_part_by_part(clinic: Tenant) -> None:
    far = {"name": "weights", "sizeGiB": 100, "country": "DE", "egressPricePerGiB": "0.09"}
    near = {"name": "scans", "sizeGiB": 50, "provider": "alpha"}
    clinic.apply(
        clinic.job(
            "dear",
            dryRun=True,
            runLimitSeconds=995,
            checkpoint={"intervalSeconds": 200},
            data={"sets": [far, near], "outputGiB": 1},
        )
    )
    clinic.until("dear", "Placed", "False", "DryRun")
    parts = {each["provider"]: each.get("components", {}) for each in clinic.status("dear")["candidates"]}
    # 995 s and 5 s of grace: 3.6 runs an hour. 100 GiB at 0.09 USD; 0.12 USD are assumed where nobody said.
    assert parts["alpha"] == {"egress": "32.40", "egressAssumed": "0.432", "rerun": parts["alpha"]["rerun"]}
    assert parts["beta"] == {"egress": "32.40", "egressAssumed": "22.032", "rerun": parts["beta"]["rerun"]}
    assert float(parts["alpha"]["rerun"]) > 0
