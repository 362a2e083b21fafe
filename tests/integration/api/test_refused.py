"""Malformed objects: refused by the API server with the field and, in words, what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from fedgpu_operator.api.base import JSONObject

Sample = Callable[[str, str], JSONObject]

DROP: Final = object()
"""In place of a value: the field is taken away."""

CONTAINER: Final = "spec.template.spec.containers.0"
SHOWN: Final = {
    "path": "asked",
    "fieldRef": {"fieldPath": "metadata.annotations['fedgpu.dev/checkpoint-requested']"},
}
COUNTRY: Final = "must be an ISO 3166-1 alpha-2 country code in capitals, e.g. DE, US or GB"
MONEY: Final = "must be a decimal string of US dollars, not negative, with at most six places"
DEGREES: Final = "must be degrees from -90 to 90 as a decimal string"
MONTH: Final = "should be less than or equal to 2592000"
WALLET: Final = "must be a chain address: 0x and 40 hex digits"
SIGNATURE: Final = "must be a signature in hex: 0x and an even number of digits"
UNKNOWN: Final = "unknown field"


@dataclass(frozen=True)
class Case:
    """One field made wrong, and the words that must stand in the refusal."""

    kind: str
    path: str
    value: object
    words: tuple[str, ...]
    size: str = "minimal"


def provider(path: str, value: object, *words: str) -> Case:
    return Case("GPUProvider", path, value, words)


def job(path: str, value: object, *words: str) -> Case:
    return Case("ComputeJob", path, value, words)


LAWFUL: Final[JSONObject] = {
    "runLimitSeconds": 600,
    "template": {"spec": {"containers": [{"name": "main", "image": "registry.example/work:1"}]}},
    "data": {"sets": [{"name": "scans", "residency": {"countries": ["DE", "FR"]}}]},
}

CASES: Final = {
    # GPUProvider
    "country in words": provider("spec.location.country", "Germany", "spec.location.country", COUNTRY),
    "country in small letters": provider("spec.location.country", "de", "spec.location.country", COUNTRY),
    "country that ISO never gave": provider("spec.location.country", "UK", "(not UK)"),
    "no country": provider("spec.location.country", DROP, "spec.location.country", "Required value"),
    "latitude alone": provider("spec.location.latitude", "50.1", "spec.location", "set both or neither"),
    "latitude off the globe": provider(
        "spec.location", {"country": "DE", "latitude": "91", "longitude": "0"}, "latitude", DEGREES
    ),
    "latitude beside the pole": provider(
        "spec.location", {"country": "DE", "latitude": "90.000001", "longitude": "0"}, "latitude", DEGREES
    ),
    "longitude past the date line": provider(
        "spec.location", {"country": "DE", "latitude": "0", "longitude": "-180.5"}, "longitude", "-180 to 180"
    ),
    "latitude as a number": provider(
        "spec.location", {"country": "DE", "latitude": 50.1, "longitude": 8.7}, "latitude", "must be of type string"
    ),
    "acceptance of no hash": provider("spec.acceptance", {"hash": "yes"}, "spec.acceptance.hash", "32 hex digits"),
    "audit of no hash": provider("spec.locationAudit", {"hash": "yes"}, "spec.locationAudit.hash", "32 hex digits"),
    "drained in words": provider("spec.drain", "yes", "spec.drain", "must be of type boolean"),
    "negative price": provider("spec.offers.0.pricePerGPUHour", "-1", "spec.offers[0].pricePerGPUHour", MONEY),
    "price as a number": provider(
        "spec.offers.0.pricePerGPUHour", 1.25, "spec.offers[0].pricePerGPUHour", "must be of type string"
    ),
    "price finer than a base unit": provider("spec.offers.0.pricePerGPUHour", "1.0000001", MONEY),
    "no offers": provider("spec.offers", [], "spec.offers", "should have at least 1 items"),
    "a product twice": provider(
        "spec.offers",
        [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}, {"product": "NVIDIA-L4", "pricePerGPUHour": "2"}],
        "spec.offers[1]",
        "Duplicate value",
    ),
    "kubeconfig of another namespace": provider(
        "spec.connection.kubeconfigSecretRef.namespace",
        "kube-system",
        UNKNOWN,
        "spec.connection.kubeconfigSecretRef.namespace",
    ),
    "kubeconfig of another kind": provider(
        "spec.connection.kubeconfigSecretRef.name",
        "../configmaps/x",
        "spec.connection.kubeconfigSecretRef.name",
        "must be a Secret's name",
    ),
    "key that no Secret has": provider(
        "spec.connection.kubeconfigSecretRef.key",
        "a/b",
        "spec.connection.kubeconfigSecretRef.key",
        "must be a key of a Secret",
    ),
    "kubeconfig in the open": provider("spec.connection.kubeconfig", "…", UNKNOWN, "spec.connection.kubeconfig"),
    "mode that does not exist": provider("spec.connection.mode", "Tunnel", "spec.connection.mode", '"Push"'),
    "payout without 0x": provider(
        "spec.payout", {"address": "70997970C51812dc3A010C7d01b50e0d17dc79C8"}, "spec.payout.address", WALLET
    ),
    "payout signed for by its own key": provider(
        "spec.payout",
        {"address": "0x" + "ab" * 20, "signer": "0x" + "AB" * 20},
        "spec.payout",
        "must be another account than the payout address",
    ),
    "signer's key without a signer": provider(
        "spec.payout",
        {"address": "0x" + "ab" * 20, "signerKeySecretRef": {"name": "key"}},
        "spec.payout",
        "needs signer, the address that the key belongs to",
    ),
    "proof of half a byte": provider(
        "spec.payout",
        {"address": "0x" + "ab" * 20, "proof": {"signature": "0x1b1", "issuedAt": 1}},
        "spec.payout.proof.signature",
        SIGNATURE,
    ),
    "name too long for a namespace": provider("metadata.name", "p" * 41, "metadata.name", "at most 40 characters"),
    # ComputeJob
    "run limit in words": job("spec.runLimitSeconds", "1h30m", "spec.runLimitSeconds", "must be of type integer"),
    "run limit of nothing": job("spec.runLimitSeconds", 0, "spec.runLimitSeconds", "greater than or equal to 1"),
    "run limit of months": job("spec.runLimitSeconds", 2_592_001, "spec.runLimitSeconds", MONTH),
    "no run limit": job("spec.runLimitSeconds", DROP, "spec.runLimitSeconds", "Required value"),
    "preset and rates": job(
        "spec.strategy",
        {"preset": "Cheapest", "rates": {"usdPerMs": "1"}},
        "spec.strategy",
        "set either preset or rates, not both",
    ),
    "strategy of nothing": job("spec.strategy", {}, "spec.strategy", "set either preset or rates"),
    "unknown preset": job("spec.strategy", {"preset": "Best"}, "spec.strategy.preset", '"Cheapest"'),
    "unknown group": job("spec.placement", {"groups": ["Atlantis"]}, "spec.placement.groups[0]", '"EU"', '"EEA"'),
    "country twice": job("spec.placement", {"countries": ["DE", "DE"]}, "spec.placement.countries[1]", "Duplicate"),
    "excluded country in words": job(
        "spec.placement", {"excludedCountries": ["France"]}, "spec.placement.excludedCountries[0]", COUNTRY
    ),
    "In without values": job(
        "spec.placement",
        {"providerSelector": {"matchExpressions": [{"key": "tier", "operator": "In"}]}},
        "spec.placement.providerSelector",
        "In and NotIn need values",
    ),
    "no replicas": job("spec.replicas", 0, "spec.replicas", "greater than or equal to 1"),
    "65 replicas": job("spec.replicas", 65, "spec.replicas", "less than or equal to 64"),
    "17 GPUs on a node": job("spec.gpu", {"count": 17}, "spec.gpu.count", "less than or equal to 16"),
    "negative cap": job("spec.maxPricePerGPUHour", "-2", "spec.maxPricePerGPUHour", MONEY),
    "budget with a currency": job("spec.budget", "5 EUR", "spec.budget", MONEY),
    "deadline in words": job("spec.deadline", "tomorrow", "spec.deadline", "instant", "2026-12-31T18:00:00Z"),
    "deadline in no zone on Earth": job("spec.deadline", "2030-01-01T00:00:00+99:00", "spec.deadline", "its zone"),
    "deadline in year 0": job("spec.deadline", "0000-01-01T00:00:00Z", "spec.deadline", "1970 to 2999"),
    "latency from nowhere": job(
        "spec.latency", {"from": {}}, "latency.from", "exactly one of vantage, region, country"
    ),
    "latency from two places": job(
        "spec.latency", {"from": {"country": "SG", "region": "ap-southeast-1"}}, "latency.from", "exactly one of"
    ),
    "latency of half a point": job("spec.latency", {"from": {"latitude": "1.3"}}, "latitude with longitude"),
    "data at a provider and in a country": job(
        "spec.data",
        {"sets": [{"name": "scans", "provider": "alpha", "country": "DE"}]},
        "spec.data.sets[0]",
        "set provider or country, not both",
    ),
    "a data set twice": job("spec.data", {"sets": [{"name": "a"}, {"name": "a"}]}, "spec.data.sets[1]", "Duplicate"),
    "data in words": job(
        "spec.data", {"sets": [{"name": "a", "country": "Mars"}]}, "spec.data.sets[0].country", COUNTRY
    ),
    "data in an unknown group": job(
        "spec.data",
        {"sets": [{"name": "a", "residency": {"groups": ["NATO"]}}]},
        "spec.data.sets[0].residency.groups[0]",
        '"SWISS_ADEQUATE"',
    ),
    "egress as a number": job(
        "spec.data", {"sets": [{"name": "a", "egressPricePerGiB": 0.09}]}, "egressPricePerGiB", "must be of type string"
    ),
    "egress below nothing": provider(
        "spec.network", {"egressPricePerGiB": "-0.01"}, "spec.network.egressPricePerGiB", MONEY
    ),
    "a line of nothing": provider("spec.network", {"ingressMbps": 0}, "spec.network.ingressMbps", "equal to 1"),
    "checkpoints without end": job(
        "spec.checkpoint", {"intervalSeconds": 0}, "spec.checkpoint.intervalSeconds", "equal to 1"
    ),
    "notice of hours": job(
        "spec.disruption", {"noticeSeconds": 7200}, "spec.disruption.noticeSeconds", "equal to 3600"
    ),
    "checkpoints of lawful data nowhere": job(
        "spec",
        {**LAWFUL, "checkpoint": {"intervalSeconds": 600}},
        "spec.checkpoint",
        "needed, since a data set has a residency",
    ),
    "checkpoints outside the data's countries": job(
        "spec",
        {**LAWFUL, "checkpoint": {"intervalSeconds": 600, "country": "US"}},
        "spec.checkpoint",
        "not among the countries of a data set's residency",
    ),
    "checkpoints where the data is excluded": job(
        "spec",
        {
            **LAWFUL,
            "data": {"sets": [{"name": "scans", "residency": {"groups": ["EU"], "excludedCountries": ["HU"]}}]},
            "checkpoint": {"intervalSeconds": 600, "country": "HU"},
        },
        "spec.checkpoint",
        "among the excludedCountries of a data set",
    ),
    "policy not built yet": job("spec.failover", {"policy": "Teleport"}, "spec.failover.policy", '"KeepRunning"'),
    "no containers": job("spec.template.spec.containers", [], "spec.template.spec.containers", "at least 1 items"),
    "container name in capitals": job(f"{CONTAINER}.name", "Main", "containers[0].name", "must be a DNS label"),
    "variable name with a dash": job(
        f"{CONTAINER}.env", [{"name": "MY-VAR", "value": "1"}], "env[0].name", "must be letters, digits and '_'"
    ),
    "secret in the environment": job(
        f"{CONTAINER}.env",
        [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        UNKNOWN,
        "valueFrom",
    ),
    "memory in words": job(
        f"{CONTAINER}.resources", {"requests": {"memory": "16 GB"}}, "requests.memory", "e.g. 500m, '4' or 16Gi"
    ),
    "GPUs beside spec.gpu": job(
        f"{CONTAINER}.resources", {"limits": {"nvidia.com/gpu": "1"}}, UNKNOWN, "nvidia.com/gpu"
    ),
    "mount of no volume": job(
        f"{CONTAINER}.volumeMounts",
        [{"name": "data", "mountPath": "/data"}],
        "spec.template",
        "every volumeMounts name must be that of an entry in template.spec.volumes",
    ),
    "mount at a relative path": job(
        f"{CONTAINER}.volumeMounts",
        [{"name": "data", "mountPath": "data"}],
        "volumeMounts[0].mountPath",
        "must be an absolute path",
    ),
    "annotation of Kubernetes": job(
        "spec.template.metadata",
        {"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}},
        "spec.template",
        "a key must be one word without dots",
    ),
    "annotation of a mesh": job(
        "spec.template.metadata", {"annotations": {"sidecar.istio.io/inject": "true"}}, "spec.template", "rename it"
    ),
    "annotation of a runtime, without a slash": job(
        "spec.template.metadata",
        {"annotations": {"io.katacontainers.config.hypervisor.path": "/x"}},
        "spec.template",
        "rename it",
    ),
    "variable that takes devices": job(
        f"{CONTAINER}.env",
        [{"name": "NVIDIA_IMEX_CHANNELS", "value": "all"}],
        "spec.template",
        "remove them from env",
    ),
    "annotation key without end": job(
        "spec.template.metadata", {"annotations": {"k" * 318: ""}}, "at most 317 characters"
    ),
    "host network": job("spec.template.spec.hostNetwork", True, UNKNOWN, "spec.template.spec.hostNetwork"),
    "host processes": job("spec.template.spec.hostPID", True, UNKNOWN, "spec.template.spec.hostPID"),
    "node by name": job("spec.template.spec.nodeName", "node-1", UNKNOWN, "spec.template.spec.nodeName"),
    "service account": job("spec.template.spec.serviceAccountName", "admin", UNKNOWN, "serviceAccountName"),
    "root": job(
        "spec.template.spec.securityContext",
        {"runAsUser": 0},
        "spec.template.spec.securityContext.runAsUser",
        "greater than or equal to 1",
    ),
    "restart on the member": job(
        "spec.template.spec.restartPolicy", "OnFailure", "spec.template.spec.restartPolicy", '"Never"'
    ),
    "privileged container": job(
        f"{CONTAINER}.securityContext", {"privileged": True}, UNKNOWN, "containers[0].securityContext"
    ),
    "path of the host": job(
        "spec.template.spec.volumes",
        [{"name": "root", "emptyDir": {}, "hostPath": {"path": "/"}}],
        UNKNOWN,
        "volumes[0].hostPath",
    ),
    "volume of no kind": job(
        "spec.template.spec.volumes",
        [{"name": "root"}],
        "spec.template.spec.volumes[0]",
        "one kind, emptyDir or downwardAPI",
    ),
    "volume of two kinds": job(
        "spec.template.spec.volumes",
        [{"name": "root", "emptyDir": {}, "downwardAPI": {"items": [SHOWN]}}],
        "spec.template.spec.volumes[0]",
        "one kind, emptyDir or downwardAPI",
    ),
    "volume that shows the member's secrets": job(
        "spec.template.spec.volumes",
        [{"name": "root", "downwardAPI": {"items": [SHOWN | {"fieldRef": {"fieldPath": "spec.nodeName"}}]}}],
        "volumes[0].downwardAPI.items[0].fieldRef.fieldPath",
        "Unsupported value",
    ),
    "volume that writes elsewhere": job(
        "spec.template.spec.volumes",
        [{"name": "root", "downwardAPI": {"items": [SHOWN | {"path": "../x"}]}}],
        "volumes[0].downwardAPI.items[0].path",
        "must be a file name",
    ),
    "no spec at all": job("spec", DROP, "spec: Required value"),
    "misspelt field": job("spec.replica", 2, UNKNOWN, "spec.replica"),
    # the others
    "wallet without 0x": Case(
        "ComputeAccount", "spec.wallet", "70997970C51812dc3A010C7d01b50e0d17dc79C8", ("spec.wallet", WALLET)
    ),
    "wallet as a name": Case("ComputeAccount", "spec.wallet", "vitalik.eth", ("spec.wallet", WALLET)),
    "proof without its time": Case(
        "ComputeAccount", "spec.proof", {"signature": "0x1b"}, ("spec.proof.issuedAt", "Required value")
    ),
    "proof from before all clocks": Case(
        "ComputeAccount", "spec.proof", {"signature": "0x1b", "issuedAt": -1}, ("spec.proof.issuedAt", "greater than")
    ),
    "second account": Case("ComputeAccount", "metadata.name", "second", ("metadata.name", "named default")),
    "policy on an unknown group": Case(
        "PlacementPolicy", "spec.placement", {"groups": ["Mars"]}, ("spec.placement.groups[0]", '"GDPR_ADEQUATE"')
    ),
    "policy with a negative cap": Case(
        "PlacementPolicy", "spec.maxPricePerGPUHour", "-1", ("spec.maxPricePerGPUHour", MONEY)
    ),
    "root of 31 bytes": Case(
        "SettlementEpoch", "spec.root", "0x" + "11" * 31, ("spec.root", "must be 32 bytes in hex")
    ),
    "more tenants than a post may debit": Case(
        "SettlementEpoch", "spec.tenants", 501, ("spec.tenants", "less than or equal to 500")
    ),
    "lease without fencing epoch": Case(
        "ComputeLease", "spec.fencingEpoch", DROP, ("spec.fencingEpoch", "Required value")
    ),
    "lease of a workload without kind": Case(
        "ComputeLease", "spec.workload", {"metadata": {"name": "x"}}, ("spec.workload.kind", "Required value")
    ),
    "report of nobody": Case("ProviderReport", "spec.provider", "", ("spec.provider", "at least 1 chars")),
}


def put(document: JSONObject, path: str, value: object) -> None:
    """Set, or with DROP take away, the value at a path such as ``spec.offers.0.product``."""
    *parents, last = path.split(".")
    node: Any = document
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    if value is DROP:
        del node[last]
    else:
        node[last] = value


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_refusal_names_the_field_and_the_fix(case: Case, counter: Any, sample: Sample) -> None:
    document = sample(case.size, case.kind)
    put(document, case.path, case.value)
    told = counter.refusal(document)
    for words in case.words:
        assert words in told
    assert "rule evaluation error" not in told, "a rule must not stumble over what another one refuses"


def test_who_switches_strict_validation_off_gets_nothing_privileged_stored(desk: Any, sample: Sample) -> None:
    document = sample("minimal", "ComputeJob")
    template = document["spec"]["template"]["spec"]
    template |= {"hostNetwork": True, "nodeName": "node-1", "serviceAccountName": "admin"}
    template["containers"][0]["securityContext"] = {"privileged": True}
    template["volumes"] = [{"name": "root", "emptyDir": {}, "hostPath": {"path": "/"}}]
    stored = desk.create(document, "--validate=ignore")["spec"]["template"]["spec"]
    assert set(stored) == {"containers", "volumes", "restartPolicy", "terminationGracePeriodSeconds"}
    assert "securityContext" not in stored["containers"][0]
    assert set(stored["volumes"][0]) == {"name", "emptyDir"}
