"""What the chart renders: the pod's security, its environment, its volumes, and which values it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_lab.chart import Helm, chart_folder
from fedgpu_operator.bootstrap.election import LEASE
from fedgpu_operator.domain.running import Hysteresis
from fedgpu_operator.errors import LabError
from fedgpu_operator.settings import Settings

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
Find = Callable[..., Manifest]

CHAIN = {
    "enabled": True,
    "rpcURL": "https://rpc.example.com",
    "chainID": 11155111,
    "escrowAddress": "0x" + "5F" * 20,
    "epochSeconds": 1_000_000,
    "maxEpochSeconds": 1_000_000,
    "settler": {"keySecret": {"name": "settler", "key": "private-key"}},
}


def pod(deployment: Manifest) -> Manifest:
    spec: Manifest = deployment["spec"]["template"]["spec"]
    return spec


def env(deployment: Manifest) -> dict[str, str]:
    entries = pod(deployment)["containers"][0]["env"]
    values = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    assert len({entry["name"] for entry in entries}) == len(entries), "a variable is set twice"
    return values


def from_secrets(deployment: Manifest) -> dict[str, tuple[str, str]]:
    """Variable -> (Secret, entry) of those that a Secret gives."""
    entries = [entry for entry in pod(deployment)["containers"][0]["env"] if "valueFrom" in entry]
    refs = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in entries}
    return {name: (ref["name"], ref["key"]) for name, ref in refs.items()}


def key_file(deployment: Manifest, variable: str) -> Manifest:
    """The Secret volume behind a variable that names a file, whose mount is read-only and whose mode is tight."""
    file = Path(env(deployment)[variable])
    mount = next(m for m in pod(deployment)["containers"][0]["volumeMounts"] if m["mountPath"] == str(file.parent))
    volume = next(v for v in pod(deployment)["volumes"] if v["name"] == mount["name"])
    assert mount["readOnly"] is True
    assert volume["secret"]["defaultMode"] == 0o440, "only the operator's group may read it"
    entry = next(item["key"] for item in volume["secret"]["items"] if item["path"] == file.name)
    return {"secret": volume["secret"]["secretName"], "key": entry}


def test_lint_finds_nothing(helm: Helm) -> None:
    helm.run("lint", "--strict", str(chart_folder()))


def test_the_pod_is_restricted(defaults: list[Manifest], find: Find) -> None:
    spec = pod(find(defaults, "Deployment"))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()
    assert all({"hostPath", "projected"}.isdisjoint(volume) for volume in spec["volumes"])


def test_one_operator_at_a_time(defaults: list[Manifest], find: Find) -> None:
    spec = find(defaults, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert not [each for each in defaults if each["kind"] == "PodDisruptionBudget"]
    assert "topologySpreadConstraints" not in pod(find(defaults, "Deployment"))
    assert "fedgpu-leader" not in str(defaults), "an operator that elects nobody has no right to do so"


SEVERAL = {"replicas": 2, "ledger": {"urlSecret": {"name": "database"}}}


def test_of_several_replicas_one_is_elected_and_no_drain_takes_two(render: Render, find: Find) -> None:
    objects = render(SEVERAL)
    deployment = find(objects, "Deployment")
    selector = deployment["spec"]["selector"]
    assert deployment["spec"]["replicas"] == 2
    # Without one that may be missing, an update from one replica would wait for ever: the new leader gets the ledger,
    # and is ready, only when the old pod has gone.
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1},
    }
    variables = env(deployment) | {"FEDGPU_LEDGER": "postgresql://host/ledger"}
    assert Settings.from_env(variables).leader_election
    budget = find(objects, "PodDisruptionBudget")["spec"]
    assert (budget["selector"], budget["maxUnavailable"]) == (selector, 1)


def test_several_replicas_keep_apart_unless_somebody_knows_better(render: Render, find: Find) -> None:
    spread = pod(find(render(SEVERAL), "Deployment"))["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for each in spread:
        assert each["whenUnsatisfiable"] == "ScheduleAnyway", "two on one node are better than one"
        assert each["labelSelector"] == find(render(SEVERAL), "Deployment")["spec"]["selector"]
    own = SEVERAL | {"topologySpreadConstraints": [{"maxSkew": 3}]}
    assert pod(find(render(own), "Deployment"))["topologySpreadConstraints"] == [{"maxSkew": 3}]


def test_their_lease_is_the_one_that_the_operator_asks_for(render: Render, find: Find) -> None:
    objects = render(SEVERAL)
    rules = [rule for rule in find(objects, "Role", "fedgpu-operator")["rules"] if "leases" in rule["resources"]]
    assert rules == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [LEASE],
            "verbs": ["get", "patch"],
        }
    ]
    policy = find(objects, "ValidatingAdmissionPolicy", ".namespaces")["spec"]["validations"][0]["expression"]
    assert f"request.namespace == 'fedgpu-system' && request.name == '{LEASE}'" in " ".join(policy.split())


def test_no_service_can_add_variables_that_the_operator_refuses(defaults: list[Manifest], find: Find) -> None:
    # A Service called fedgpu-… would appear as FEDGPU_…_SERVICE_HOST, and unknown FEDGPU_ variables stop the operator.
    assert find(defaults, "Service")["metadata"]["name"].startswith("fedgpu-")
    assert pod(find(defaults, "Deployment"))["enableServiceLinks"] is False


def test_the_token_goes_to_the_operator_alone(defaults: list[Manifest], find: Find) -> None:
    assert find(defaults, "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod(find(defaults, "Deployment"))["automountServiceAccountToken"] is True


def test_the_probes_ask_where_the_operator_answers(render: Render, find: Find) -> None:
    deployment = find(render({"healthPort": 8181, "metrics": {"port": 9191}}), "Deployment")
    container = pod(deployment)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": 8181, "metrics": 9191}
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    settings = Settings.from_env(env(deployment))
    assert (settings.health_port, settings.metrics_port) == (8181, 9191)


def test_default_values_are_the_operators_own_defaults(defaults: list[Manifest], find: Find) -> None:
    # The chart brings the policies that make an audit or an acceptance worth something; else they cannot be known.
    held = {"FEDGPU_LOCATION_AUDIT": "true", "FEDGPU_ACCEPTANCE_ENFORCED": "true"}
    # Logs of a pod go to a collector.
    chosen = held | {"FEDGPU_LOG_FORMAT": "json"}
    assert Settings.from_env(env(find(defaults, "Deployment"))) == Settings.from_env(chosen)


@pytest.mark.parametrize("rbac", [{"confineByAdmission": False}, {"create": False}])
def test_audits_and_acceptances_count_only_with_the_policies_that_hold_them(
    render: Render, find: Find, rbac: dict[str, bool]
) -> None:
    made = render({"rbac": rbac})
    assert not [each for each in made if each["kind"] == "ValidatingAdmissionPolicy"]
    settings = Settings.from_env(env(find(made, "Deployment")))
    assert (settings.location_audit, settings.acceptance_enforced) == (False, False)
    elsewhere = render({"rbac": {**rbac, "acceptanceEnforcedElsewhere": True}})
    assert Settings.from_env(env(find(elsewhere, "Deployment"))).acceptance_enforced


def test_every_setting_reaches_the_operator(render: Render, find: Find) -> None:
    given = {
        "acceptance": "Manual",
        "defaultDeny": True,
        "resyncSeconds": 1.5,
        "heartbeatTimeoutSeconds": 2,
        "cooldownSeconds": 1_000_000,
        "rejectAfterSeconds": 4,
        "usageIntervalSeconds": 5,
        "inventoryIntervalSeconds": 6,
        "fundingWarnSeconds": 8,
        "fundingCheckpointSeconds": 7,
        "marketSeconds": 11,
        "workloadRetentionSeconds": 16,
        "rebalanceMinSavingPercent": 12,
        "rebalanceMinSavingUSD": "0.13",
        "rebalanceResidenceSeconds": 14,
        "rebalanceMovesPerPass": 15,
        "logLevel": "DEBUG",
        "logFormat": "text",
    }
    settings = Settings.from_env(env(find(render({"settings": given}), "Deployment")))
    assert settings.acceptance == "Manual"
    assert settings.default_deny is True
    assert settings.resync_seconds == 1.5
    assert settings.heartbeat_timeout_seconds == 2
    assert settings.cooldown_seconds == 1_000_000
    assert settings.reject_after_seconds == 4
    assert settings.usage_interval_seconds == 5
    assert settings.inventory_interval_seconds == 6
    assert (settings.funding_warn_seconds, settings.funding_checkpoint_seconds) == (8, 7)
    assert settings.rebalance == Hysteresis(relative=12, absolute=130_000, residence=14, most=15)
    assert (settings.market_seconds, settings.workload_retention_seconds) == (11, 16)
    assert (settings.log_level, settings.log_format) == ("DEBUG", "text")


def test_the_operator_is_told_its_own_namespace(helm: Helm, find: Find) -> None:
    deployment = find(helm.template(namespace="elsewhere"), "Deployment")
    assert Settings.from_env(env(deployment)).namespace == "elsewhere" == deployment["metadata"]["namespace"]


def test_settlement_comes_with_its_keys_as_files(render: Render, find: Find, tmp_path: Path) -> None:
    deployment = find(render({"chain": CHAIN | {"meterKeySecret": {"name": "meter"}}}), "Deployment")
    assert key_file(deployment, "FEDGPU_SETTLER_KEY_FILE") == {"secret": "settler", "key": "private-key"}
    assert key_file(deployment, "FEDGPU_METER_KEY_FILE") == {"secret": "meter", "key": "key"}

    settler, meter = tmp_path / "settler", tmp_path / "meter"
    settler.touch()
    meter.touch()
    files = {"FEDGPU_SETTLER_KEY_FILE": str(settler), "FEDGPU_METER_KEY_FILE": str(meter)}
    chain = Settings.from_env(env(deployment) | files).chain
    assert chain is not None
    assert (chain.chain_id, chain.escrow) == (11155111, CHAIN["escrowAddress"])
    assert [url.get_secret_value() for url in chain.rpc_urls] == [CHAIN["rpcURL"]]
    assert (chain.epoch_seconds, chain.auto_claim) == (1_000_000, True)
    defaults = Settings.from_env(
        {
            "FEDGPU_CHAIN_RPC_URL": "http://x",
            "FEDGPU_CHAIN_ID": "1",
            "FEDGPU_ESCROW_ADDRESS": chain.escrow,
            "FEDGPU_SETTLER_KEY_FILE": str(settler),
        }
    ).chain
    assert defaults is not None
    optional = ("first_block", "batch", "ca_file", "settler_warn_seconds", "epoch_retention_seconds")
    for name in (*optional, "rpc_quorum", "min_payout", "native_usd", "max_cost_share", "fee_cap_wei"):
        assert getattr(chain, name) == getattr(defaults, name), f"{name}: the chart's default is not the operator's"


def test_every_chain_value_reaches_the_operator(render: Render, find: Find) -> None:
    given = {
        "rpcURL": "https://a.example.com, https://b.example.com/key,https://c.example.com",
        "rpcQuorum": 3,
        "settler": {"warnSeconds": 7200, "web3signer": {"url": "http://signer:9000", "address": "0x" + "5e" * 20}},
        "epochSeconds": 60,
        "maxEpochSeconds": 90000,
        "minPayoutUSD": "12.5",
        "nativeUSD": "3120.55",
        "maxCostShare": 0.1,
        "feeCapGwei": 2.5,
        "autoClaim": False,
        "epochRetentionSeconds": 86_400,
        "firstBlock": 21_000_000,
        "batchAddress": "0x" + "cA" * 20,
    }
    deployment = find(render({"chain": CHAIN | given}), "Deployment")
    chain = Settings.from_env(env(deployment)).chain
    assert chain is not None
    assert (len(chain.rpc_urls), chain.rpc_quorum) == (3, 3)
    assert chain.settler.url is not None
    assert (chain.settler.url.get_secret_value(), chain.settler.address) == ("http://signer:9000", "0x" + "5e" * 20)
    assert (chain.epoch_seconds, chain.max_epoch_seconds) == (60, 90000)
    assert (chain.min_payout, chain.native_usd) == (12_500_000, 3_120_550_000)
    assert (chain.max_cost_share, chain.fee_cap_wei, chain.auto_claim) == (0.1, 2_500_000_000, False)
    assert chain.epoch_retention_seconds == 86_400
    assert (chain.first_block, chain.batch, chain.settler_warn_seconds) == (21_000_000, "0x" + "cA" * 20, 7200)
    assert not {volume["name"] for volume in pod(deployment)["volumes"]} & {"settler-key", "meter-key", "chain-ca"}


@pytest.mark.parametrize(
    ("value", "source", "name"), [("caConfigMap", "configMap", "name"), ("caSecret", "secret", "secretName")]
)
def test_authorities_of_ones_own_are_a_file_beside_the_keys(
    render: Render, find: Find, tmp_path: Path, value: str, source: str, name: str
) -> None:
    given = CHAIN | {value: {"name": "authorities", "key": "bundle.pem"}}
    deployment = find(render({"chain": given}), "Deployment")
    file = Path(env(deployment)["FEDGPU_CHAIN_CA_FILE"])
    mount = next(m for m in pod(deployment)["containers"][0]["volumeMounts"] if m["mountPath"] == str(file.parent))
    volume = next(v for v in pod(deployment)["volumes"] if v["name"] == mount["name"])
    assert mount["readOnly"] is True
    assert volume[source][name] == "authorities"
    assert volume[source]["items"] == [{"key": "bundle.pem", "path": file.name}]
    for file in (tmp_path / "settler", tmp_path / "ca"):
        file.touch()
    files = {"FEDGPU_SETTLER_KEY_FILE": str(tmp_path / "settler"), "FEDGPU_CHAIN_CA_FILE": str(tmp_path / "ca")}
    chain = Settings.from_env(env(deployment) | files).chain
    assert chain is not None
    assert chain.ca_file == tmp_path / "ca"


def test_a_keystore_comes_with_its_password(render: Render, find: Find) -> None:
    settler = {"keySecret": {"name": ""}, "keystoreSecret": {"name": "vault", "passwordKey": "word"}}
    deployment = find(render({"chain": CHAIN | {"settler": settler}}), "Deployment")
    assert key_file(deployment, "FEDGPU_SETTLER_KEYSTORE") == {"secret": "vault", "key": "keystore"}
    assert key_file(deployment, "FEDGPU_SETTLER_PASSWORD_FILE") == {"secret": "vault", "key": "word"}
    assert "FEDGPU_SETTLER_KEY_FILE" not in env(deployment)


def test_what_holds_a_secret_comes_from_one(render: Render, find: Find) -> None:
    chain = CHAIN | {"rpcURL": "", "rpcURLSecret": {"name": "rpc"}}
    objects = render({"chain": chain, "ledger": {"urlSecret": {"name": "books", "key": "dsn"}}})
    deployment = find(objects, "Deployment")
    assert from_secrets(deployment) == {
        "FEDGPU_LEDGER": ("books", "dsn"),
        "FEDGPU_CHAIN_RPC_URL": ("rpc", "url"),
    }
    assert not {"FEDGPU_LEDGER", "FEDGPU_CHAIN_RPC_URL"} & env(deployment).keys()
    assert "PersistentVolumeClaim" not in {o["kind"] for o in objects}
    assert "ledger" not in {volume["name"] for volume in pod(deployment)["volumes"]}
    assert "ledger" not in {mount["name"] for mount in pod(deployment)["containers"][0]["volumeMounts"]}


def test_the_ledger_survives_the_pod(defaults: list[Manifest], find: Find) -> None:
    claim, deployment = find(defaults, "PersistentVolumeClaim"), find(defaults, "Deployment")
    volume = next(v for v in pod(deployment)["volumes"] if v["name"] == "ledger")
    mount = next(m for m in pod(deployment)["containers"][0]["volumeMounts"] if m["name"] == "ledger")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert env(deployment)["FEDGPU_LEDGER"].startswith(mount["mountPath"] + "/")


def test_without_persistence_there_is_no_claim(render: Render, find: Find) -> None:
    objects = render({"persistence": {"enabled": False}})
    assert "PersistentVolumeClaim" not in {o["kind"] for o in objects}
    volume = next(v for v in pod(find(objects, "Deployment"))["volumes"] if v["name"] == "ledger")
    assert volume == {"name": "ledger", "emptyDir": {}}


def test_an_existing_claim_is_used_and_not_made(render: Render, find: Find) -> None:
    objects = render({"persistence": {"existingClaim": "books"}})
    assert "PersistentVolumeClaim" not in {o["kind"] for o in objects}
    volume = next(v for v in pod(find(objects, "Deployment"))["volumes"] if v["name"] == "ledger")
    assert volume["persistentVolumeClaim"] == {"claimName": "books"}


def test_metrics_lead_to_the_operators_pod(render: Render, find: Find) -> None:
    objects = render({"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}})
    service, monitor = find(objects, "Service"), find(objects, "ServiceMonitor")
    template = find(objects, "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_alerts_are_those_of_the_charts_file_word_for_word(
    render: Render, defaults: list[Manifest], find: Find
) -> None:
    assert "PrometheusRule" not in {each["kind"] for each in defaults}
    rule = find(render({"metrics": {"prometheusRule": {"enabled": True, "labels": {"a": "b"}}}}), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((chart_folder() / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["a"] == "b"


def test_a_network_policy_opens_nothing_but_metrics(render: Render, find: Find) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    objects = render({"networkPolicy": {"enabled": True, "metricsFrom": peers}})
    spec = find(objects, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}], "from": peers}]
    rule = {"ports": [{"port": 443, "protocol": "TCP"}]}
    restricted = find(render({"networkPolicy": {"enabled": True, "egress": [rule]}}), "NetworkPolicy")["spec"]
    assert restricted["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for port in restricted["egress"][0]["ports"]] == [53, 53]
    assert restricted["egress"][1:] == [rule]


def test_what_people_add_to_the_pod_arrives(render: Render, find: Find) -> None:
    toleration = {"key": "hub", "operator": "Exists"}
    values = {
        "podAnnotations": {"a": "1"},
        "podLabels": {"team": "gpu", "app.kubernetes.io/name": "stolen"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [toleration],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com"}],
        "image": {"repository": "example.com/fedgpu", "digest": "sha256:" + "a" * 64},
    }
    deployment = find(render(values), "Deployment")
    spec, metadata = pod(deployment), deployment["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"a": "1"}
    assert metadata["labels"]["team"] == "gpu"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"disk": "ssd"}, [toleration])
    assert (spec["affinity"], spec["topologySpreadConstraints"]) == ({"podAntiAffinity": {}}, [{"maxSkew": 1}])
    assert (spec["priorityClassName"], spec["imagePullSecrets"]) == ("high", [{"name": "pull"}])
    assert spec["containers"][0]["image"] == "example.com/fedgpu@sha256:" + "a" * 64
    assert env(deployment)["HTTPS_PROXY"] == "http://proxy.example.com"


def test_an_existing_account_is_bound_and_not_made(render: Render, find: Find) -> None:
    objects = render({"serviceAccount": {"create": False, "name": "given"}})
    assert "ServiceAccount" not in {o["kind"] for o in objects}
    assert find(objects, "ClusterRoleBinding")["subjects"][0]["name"] == "given"
    assert pod(find(objects, "Deployment"))["serviceAccountName"] == "given"
    policies = [o["spec"] for o in objects if o["kind"] == "ValidatingAdmissionPolicy"]
    of_the_operator = [spec["matchConditions"][0]["expression"] for spec in policies if "matchConditions" in spec]
    # Everybody is held to the one on acceptances, and the operator alone writes the record of it.
    of_the_operator += [each["expression"] for spec in policies for each in spec["validations"] if "user" in str(each)]
    assert len(of_the_operator) == 5
    assert all(":given'" in expression for expression in of_the_operator)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 2}, ["replicas is 2", "SQLite", "ledger.urlSecret.name"]),
        ({"replicas": 0}, ["/replicas", "minimum"]),
        ({"replicas": 1.5}, ["/replicas", "integer"]),
        ({"chain": CHAIN | {"firstBlock": -1}}, ["/chain/firstBlock"]),
        ({"chain": CHAIN | {"batchAddress": "0x5F"}}, ["/chain/batchAddress"]),
        ({"chain": CHAIN | {"caConfigMap": {"name": "a"}, "caSecret": {"name": "b"}}}, ["caConfigMap", "caSecret"]),
        ({"settings": {"resyncSecond": 30}}, ["/settings", "resyncSecond"]),
        ({"settings": {"resyncSeconds": 0}}, ["/settings/resyncSeconds", "0.05"]),
        ({"settings": {"acceptance": "Sometimes"}}, ["/settings/acceptance", "OnCreate", "Manual"]),
        ({"settings": {"defaultDeny": "yes"}}, ["/settings/defaultDeny", "want boolean"]),
        ({"settings": {"logLevel": None}}, ["/settings", "logLevel"]),
        ({"settings": {"fundingCheckpointSeconds": 86401}}, ["fundingCheckpointSeconds", "the warning comes first"]),
        ({"chain": CHAIN | {"settler": {"keySecret": {"name": ""}}}}, ["chain.settler", "none is given"]),
        ({"chain": CHAIN | {"settler": None}}, ["/chain", "settler"]),
        ({"chain": CHAIN | {"settlerKey": "0x11"}}, ["/chain", "settlerKey"]),
        (
            {"chain": CHAIN | {"settler": {"keySecret": {"name": "a"}, "keystoreSecret": {"name": "b"}}}},
            ["given are keySecret.name and keystoreSecret.name"],
        ),
        (
            {"chain": CHAIN | {"settler": {"web3signer": {"url": "http://signer"}}}},
            ["chain.settler.web3signer", "address"],
        ),
        (
            {"chain": CHAIN | {"meterKeySecret": {"name": "settler", "key": "private-key"}}},
            ["chain.meterKeySecret", "settler's own key"],
        ),
        ({"chain": CHAIN | {"rpcURLSecret": {"name": "a"}}}, ["exactly one of rpcURL and rpcURLSecret.name"]),
        ({"chain": CHAIN | {"rpcURL": ""}}, ["exactly one of rpcURL and rpcURLSecret.name"]),
        ({"chain": CHAIN | {"rpcURL": "http://a,http://b", "rpcQuorum": 3}}, ["chain.rpcQuorum", "at most all"]),
        ({"chain": CHAIN | {"rpcURL": "http://a,http://b", "rpcQuorum": 1}}, ["chain.rpcQuorum", "more than half"]),
        ({"chain": CHAIN | {"maxEpochSeconds": 999_999}}, ["chain.maxEpochSeconds", "chain.epochSeconds"]),
        ({"chain": CHAIN | {"minPayoutUSD": "1e3"}}, ["/chain/minPayoutUSD"]),
        ({"chain": CHAIN | {"maxCostShare": 5}}, ["/chain/maxCostShare", "1"]),
        (
            {"ledger": {"urlSecret": {"name": "a"}}, "persistence": {"existingClaim": "b"}},
            ["ledger.urlSecret.name and persistence.existingClaim"],
        ),
        ({"chain": CHAIN | {"rpcURL": "rpc.example.com"}}, ["/chain/rpcURL", "https?://"]),
        ({"chain": CHAIN | {"chainID": 0}}, ["/chain/chainID"]),
        ({"chain": CHAIN | {"escrowAddress": "0x5F"}}, ["/chain/escrowAddress", "{40}"]),
        ({"persistence": {"size": "big"}}, ["/persistence/size"]),
        ({"persistence": {"accessModes": ["ReadOnlyMany"]}}, ["/persistence/accessModes", "ReadWriteOnce"]),
        ({"podSecurityContext": {"runAsUser": 0}}, ["/podSecurityContext/runAsUser"]),
        ({"podSecurityContext": {"privileged": True}}, ["/podSecurityContext", "privileged"]),
        ({"serviceAccount": {"create": False}}, ["/serviceAccount/name"]),
        (
            {"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}},
            ["/metrics/service/enabled"],
        ),
        ({"healthPort": 80}, ["/healthPort", "1,024"]),
        ({"healthPort": 9090}, ["healthPort and metrics.port"]),
        (
            {"extraEnv": [{"name": "FEDGPU_LEDGER", "value": "x"}]},
            ["extraEnv", "FEDGPU_LEDGER", "docs/configuration.md"],
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(render: Render, values: Manifest, words: list[str]) -> None:
    with pytest.raises(LabError) as refused:
        render(values)
    for word in words:
        assert word in str(refused.value)
