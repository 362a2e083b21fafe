"""What the hub's API server really lets the chart's account do, and what the cluster's own roles give to people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_lab.api import ClusterApi
from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.cluster import Cluster
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import ForbiddenError, KubeError
from fedgpu_operator.hub.services.workloads import provider_namespace

OBJECTS = Path(__file__).resolve().parents[1] / "api" / "objects" / "minimal"
CONFINED = "writes only into the namespaces of providers"
SPECS = "changes no spec of a ComputeJob or GPUProvider"
JOBS = "deletes no ComputeJob but one that sets spec.ttlSecondsAfterFinished"
EPOCHS = "deletes no SettlementEpoch but one that is Paid, or pays nothing any more"
AUDITS = "must be allowed to update gpuproviders/audit"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


def until(holds: Callable[[], bool], timeout: float = 20.0) -> None:
    """Ask until it holds; fails when it does not in time."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come in time"
        time.sleep(0.1)


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except KubeError as error:
        return str(error)
    return ""


@pytest.fixture
def confined(operator: ClusterApi, unique_name: Callable[[str], str]) -> ClusterApi:
    """The operator's account, once the API server has begun to enforce the chart's admission policy."""
    body = {"metadata": {"name": unique_name("probe")}}
    until(lambda: CONFINED in refusal(lambda: operator.create("/api/v1/namespaces?dryRun=All", body)))
    return operator


@pytest.fixture
def home(confined: ClusterApi, hub: Cluster, unique_name: Callable[[str], str]) -> str:
    """A provider's namespace that the operator's account made."""
    name = provider_namespace(unique_name("owner"))
    confined.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


def test_every_kind_can_be_listed(operator: ClusterApi) -> None:
    for kind in KINDS:
        assert "items" in operator.get(f"/apis/fedgpu.dev/v1alpha1/{kind.info.plural}")


def test_a_secret_can_be_read_by_name_in_the_own_namespace_only(
    operator: ClusterApi, hub: Cluster, unique_name: Callable[[str], str]
) -> None:
    name, elsewhere = unique_name("member"), unique_name("tenant")
    hub.create_namespace(elsewhere)
    for namespace in (NAMESPACE, elsewhere):
        hub.api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}})
    assert operator.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")["metadata"]["name"] == name
    for path in (f"{NAMESPACE}/secrets", f"{elsewhere}/secrets/{name}", f"{elsewhere}/secrets"):
        with pytest.raises(ForbiddenError):
            operator.get(f"/api/v1/namespaces/{path}")


def test_what_is_published_can_be_read_by_everybody_and_written_by_the_operator_alone(
    operator: ClusterApi, hub: Cluster, unique_name: Callable[[str], str]
) -> None:
    tenant = unique_name("tenant")
    hub.create_namespace(tenant)
    hub.api.create(f"/api/v1/namespaces/{tenant}/serviceaccounts", {"metadata": {"name": "someone"}})
    token = yaml.safe_load(hub.kubeconfig_for_service_account(tenant, "someone"))["users"][0]["user"]["token"]
    someone = ClusterApi(hub.server, hub.ca_pem, token)
    maps, name = f"/api/v1/namespaces/{NAMESPACE}/configmaps", "fedgpu-settlement"
    try:
        operator.create(maps, {"metadata": {"name": name}, "data": {"hub": "here"}})
        operator.patch(f"{maps}/{name}", {"data": {"hub": "there"}})
        assert someone.get(f"{maps}/{name}")["data"] == {"hub": "there"}
        refusals: tuple[Callable[[], object], ...] = (
            lambda: someone.get(maps),
            lambda: someone.patch(f"{maps}/{name}", {"data": {"escrow": "mine"}}),
            lambda: someone.get("/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt"),
            lambda: operator.patch(f"{maps}/kube-root-ca.crt", {"data": {}}),
            lambda: operator.create(f"/api/v1/namespaces/{tenant}/configmaps", {"metadata": {"name": "there"}}),
        )
        for refused in refusals:
            with pytest.raises(ForbiddenError):
                refused()
    finally:
        someone.close()
        hub.api.delete(f"{maps}/{name}")


def test_what_others_write_cannot_be_written(operator: ClusterApi, unique_name: Callable[[str], str]) -> None:
    name = unique_name("none")
    with pytest.raises(ForbiddenError):
        operator.patch(f"/apis/fedgpu.dev/v1alpha1/placementpolicies/{name}", {"spec": {}})
    with pytest.raises(ForbiddenError):
        operator.patch(f"/apis/fedgpu.dev/v1alpha1/namespaces/default/computeaccounts/{name}", {"spec": {}})
    with pytest.raises(ForbiddenError):
        operator.delete("/api/v1/namespaces/default")


@pytest.mark.parametrize(
    ("file", "path", "change"),
    [
        ("gpuprovider", "gpuproviders", {"displayName": "Another"}),
        ("computejob", "namespaces/{}/computejobs", {"suspend": True}),
    ],
)
def test_of_a_job_or_a_provider_only_the_finalizers_can_be_changed(
    confined: ClusterApi,
    hub: Cluster,
    unique_name: Callable[[str], str],
    file: str,
    path: str,
    change: dict[str, object],
) -> None:
    body, name = yaml.safe_load((OBJECTS / f"{file}.yaml").read_text()), unique_name("held")
    body["metadata"]["name"] = name
    if "{}" in path:
        body["metadata"]["namespace"] = name
        hub.create_namespace(name)
    where = f"/apis/fedgpu.dev/v1alpha1/{path.format(name)}"
    hub.api.create(where, body)
    try:
        assert SPECS in refusal(lambda: confined.patch(f"{where}/{name}", {"spec": change}))
        confined.patch(f"{where}/{name}", {"metadata": {"finalizers": ["fedgpu.dev/test"]}})
        confined.patch(f"{where}/{name}", {"metadata": {"finalizers": []}})
    finally:
        hub.api.delete(f"{where}/{name}")


def stated(**conditions: str) -> list[dict[str, str]]:
    """Conditions as `type=status` or `type=status/reason`."""
    at = "2026-01-02T03:04:05Z"
    parts = {kind: word.partition("/") for kind, word in conditions.items()}
    return [
        {"type": kind, "status": status, "reason": reason or kind, "message": "", "lastTransitionTime": at}
        for kind, (status, _, reason) in parts.items()
    ]


PAID = {"Complete": "True", "Settled": "True/Paid"}
REFUSED = {"Failed": "True/UnknownPlace", "Admitted": "False/UnknownPlace"}


@pytest.mark.parametrize(
    ("ttl", "conditions", "seen", "deleted"),
    [
        (0, PAID, 0, True),
        (86_400, {"Failed": "True/Error", "Settled": "False/SettlementDisabled"}, 0, True),
        (None, PAID, 0, False),
        (0, PAID, -1, False),
        (0, {"Complete": "True", "Settled": "False/AwaitingEpoch"}, 0, False),
        (0, {"Running": "True", "Complete": "False", "Settled": "False/SettlementDisabled"}, 0, False),
        (0, REFUSED | {"Settled": "False/SettlementDisabled"}, 0, False),
        (0, {}, 0, False),
    ],
    ids=["paid", "failed", "no ttl", "changed since", "not settled", "runs", "refused", "new"],
)
def test_only_a_finished_job_that_asked_for_it_can_be_deleted(
    confined: ClusterApi,
    hub: Cluster,
    unique_name: Callable[[str], str],
    ttl: int | None,
    conditions: dict[str, str],
    seen: int,
    deleted: bool,
) -> None:
    body, name = yaml.safe_load((OBJECTS.parent / "full" / "computejob.yaml").read_text()), unique_name("ended")
    body["metadata"], status = {"name": name, "namespace": name}, body.pop("status")
    body["spec"].pop("ttlSecondsAfterFinished", None)
    if ttl is not None:
        body["spec"]["ttlSecondsAfterFinished"] = ttl
    hub.create_namespace(name)
    where = f"/apis/fedgpu.dev/v1alpha1/namespaces/{name}/computejobs"
    made = hub.api.create(where, body)
    mine = f"{where}/{name}"
    try:
        status |= {"conditions": stated(**conditions), "observedGeneration": made["metadata"]["generation"] + seen}
        if conditions:
            hub.api.patch(f"{mine}/status", {"status": status})
        answer = refusal(lambda: confined.delete(mine))
        assert (answer == "") is deleted
        assert (JOBS in answer) is not deleted
        assert bool(refusal(lambda: hub.api.get(mine))) is deleted
    finally:
        refusal(lambda: hub.api.delete(mine))


@pytest.mark.parametrize(
    ("conditions", "deleted"),
    [
        ({"Paid": "True", "Ready": "True"}, True),
        ({"Posted": "False/CancelledByGuardian", "Paid": "False"}, True),
        ({"Posted": "False/SupersededByAnotherSettler", "Paid": "False"}, True),
        ({"Posted": "False/NotAccepted", "Paid": "False"}, True),
        ({"Posted": "False/InsufficientFunds", "Paid": "False", "Stalled": "True/SettlerEmpty"}, False),
        ({"Posted": "True/CancelledByGuardian", "Stalled": "True/CancelledByGuardian"}, False),
        ({"Finalized": "True", "Paid": "False"}, False),
        ({}, False),
    ],
)
def test_only_an_epoch_that_has_ended_can_be_deleted(
    confined: ClusterApi, hub: Cluster, unique_name: Callable[[str], str], conditions: dict[str, str], deleted: bool
) -> None:
    path, name = "/apis/fedgpu.dev/v1alpha1/settlementepochs", unique_name("epoch")
    body = yaml.safe_load((OBJECTS.parent / "full" / "settlementepoch.yaml").read_text())
    status, body["metadata"] = body.pop("status"), {"name": name}
    hub.api.create(path, body)
    try:
        if conditions:
            hub.api.patch(f"{path}/{name}/status", {"status": status | {"conditions": stated(**conditions)}})
        answer = refusal(lambda: confined.delete(f"{path}/{name}"))
        assert (answer == "") is deleted
        assert (EPOCHS in answer) is not deleted
    finally:
        refusal(lambda: hub.api.delete(f"{path}/{name}"))


def test_only_manifests_of_epochs_can_be_deleted_of_all_that_is_published(
    confined: ClusterApi, hub: Cluster, unique_name: Callable[[str], str]
) -> None:
    maps, suffix = f"/api/v1/namespaces/{NAMESPACE}/configmaps", unique_name("one")
    manifest, other = f"fedgpu-epoch-{suffix}", f"other-{suffix}"
    for name in (manifest, other):
        hub.api.create(maps, {"metadata": {"name": name}, "immutable": True})
    try:
        assert EPOCHS in refusal(lambda: confined.delete(f"{maps}/{other}"))
        assert refusal(lambda: confined.delete(f"{maps}/{manifest}")) == ""
        with pytest.raises(ForbiddenError):
            confined.delete("/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt")
    finally:
        for left in (manifest, other):
            refusal(partial(hub.api.delete, f"{maps}/{left}"))


@pytest.fixture
def owner(hub: Cluster, unique_name: Callable[[str], str]) -> Iterator[tuple[ClusterApi, str]]:
    """Somebody who may write GPUProviders, and the name of the role that says so."""
    name = unique_name("owner")
    hub.create_namespace(name)
    hub.api.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "owner"}})
    rules = [{"apiGroups": ["fedgpu.dev"], "resources": ["gpuproviders"], "verbs": ["create", "get", "patch"]}]
    hub.api.create(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "owner", "namespace": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    hub.api.create(f"{RBAC}/clusterrolebindings", {"metadata": {"name": name}, "subjects": [subject], "roleRef": role})
    token = yaml.safe_load(hub.kubeconfig_for_service_account(name, "owner"))["users"][0]["user"]["token"]
    api = ClusterApi(hub.server, hub.ca_pem, token)
    yield api, name
    api.close()


def test_no_owner_confirms_its_own_location(confined: ClusterApi, hub: Cluster, owner: tuple[ClusterApi, str]) -> None:
    """Whoever may write GPUProviders may change all of one but its audit; that takes a right of its own."""
    (api, name), path = owner, "/apis/fedgpu.dev/v1alpha1/gpuproviders"
    body = yaml.safe_load((OBJECTS / "gpuprovider.yaml").read_text())
    body["metadata"], mine = {"name": name}, f"{path}/{name}"
    body["spec"]["acceptance"] = {"awaited": True}
    audited, withdrawn, made_up = (
        {"spec": {"locationAudit": {"hash": value}}}
        for value in (GPUProvider.parse(body).spec.location.audit_hash(), None, "0" * 32)
    )

    def told(change: dict[str, Any], by: ClusterApi = api) -> str:
        return refusal(lambda: by.patch(mine, change))

    until(lambda: not refusal(lambda: api.create(path, body)))
    try:
        until(lambda: AUDITS in told(audited))
        assert AUDITS in told(made_up)
        assert not told({"metadata": {"annotations": {"team": "mine"}}})
        by_operator = told(audited, confined)
        assert AUDITS in by_operator or "changes no spec" in by_operator, "two rules forbid it; one is quoted"
        assert not told(audited, hub.api)
        assert GPUProvider.parse(api.get(mine)).location_audited
        assert AUDITS in told(withdrawn)
        assert not told({"spec": {"location": {"country": "US"}}})
        assert not GPUProvider.parse(api.get(mine)).location_audited
        role = hub.api.get(f"{RBAC}/clusterroles/{name}")
        auditor = {"apiGroups": ["fedgpu.dev"], "resources": ["gpuproviders/audit"], "verbs": ["update"]}
        hub.api.patch(f"{RBAC}/clusterroles/{name}", {"rules": [*role["rules"], auditor]})
        until(lambda: not told(audited))
    finally:
        hub.api.delete(mine)


def test_the_sign_of_life_can_be_written_in_a_providers_namespace(confined: ClusterApi, home: str) -> None:
    leases = LEASES.format(home)
    confined.create(leases, {"metadata": {"name": "fedgpu-agent"}})
    confined.patch(f"{leases}/fedgpu-agent", {"spec": {"holderIdentity": "agent"}})
    found = confined.get("/apis/coordination.k8s.io/v1/leases", fieldSelector="metadata.name=fedgpu-agent")["items"]
    assert home in {lease["metadata"]["namespace"] for lease in found}


def test_leader_elections_of_the_cluster_are_out_of_reach(confined: ClusterApi) -> None:
    elections = LEASES.format("kube-system")
    assert CONFINED in refusal(lambda: confined.create(elections, {"metadata": {"name": "kube-scheduler"}}))
    with pytest.raises(ForbiddenError):
        confined.patch(f"{elections}/kube-controller-manager", {"spec": {"holderIdentity": "me"}})
    with pytest.raises(ForbiddenError):
        confined.get("/apis/coordination.k8s.io/v1/leases")


def test_no_namespace_can_be_changed_and_only_providers_ones_made(confined: ClusterApi, home: str) -> None:
    weaker = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    for name in ("kube-system", home):
        with pytest.raises(ForbiddenError):
            confined.patch(f"/api/v1/namespaces/{name}", weaker)
    body = {"metadata": {"name": f"not-{home}"}}
    assert CONFINED in refusal(lambda: confined.create("/api/v1/namespaces", body))


@pytest.mark.parametrize(("plural", "file"), [("computeleases", "computelease"), ("providerreports", "providerreport")])
def test_leases_and_reports_stay_in_the_namespaces_of_providers(
    confined: ClusterApi, home: str, plural: str, file: str
) -> None:
    def write(namespace: str) -> str:
        body = yaml.safe_load((OBJECTS / f"{file}.yaml").read_text())
        body["metadata"]["namespace"] = namespace
        path = f"/apis/fedgpu.dev/v1alpha1/namespaces/{namespace}/{plural}?dryRun=All"
        return refusal(lambda: confined.create(path, body))

    assert CONFINED in write("default")
    assert write(home) == ""


def test_people_get_our_kinds_with_the_roles_of_the_cluster(
    operator_service_account: str, hub: Cluster, unique_name: Callable[[str], str]
) -> None:
    tenant, person = unique_name("tenant"), unique_name("person")
    hub.create_namespace(tenant)
    hub.kubectl("create", "rolebinding", "edit", "--clusterrole=edit", f"--user={person}", f"--namespace={tenant}")

    def may(verb: str, resource: str, subresource: str = "") -> bool:
        asked = {"namespace": tenant, "verb": verb, "group": "fedgpu.dev", "resource": resource}
        body = {"spec": {"user": person, "resourceAttributes": {**asked, "subresource": subresource}}}
        answer = hub.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    until(lambda: may("create", "computejobs") and may("list", "computeaccounts"))
    assert not may("patch", "computejobs", "status")
    assert not may("patch", "computeaccounts")
    assert not may("create", "computeleases")
