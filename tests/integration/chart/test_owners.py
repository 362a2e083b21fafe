"""Two owners, a platform admin and a tenant with the roles that the chart gives: what each can do to whom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from fedgpu_lab.api import ClusterApi
from fedgpu_lab.chart import NAMESPACE, Helm
from fedgpu_lab.cluster import Cluster
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.errors import KubeError, NotFoundError
from fedgpu_operator.hub.services.workloads import provider_namespace

Json = dict[str, Any]
Act = Callable[["Person", str], object]

OBJECTS = Path(__file__).resolve().parents[1] / "api" / "objects" / "minimal"
PROVIDERS = "/apis/fedgpu.dev/v1alpha1/gpuproviders"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = f"{NAMESPACE}.fedgpu-operator"
DRY = "?dryRun=All"

ALLOWED = ""
ROLE = " cannot "
"""In what RBAC says when a role is missing."""
ACCEPT = "spec.acceptance: setting, changing or removing hash or withdrawn needs the right"
AWAITS = "spec.acceptance.awaited: must be true"
AUDITS = "must be allowed to update gpuproviders/audit"
STATUS = "status.acceptance: only the operator writes it"


@dataclass
class Person:
    """Somebody with a token, and the provider that is theirs; empty if none is."""

    api: ClusterApi
    kubeconfig: Path
    provider: str = ""


@dataclass
class People:
    hub: Cluster
    anna: Person
    bert: Person
    platform: Person
    tenant: Person
    tenants_namespace: str


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except NotFoundError:
        return ""
    except KubeError as error:
        return str(error)
    return ""


def until(holds: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def offer(name: str, **acceptance: str | bool) -> Json:
    """A GPUProvider with that `spec.acceptance`."""
    body: Json = yaml.safe_load((OBJECTS / "gpuprovider.yaml").read_text())
    body["metadata"] = {"name": name}
    body["spec"]["acceptance"] = acceptance
    body["spec"]["connection"]["kubeconfigSecretRef"] = {"name": name}
    return body


def digest(name: str) -> str:
    return GPUProvider.parse(offer(name)).spec.acceptance_hash()


def said(**acceptance: str | bool | None) -> Json:
    return {"spec": {"acceptance": acceptance}}


@pytest.fixture(scope="module")
def people(
    hub: Cluster, helm: Helm, operator_service_account: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[People]:
    """Bound as docs/rbac.md says; both providers are there, accepted by a cluster admin."""
    tag, folder = uuid4().hex[:8], tmp_path_factory.mktemp("people")
    home = f"people-{tag}"
    hub.create_namespace(home)

    def person(name: str, provider: str = "") -> Person:
        hub.api.create(f"/api/v1/namespaces/{home}/serviceaccounts", {"metadata": {"name": name}})
        text = hub.kubeconfig_for_service_account(home, name)
        path = folder / f"{name}.yaml"
        path.write_text(text)
        token = yaml.safe_load(text)["users"][0]["user"]["token"]
        return Person(ClusterApi(hub.server, hub.ca_pem, token), path, provider)

    def bind(role: str, *names: str, namespace: str = "") -> None:
        accounts = [f"--serviceaccount={home}:{name}" for name in names]
        kind = ["rolebinding", f"--namespace={namespace}"] if namespace else ["clusterrolebinding"]
        hub.kubectl("create", *kind, f"{role}-{tag}", f"--clusterrole={role}", *accounts)

    made = People(
        hub,
        person("anna", f"anna-{tag}"),
        person("bert", f"bert-{tag}"),
        person("platform"),
        person("tenant"),
        home,
    )
    bind(f"{ROLES}-platform", "platform")
    bind(f"{ROLES}-enlist", "anna", "bert")
    bind("edit", "tenant", namespace=home)
    owners = []
    for name, each in (("anna", made.anna), ("bert", made.bert)):
        space = provider_namespace(each.provider)
        hub.create_namespace(space)
        bind(f"{ROLES}-work", name, namespace=space)
        owners.append(
            {"provider": each.provider, "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": home}]}
        )
        hub.api.create(PROVIDERS, offer(each.provider, hash=digest(each.provider), awaited=True))
    hub.apply([one for one in helm.template({"rbac": {"owners": owners}}) if "-owner-" in one["metadata"]["name"]])
    try:
        one, it = made.anna, f"{PROVIDERS}/{made.anna.provider}{DRY}"
        until(lambda: ACCEPT in refusal(lambda: one.api.patch(it, said(hash="0" * 32))), "the policy")
        until(
            lambda: not refusal(lambda: made.platform.api.patch(it, {"metadata": {"annotations": {"team": "x"}}})),
            "the roles",
        )
        yield made
    finally:
        for each in (made.anna, made.bert):
            hub.api.delete(f"{PROVIDERS}/{each.provider}")
        for each in (made.anna, made.bert, made.platform, made.tenant):
            each.api.close()


# ---- the matrix: what it is, and what comes of it for (an owner itself, the other owner, a platform admin, a tenant)


def patched(change: Json, sub: str = "") -> Act:
    return lambda who, name: who.api.patch(f"{PROVIDERS}/{name}{sub}{DRY}", change)


def accepted(**acceptance: str | bool | None) -> Act:
    return patched(said(**acceptance))


def created(**acceptance: str | bool) -> Act:
    """Under a name that is free: nobody has a role for it by name."""
    return lambda who, name: who.api.create(PROVIDERS + DRY, offer(f"new-{name}", **acceptance))


def replaced(who: Person, name: str) -> object:
    """As `kubectl replace` with a file that knows nothing of the acceptance."""
    body = offer(name, awaited=True)
    body["metadata"]["resourceVersion"] = who.api.get(f"{PROVIDERS}/{name}")["metadata"]["resourceVersion"]
    return who.api.update(f"{PROVIDERS}/{name}{DRY}", body)


def removed(who: Person, name: str) -> object:
    return who.api.delete(f"{PROVIDERS}/{name}", dryRun="All")


def read(who: Person, name: str) -> object:
    return who.api.get(f"{PROVIDERS}/{name}")


def within(plural: str, name: str = "", sub: str = "") -> str:
    return f"/apis/fedgpu.dev/v1alpha1/namespaces/{provider_namespace(name)}/{plural}{sub}"


def listed(plural: str) -> Act:
    return lambda who, name: who.api.get(within(plural, name))


def changed(plural: str, sub: str = "") -> Act:
    return lambda who, name: who.api.patch(within(plural, name, f"/{name}{sub}{DRY}"), {})


def leased(who: Person, name: str) -> object:
    body = yaml.safe_load((OBJECTS / "computelease.yaml").read_text())
    body["metadata"]["namespace"] = provider_namespace(name)
    return who.api.create(within("computeleases", name, DRY), body)


def secrets(who: Person, _name: str) -> object:
    return who.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/whatever")


OWN_SECRET = {"spec": {"connection": {"kubeconfigSecretRef": {"name": "of-somebody-else"}}}}
MATRIX: dict[str, tuple[Act, str, str, str, str]] = {
    "read it": (read, ALLOWED, ALLOWED, ALLOWED, ROLE),
    "change its offer": (patched({"spec": {"displayName": "x"}}), ALLOWED, ROLE, ALLOWED, ROLE),
    "move it to another country": (patched({"spec": {"location": {"country": "DE"}}}), ALLOWED, ROLE, ALLOWED, ROLE),
    "name another's Secret": (patched(OWN_SECRET), ALLOWED, ROLE, ALLOWED, ROLE),
    "drain it": (patched({"spec": {"drain": True}}), ALLOWED, ROLE, ALLOWED, ROLE),
    "accept it": (accepted(hash="0" * 32), ACCEPT, ROLE, ALLOWED, ROLE),
    "withdraw its acceptance": (accepted(withdrawn=True), ACCEPT, ROLE, ALLOWED, ROLE),
    "remove its acceptance": (accepted(hash=None), ACCEPT, ROLE, ALLOWED, ROLE),
    "replace it without its acceptance": (replaced, ACCEPT, ROLE, ALLOWED, ROLE),
    "claim that it does not wait": (accepted(awaited=None), AWAITS, ROLE, ALLOWED, ROLE),
    "claim that otherwise": (accepted(awaited=False), AWAITS, ROLE, ALLOWED, ROLE),
    "audit it": (patched({"spec": {"locationAudit": {"hash": "0" * 32}}}), AUDITS, ROLE, ALLOWED, ROLE),
    "write its status": (patched({"status": {"state": "Ready"}}, "/status"), ROLE, ROLE, ROLE, ROLE),
    "delete it": (removed, ALLOWED, ROLE, ALLOWED, ROLE),
    "create one that waits": (created(awaited=True), ALLOWED, ALLOWED, ALLOWED, ROLE),
    "create one as if accepted": (created(), AWAITS, AWAITS, ALLOWED, ROLE),
    "create one with an acceptance": (
        created(awaited=True, hash="0" * 32),
        ACCEPT,
        ACCEPT,
        ALLOWED,
        ROLE,
    ),
    "see its leases": (listed("computeleases"), ALLOWED, ROLE, ROLE, ROLE),
    "see its report": (listed("providerreports"), ALLOWED, ROLE, ROLE, ROLE),
    "write a lease": (leased, ROLE, ROLE, ROLE, ROLE),
    "write a lease's status": (changed("computeleases", "/status"), ROLE, ROLE, ROLE, ROLE),
    "write its report": (changed("providerreports"), ROLE, ROLE, ROLE, ROLE),
    "write its report's status": (changed("providerreports", "/status"), ROLE, ROLE, ROLE, ROLE),
    "read members' Secrets": (secrets, ROLE, ROLE, ROLE, ROLE),
}


@pytest.mark.parametrize("what", MATRIX)
def test_what_each_can_do_to_a_provider(people: People, what: str) -> None:
    act, *expected = MATRIX[what]
    mine = people.anna.provider
    for person, outcome in zip((people.anna, people.bert, people.platform, people.tenant), expected, strict=True):
        told = refusal(lambda who=person: act(who, mine))  # type: ignore[misc]
        assert (outcome in told) if outcome else told == "", f"{what} as {person.kubeconfig.stem}: {told or 'allowed'}"


def test_an_owner_works_with_kubectl_as_people_do(people: People) -> None:
    """Its file carries `acceptance.awaited` for good; what it does not say of the acceptance stays as it is."""
    hub, anna = people.hub, people.anna
    name = f"kubectl-{uuid4().hex[:8]}"
    mine = offer(name, awaited=True) | {"apiVersion": "fedgpu.dev/v1alpha1", "kind": "GPUProvider"}
    as_anna = ("--kubeconfig", str(anna.kubeconfig))
    hub.kubectl(*as_anna, "create", "-f", "-", input=yaml.safe_dump(mine))
    try:
        hub.kubectl("patch", "gpup", name, "--type=merge", "-p", json.dumps(said(hash=digest(name))))
        owner = {"kind": "ServiceAccount", "name": "anna", "namespace": people.tenants_namespace}
        rules = [{"apiGroups": ["fedgpu.dev"], "resources": ["gpuproviders"], "verbs": ["*"], "resourceNames": [name]}]
        hub.api.create(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        hub.api.create(f"{RBAC}/clusterrolebindings", {"metadata": {"name": name}, "subjects": [owner], "roleRef": ref})
        until(lambda: not refusal(lambda: anna.api.patch(f"{PROVIDERS}/{name}", {"metadata": {}})), "the role")
        for way in (("apply",), ("apply", "--server-side", "--force-conflicts")):
            mine["spec"]["displayName"] = " ".join(way)
            hub.kubectl(*as_anna, *way, "-f", "-", input=yaml.safe_dump(mine))
            found = hub.api.get(f"{PROVIDERS}/{name}")
            assert found["spec"]["displayName"] == " ".join(way)
            assert found["spec"]["acceptance"] == {"awaited": True, "hash": digest(name), "withdrawn": False}
        stolen = {**mine, "spec": {**mine["spec"], "acceptance": {"awaited": True, "hash": "0" * 32}}}
        for way in (("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",)):
            done = hub.kubectl(*as_anna, *way, "-f", "-", input=yaml.safe_dump(stolen), check=False)
            assert done.returncode != 0
            assert "needs the right to update gpuproviders/accept" in done.stderr
    finally:
        hub.api.delete(f"{PROVIDERS}/{name}")


BOUND: dict[str, Json] = {
    "location": {"location": {"country": "US"}},
    "claims": {"compliance": ["HIPAA"]},
    "connection": {"connection": {"kubeconfigSecretRef": {"key": "other"}}},
    "payout": {"payout": {"address": "0x" + "66" * 20}},
    "no payout": {"payout": None},
    "signer": {"payout": {"signer": "0x" + "77" * 20}},
    "signer's key": {"payout": {"signerKeySecretRef": {"name": "other", "key": "key"}}},
}
FREE: dict[str, Json] = {
    "price": {"offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "9"}]},
    "limits": {"limits": {"maxLeases": 3}},
    "proof": {"payout": {"proof": {"signature": "0x" + "1b" * 65, "issuedAt": 1767323045}}},
}


def test_what_an_admin_created_is_accepted_as_created_and_as_nobody_else_changed_it(people: People) -> None:
    """A provider without the mark holds, in what is bound, only what people with the right wrote."""
    hub, anna = people.hub, people.anna
    path = f"{PROVIDERS}/{anna.provider}"
    before = hub.api.get(path)["spec"]
    payout = {"address": "0x" + "11" * 20, "signer": "0x" + "22" * 20, "signerKeySecretRef": {"name": "a", "key": "k"}}
    hub.api.patch(path, {"spec": {"payout": payout, "acceptance": {"awaited": None}}})
    try:
        for what, change in BOUND.items():
            assert AWAITS in refusal(lambda it=change: anna.api.patch(path + DRY, {"spec": it})), what  # type: ignore[misc]
            marked = {"spec": {**change, "acceptance": {"awaited": True}}}
            assert refusal(lambda it=marked: anna.api.patch(path + DRY, it)) == "", what  # type: ignore[misc]
            assert refusal(lambda it=change: people.platform.api.patch(path + DRY, {"spec": it})) == "", what  # type: ignore[misc]
        for what, change in FREE.items():
            assert refusal(lambda it=change: anna.api.patch(path + DRY, {"spec": it})) == "", what  # type: ignore[misc]
    finally:
        hub.api.patch(path, {"spec": {"payout": None, **before}})


def test_not_even_a_careless_role_for_the_status_makes_an_owner_accepted(people: People) -> None:
    hub, anna = people.hub, people.anna
    name = f"careless-{uuid4().hex[:8]}"
    rules = [{"apiGroups": ["fedgpu.dev"], "resources": ["gpuproviders/status"], "verbs": ["patch"]}]
    hub.api.create(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": "anna", "namespace": people.tenants_namespace}
    hub.api.create(f"{RBAC}/clusterrolebindings", {"metadata": {"name": name}, "subjects": [subject], "roleRef": ref})
    try:
        mine = f"{PROVIDERS}/{anna.provider}/status{DRY}"
        until(lambda: not refusal(lambda: anna.api.patch(mine, {"status": {"state": "Ready"}})), "the role")
        record = Acceptance.of(GPUProvider.parse(offer(anna.provider)).spec, datetime(2026, 1, 1, tzinfo=UTC))
        assert STATUS in refusal(lambda: anna.api.patch(mine, {"status": {"acceptance": record.to_wire()}}))
    finally:
        hub.api.delete(f"{RBAC}/clusterrolebindings/{name}")


def test_the_operator_may_write_the_acceptance_but_not_accept(people: People, operator: ClusterApi) -> None:
    it = f"{PROVIDERS}/{people.anna.provider}"
    told = refusal(lambda: operator.patch(it + DRY, said(withdrawn=True)))
    assert ACCEPT in told or "the fedgpu operator changes no spec" in told, "two rules forbid it; one is quoted"
    record = {"hash": digest(people.anna.provider), "acceptedAt": "2026-01-01T00:00:00Z"}
    operator.patch(f"{it}/status{DRY}", {"status": {"acceptance": record}})
    operator.patch(it + DRY, {"metadata": {"finalizers": ["fedgpu.dev/provider"]}})
