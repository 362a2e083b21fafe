"""Least privilege: no wildcard, no right beyond docs/rbac.md, and no reason there without its right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedgpu_operator.api.registry import KINDS

Manifest = dict[str, Any]
Find = Callable[..., Manifest]
Rule = tuple[str, str, str, str]
"""(role, group/resources, names, verbs), each as the documentation writes it."""

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "rbac.md"
ROLES = ("ClusterRole", "Role")
OPERATOR = "fedgpu-operator"
USERS = ("-view", "-edit", "-admin", "-published", "-platform", "-enlist", "-owner-acme", "-work")
OWNERS = {"rbac": {"owners": [{"provider": "acme", "subjects": [{"kind": "User", "name": "anna"}]}]}}


def rules(objects: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    for one in objects:
        if one["kind"] in ROLES:
            for rule in one["rules"]:
                yield one, rule


def rendered(objects: list[Manifest]) -> set[Rule]:
    def role(one: Manifest) -> str:
        name: str = one["metadata"]["name"]
        kind: str = one["kind"]
        return kind + next((ending.removesuffix("-acme") for ending in USERS if name.endswith(ending)), "")

    return {
        (
            role(one),
            ", ".join(f"{group or 'core'}/{name}" for group in rule["apiGroups"] for name in sorted(rule["resources"])),
            ", ".join(rule.get("resourceNames", [])),
            ", ".join(sorted(rule["verbs"])),
        )
        for one, rule in rules(objects)
    }


def documented() -> list[Rule]:
    found = []
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            assert cells[4], f"no reason is given: {line}"
            role, group, verbs = cells[0].strip("`"), cells[1], cells[3]
            resources = re.findall(r"`([^`]+)`", cells[2])
            names = re.findall(r"named `([^`]+)`", cells[2])
            things = ", ".join(f"{group}/{name}" for name in sorted(set(resources) - set(names)))
            found.append((role, things, ", ".join(names), ", ".join(sorted(verbs.split(", ")))))
    return found


def test_there_are_no_wildcards(defaults: list[Manifest]) -> None:
    for _, rule in rules(defaults):
        assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
        assert not any("*" in word for words in rule.values() for word in words), rule


def test_no_right_opens_the_way_to_others(defaults: list[Manifest]) -> None:
    closed = {"bind", "escalate", "impersonate", "deletecollection", "approve", "sign"}
    for _, rule in rules(defaults):
        assert closed.isdisjoint(rule["verbs"])
        assert {"pods", "pods/exec", "nodes", "serviceaccounts/token"}.isdisjoint(rule["resources"])
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


def test_secrets_are_read_by_name_in_the_own_namespace_only(defaults: list[Manifest], find: Find) -> None:
    granting = [(one, rule) for one, rule in rules(defaults) if "secrets" in rule["resources"]]
    assert [(one["kind"], rule["verbs"]) for one, rule in granting] == [("Role", ["get"])]
    assert granting[0][0]["metadata"]["namespace"] == find(defaults, "Deployment")["metadata"]["namespace"]


def test_the_roles_are_exactly_those_of_the_documentation(render: Callable[..., list[Manifest]]) -> None:
    table = documented()
    assert len(table) == len(set(table)), "a rule stands twice in docs/rbac.md"
    several = {"replicas": 2, "ledger": {"urlSecret": {"name": "database"}}}
    assert set(table) == rendered(render(OWNERS | several))
    assert rendered(render(OWNERS)) < set(table)


def test_without_the_policies_that_hold_it_the_operator_may_delete_nothing_but_leases(
    defaults: list[Manifest], render: Callable[..., list[Manifest]]
) -> None:
    def deletable(objects: list[Manifest]) -> set[str]:
        mine = (rule for one, rule in rules(objects) if not one["metadata"]["name"].endswith(USERS))
        return {name for rule in mine if "delete" in rule["verbs"] for name in rule["resources"]}

    assert deletable(defaults) == {"computejobs", "computeleases", "configmaps", "settlementepochs"}
    assert deletable(render({"rbac": {"confineByAdmission": False}})) == {"computeleases"}


def test_an_owner_gets_its_own_provider_and_nothing_by_default(
    defaults: list[Manifest], render: Callable[..., list[Manifest]], find: Find
) -> None:
    assert not [one for one in defaults if "-owner-" in one["metadata"]["name"]]
    made = render(OWNERS)
    role, binding = (find(made, kind, "-owner-acme") for kind in ("ClusterRole", "ClusterRoleBinding"))
    assert [rule["resourceNames"] for rule in role["rules"]] == [["acme"]]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "User", "name": "anna"}]


def test_every_kind_can_be_watched(defaults: list[Manifest], find: Find) -> None:
    role = find(defaults, "ClusterRole", OPERATOR)
    watched = {
        name for rule in role["rules"] if {"get", "list", "watch"} <= set(rule["verbs"]) for name in rule["resources"]
    }
    assert {kind.info.plural for kind in KINDS} <= watched


def test_the_operator_is_the_only_subject_but_for_what_is_published(defaults: list[Manifest], find: Find) -> None:
    account = find(defaults, "ServiceAccount")["metadata"]
    subject = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    bindings = [one for one in defaults if one["kind"] in {"ClusterRoleBinding", "RoleBinding"}]
    public = [binding for binding in bindings if binding["subjects"] != [subject]]
    assert (len(bindings), len(public)) == (3, 1)
    assert [each["name"] for each in public[0]["subjects"]] == ["system:authenticated"]
    role = find(defaults, "Role", public[0]["roleRef"]["name"])
    assert role["rules"] == [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    assert pod_account(find(defaults, "Deployment")) == account["name"]


def test_nobody_but_the_operator_may_write_what_the_hub_writes(render: Callable[..., list[Manifest]]) -> None:
    """And only platform admins hold the rights that owners must not have, under whatever name a role joins another."""
    people = {"computejobs", "computeaccounts", "gpuproviders", "placementpolicies"}
    for one, rule in rules(render(OWNERS)):
        name = one["metadata"]["name"]
        if name.endswith(USERS) and set(rule["verbs"]) - {"get", "list", "watch"}:
            virtual = {"gpuproviders/accept", "gpuproviders/audit"} if name.endswith("-platform") else set()
            assert set(rule["resources"]) <= people | virtual
        if any("aggregate-to" in label for label in one["metadata"]["labels"]):
            written = set(rule["resources"]) if set(rule["verbs"]) - {"get", "list", "watch"} else set()
            assert written <= {"computejobs", "computeaccounts"}, "a role of the cluster's own makes nobody an owner"


def test_roles_can_be_left_out(render: Callable[..., list[Manifest]]) -> None:
    without = render({"rbac": {"create": False}})
    assert not {o["kind"] for o in without} & {*ROLES, "ClusterRoleBinding", "RoleBinding", "ValidatingAdmissionPolicy"}
    own = render({"rbac": {"aggregateToUserRoles": False}})
    names = [o["metadata"]["name"].removeprefix("fedgpu-system.") for o in own if o["kind"] == "ClusterRole"]
    assert sorted(names) == ["fedgpu-operator", *(f"fedgpu-operator-{each}" for each in ("enlist", "platform", "work"))]


def pod_account(deployment: Manifest) -> str:
    name: str = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    return name
