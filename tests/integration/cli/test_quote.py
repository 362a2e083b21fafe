"""A job that kubectl would be refused gets no quote: a real API server judges it, with the asker's own rights."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.operator.federation import eventually

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.cli import main
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.market import Premium
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.hub.services.market import MarketDocument, QuotedOffer, publish_market

L4 = "NVIDIA-L4-quote-test"
COUNT = "count/computejobs.fedgpu.dev"
Json = dict[str, Any]


@dataclass(frozen=True)
class Asker:
    """A person with a kubeconfig, a namespace, and a folder for files; `system` is where the market is published."""

    hub: Cluster
    namespace: str
    system: str
    folder: Path

    def job(self, **spec: Any) -> Json:
        body = {
            "runLimitSeconds": 3600,
            "gpu": {"count": 2, "products": [L4]},
            "template": {"spec": {"containers": [{"name": "a", "image": "example.com/a:1"}]}},
        }
        return {
            "apiVersion": "fedgpu.dev/v1alpha1",
            "kind": "ComputeJob",
            "metadata": {"name": "asked", "namespace": self.namespace},
            "spec": {**body, **spec},
        }

    def quote(self, document: Json) -> tuple[int, str, str]:
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(document))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["quote", "-f", str(path), "--operator-namespace", self.system, "-o", "json"])
        return code, out.getvalue(), err.getvalue()

    def quoted(self, document: Json) -> Json:
        code, out, err = self.quote(document)
        assert (code, err) == (0, "")
        (found,) = json.loads(out)["quotes"]
        return dict(found)

    def refused(self, document: Json, *words: str) -> None:
        """Refused by both, kubectl and the quote, in the same words."""
        shown = self.hub.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(document), check=False)
        assert shown.returncode != 0
        code, out, err = self.quote(document)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {self.folder}/job.yaml: ComputeJob asked: ")
        for each in words:
            assert each in shown.stderr
            assert each in err

    def stored(self) -> list[str]:
        listed = json.loads(self.hub.kubectl("get", "computejobs", "-n", self.namespace, "-o", "json").stdout)
        return [each["metadata"]["name"] for each in listed["items"]]


@pytest.fixture
def asker(
    hub: Cluster,
    operator_service_account: str,
    tmp_path: Path,
    unique_name: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asker:
    """Who may edit its own namespace, on a hub that publishes one offer and settles nothing."""
    del operator_service_account
    namespace, system = unique_name("asker"), unique_name("system")
    hub.create_namespace(namespace)
    hub.create_namespace(system)
    account = f"--serviceaccount={namespace}:default"
    hub.kubectl("create", "rolebinding", "edit", "--clusterrole=edit", account, f"-n={namespace}")
    hub.kubectl("create", "rolebinding", "view", "--clusterrole=view", account, f"-n={system}")
    monkeypatch.setenv("KUBECONFIG", str(hub.kubeconfig))
    asyncio.run(offer_published(system))
    path = tmp_path / "kubeconfig"
    path.write_text(hub.kubeconfig_for_service_account(namespace, "default"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return Asker(hub, namespace, system, tmp_path)


async def offer_published(namespace: str) -> None:
    kube = await connect()
    try:
        offer = Offer("berlin", GpuModel(L4, 24_000, "ada-lovelace"), MicroUSD(500_000), Location("DE"), {4: 2})
        document = MarketDocument(
            at=datetime.now(UTC),
            certified=True,
            markets=(),
            offers=(QuotedOffer(offer, Premium(MicroUSD(0), MicroUSD(0)), 0),),
            history=(),
            window=24,
            waiting_jobs=0,
            waiting_gpus=0,
            default_deny=False,
            vantages=(),
        )
        await publish_market(kube, namespace, document)
    finally:
        await kube.close()


def test_what_the_schema_and_its_rules_refuse_gets_no_quote(asker: Asker) -> None:
    scans = {"sets": [{"name": "scans", "residency": {"countries": ["DE", "FR"]}}]}
    asker.refused(
        asker.job(data=scans, checkpoint={"intervalSeconds": 600}),
        "spec.checkpoint",
        "needed, since a data set has a residency",
    )
    asker.refused(
        asker.job(strategy={"preset": "Cheapest", "rates": {"usdPerMs": "1"}}), "set either preset or rates, not both"
    )
    asker.refused(asker.job(runLimitSeconds=2595600), "runLimitSeconds", "less than or equal to 2592000")
    asker.refused(asker.job(replica=2), 'unknown field "spec.replica"')
    asker.refused(asker.job(replicas=65), "spec.replicas", "less than or equal to 64")
    asker.refused(asker.job(deadline="2030-01-01"), "spec.deadline", "must be an instant of the years 1970 to 2999")
    assert asker.stored() == []


def test_what_admission_or_a_quota_refuses_gets_no_quote(asker: Asker) -> None:
    name, namespace = asker.namespace, asker.namespace
    asker.hub.apply(
        [
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": name},
                "spec": {
                    "matchConstraints": {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                        "resourceRules": [
                            {
                                "apiGroups": ["fedgpu.dev"],
                                "apiVersions": ["*"],
                                "operations": ["CREATE"],
                                "resources": ["computejobs"],
                            }
                        ],
                    },
                    "validations": [
                        {"expression": "has(object.spec.budget)", "message": "spec.budget: this hub wants one"}
                    ],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": {"policyName": name, "validationActions": ["Deny"]},
            },
        ]
    )
    try:
        eventually("the policy to bind", lambda: asker.quote(asker.job())[0] == 1)
        asker.refused(asker.job(), "spec.budget: this hub wants one")
        assert asker.quoted(asker.job(budget="50"))["checkedByServer"]
    finally:
        asker.hub.kubectl("delete", "validatingadmissionpolicies,validatingadmissionpolicybindings", name)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace}}
    asker.hub.apply([{**quota, "spec": {"hard": {COUNT: "0"}}}])
    # The lab runs no quota controller, which would count what is there.
    counted = json.dumps({"status": {"hard": {COUNT: "0"}, "used": {COUNT: "0"}}})
    asker.hub.kubectl("patch", "quota", "none", "-n", namespace, "--subresource=status", "--type=merge", "-p", counted)
    eventually("the quota to count", lambda: "exceeded quota" in asker.quote(asker.job(budget="50"))[2])
    asker.refused(asker.job(budget="50"), "forbidden: exceeded quota: none")


def test_what_it_takes_is_quoted_and_not_stored(asker: Asker) -> None:
    found = asker.quoted(asker.job())
    assert (found["placement"]["provider"], found["checkedByServer"]) == ("berlin", True)
    assert found["checked"] == "by the API server, which would accept it"
    assert asker.stored() == []
    asker.hub.apply([asker.job()])
    assert "already has one of this name" in asker.quoted(asker.job())["checked"]
    asker.refused(asker.job(runLimitSeconds=2595600), "less than or equal to 2592000")
    nameless = asker.job()
    nameless["metadata"] = {"generateName": "asked-", "namespace": asker.namespace}
    assert asker.quoted(nameless)["name"] == "asked-"


def test_who_may_not_create_is_told_who_judged(asker: Asker) -> None:
    asker.hub.kubectl("delete", "rolebinding", "edit", "-n", asker.namespace)
    found = eventually(
        "the right to be gone",
        lambda: found if not (found := asker.quoted(asker.job()))["checkedByServer"] else None,
    )
    assert found["fits"]
    assert found["checked"].startswith(f"by this command only: you may not create ComputeJobs in {asker.namespace}")
    code, _, err = asker.quote(asker.job(replica=2))
    assert (code, "unknown field spec.replica" in err) == (1, True)


def test_a_namespace_that_is_not_there_is_refused(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(asker.hub.kubeconfig))
    document = asker.job()
    document["metadata"]["namespace"] = gone = f"{asker.namespace}-gone"
    asker.refused(document, f'namespaces "{gone}" not found')
