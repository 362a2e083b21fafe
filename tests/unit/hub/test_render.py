"""What the hub renders: one attempt, restricted, with just the GPUs it pays for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.agent.guard import check_workload
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest
from fedgpu_operator.domain.devices import DeviceRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.workloads import first_lease, member_namespace, provider_namespace, render_workload

UID = "00000000-0000-4000-8000-000000000001"
MAIN = {"name": "main", "image": "work:1"}
L4 = DeviceRequest.by_discovery("NVIDIA-L4")


def rendered(
    template: dict[str, Any], *, gpus: int = 2, replicas: int = 3, request: DeviceRequest = L4
) -> dict[str, Any]:
    pod = {key: value for key, value in template.items() if key != "metadata"}
    given = {"metadata": template.get("metadata", {}), "spec": pod}
    spec = {"gpu": {"count": gpus}, "replicas": replicas, "runLimitSeconds": 60, "template": given}
    job = ComputeJob.parse({"metadata": {"name": "train", "namespace": "team", "uid": UID}, "spec": spec})
    return render_workload(
        job,
        lease_name=f"{UID}-1",
        member_namespace="fedgpu-tenant-team",
        provider="prov",
        request=request,
        run_limit_seconds=60,
    )


def test_a_job_that_grew_since_its_attempt_was_opened_gets_no_lease_of_it() -> None:
    spec = {"gpu": {"count": 2}, "runLimitSeconds": 60, "template": {"spec": {"containers": [MAIN]}}}
    job = ComputeJob.parse({"metadata": {"name": "train", "namespace": "team", "uid": UID}, "spec": spec})
    agreed = AttemptRequest(UID, "r", "team", "train", "prov", "NVIDIA-L4", MicroUSD(1), 1, job.billable_limit)
    with pytest.raises(InvalidResourceError, match="2 GPUs") as refused:
        first_lease(job, Attempt(agreed, 1, datetime(2026, 1, 1, tzinfo=UTC)), L4)
    assert refused.value.why == "TermsChanged"


def test_it_is_one_attempt_that_ends_even_without_an_agent() -> None:
    spec = rendered({"containers": [MAIN]})["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], spec["activeDeadlineSeconds"]) == (0, "Failed", 2460)
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_job_and_pods_carry_the_lease() -> None:
    workload = rendered({"containers": [MAIN]})
    labels = {
        "fedgpu.dev/lease": f"{UID}-1",
        "fedgpu.dev/provider": "prov",
        "fedgpu.dev/tenant": "team",
        "fedgpu.dev/job-uid": UID,
    }
    assert workload["metadata"] == {"name": f"{UID}-1", "namespace": "fedgpu-tenant-team", "labels": labels}
    assert workload["spec"]["template"]["metadata"]["labels"] == labels


def test_a_pod_asks_for_its_product_as_its_member_has_it() -> None:
    by_type, by_label = (("node.kubernetes.io/instance-type", "g2"),), (("cloud.google.com/gke-accelerator", "l4"),)
    request = DeviceRequest("nvidia.com/mig-1g.10gb", (by_type, by_label), avoid=("odd-1", "odd-2"))
    spec = rendered({"containers": [MAIN]}, request=request)["spec"]["template"]["spec"]
    odd = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["odd-1", "odd-2"]}
    terms = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}, odd]}
        for ((key, value),) in (by_type, by_label)
    ]
    (required,) = spec["affinity"]["nodeAffinity"].values()
    assert required == {"nodeSelectorTerms": terms}
    assert spec["containers"][0]["resources"] == {"limits": {"nvidia.com/mig-1g.10gb": "2"}}


def test_the_first_container_alone_gets_gpus_and_the_others_see_none() -> None:
    limits = {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}}
    main, side = rendered({"containers": [{**MAIN, "resources": limits}, {"name": "side", "image": "s"}]})["spec"][
        "template"
    ]["spec"]["containers"]
    assert main["resources"] == {"limits": {"memory": "1Gi", "nvidia.com/gpu": "2"}, "requests": {"cpu": "1"}}
    assert "resources" not in side
    assert side["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert "env" not in main


def test_the_template_arrives() -> None:
    shown = {"fieldPath": "metadata.annotations['fedgpu.dev/checkpoint-requested']"}
    asked = {"items": [{"path": "checkpoint-requested", "fieldRef": shown}]}
    template = {
        "metadata": {"annotations": {"team": "b", "lab.fedgpu.dev/a": "b"}},
        "securityContext": {"runAsUser": 1000},
        "terminationGracePeriodSeconds": 7,
        "containers": [
            {
                **MAIN,
                "command": ["run"],
                "args": ["-x"],
                "workingDir": "/w",
                "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "readOnly": True}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "asked", "downwardAPI": asked}],
    }
    pods = rendered(template)["spec"]["template"]
    assert pods["metadata"]["annotations"] == {"team": "b", "lab.fedgpu.dev/a": "b"}
    assert pods["spec"]["securityContext"]["runAsUser"] == 1000
    assert pods["spec"]["terminationGracePeriodSeconds"] == 7
    assert pods["spec"]["volumes"] == template["volumes"]
    (main,) = pods["spec"]["containers"]
    assert (main["command"], main["args"], main["workingDir"]) == (["run"], ["-x"], "/w")
    assert main["env"] == [{"name": "A", "value": "1"}]
    assert main["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp", "readOnly": True}]


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"containers": [{**MAIN, "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}]}, "NVIDIA_VISIBLE"),
        ({"containers": [{**MAIN, "env": [{"name": "NVIDIA_MIG_CONFIG_DEVICES", "value": "all"}]}]}, "NVIDIA_MIG"),
        ({"containers": [MAIN], "metadata": {"annotations": {"cdi.k8s.io/gpu": "nvidia.com/gpu=all"}}}, "cdi.k8s.io"),
        ({"containers": [MAIN], "metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "x"}}}, "cncf.io"),
        ({"containers": [MAIN], "metadata": {"annotations": {"io.kubernetes.cri-o.Devices": "/dev/x"}}}, "cri-o"),
        ({"containers": [MAIN], "metadata": {"annotations": {"sidecar.istio.io/inject": "true"}}}, "istio"),
        (
            {"containers": [MAIN], "metadata": {"annotations": {"io.katacontainers.config.hypervisor.path": "/x"}}},
            "katacontainers",
        ),
        ({"containers": [MAIN], "metadata": {"annotations": {"evilfedgpu.dev/x": "y"}}}, "evilfedgpu"),
        ({"containers": [MAIN], "metadata": {"annotations": {"fedgpu.dev.evil.example/x": "y"}}}, "evil.example"),
        ({"containers": [MAIN], "metadata": {"annotations": {"team\n": "y"}}}, "annotations"),
        *(
            ({"containers": [MAIN, {"name": "side", "image": "s", "env": [{"name": name, "value": "all"}]}]}, name)
            for name in ("NVIDIA_IMEX_CHANNELS", "NVIDIA_MOFED", "NVIDIA_NVSWITCH", "NVIDIA_GDS", "NVIDIA_NEW_THING")
        ),
    ],
)
def test_reaching_for_devices_is_refused_with_the_field(template: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidResourceError, match=field) as refusal:
        rendered(template)
    assert refusal.value.why == "TemplateRefused"


def test_what_takes_no_devices_may_be_set() -> None:
    env = [{"name": name, "value": "1"} for name in ("NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE", "CUDA_X")]
    (main,) = rendered({"containers": [{**MAIN, "env": env}]})["spec"]["template"]["spec"]["containers"]
    assert main["env"] == env


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True)


@given(
    gpus=st.integers(1, 16),
    replicas=st.integers(1, 64),
    grace=st.integers(0, 3600),
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    memory=st.sampled_from(["", "Memory"]),
)
def test_everything_that_is_rendered_passes_the_guard(
    gpus: int, replicas: int, grace: int, names: list[str], memory: str
) -> None:
    template = {
        "terminationGracePeriodSeconds": grace,
        "containers": [
            {"name": name, "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]} for name in names
        ],
        "volumes": [{"name": "v", "emptyDir": {"medium": memory}}],
    }
    spec = {
        "job": {"namespace": "team", "name": "train", "uid": UID},
        "attempt": 1,
        "fencingEpoch": 1,
        "provider": "prov",
        "product": "NVIDIA-L4",
        "replicas": replicas,
        "gpusPerReplica": gpus,
        "pricePerGPUHour": "1",
        "runLimitSeconds": 60,
        "memberNamespace": "fedgpu-tenant-team",
        "workload": rendered(template, gpus=gpus, replicas=replicas),
    }
    check_workload(ComputeLease.parse({"metadata": {"name": f"{UID}-1"}, "spec": spec}))


def test_namespaces_say_their_names() -> None:
    assert member_namespace("team") == "fedgpu-tenant-team"
    assert provider_namespace("acme") == "fedgpu-provider-acme"


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?", fullmatch=True))
def test_any_name_makes_a_stable_dns_label(name: str) -> None:
    for namespace in (member_namespace(name), provider_namespace(name)):
        assert len(namespace) <= 63
        assert all(char.isalnum() or char == "-" for char in namespace)
        assert namespace[-1] != "-"
    assert member_namespace(name) == member_namespace(name)


def test_names_that_are_cut_alike_stay_apart() -> None:
    assert member_namespace("a" * 62 + "b") != member_namespace("a" * 62 + "c")
    assert provider_namespace("a.b") != provider_namespace("a-b")


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?", fullmatch=True))
def test_no_name_can_be_spelt_to_be_what_another_is_cut_to(name: str) -> None:
    for made, prefix in ((member_namespace, "fedgpu-tenant-"), (provider_namespace, "fedgpu-provider-")):
        spelt = made(name).removeprefix(prefix)
        assert spelt == name or made(spelt) != made(name)


def test_a_tenant_cannot_be_called_like_what_is_ours() -> None:
    """Its namespace on a member that is the hub too must be neither the operator's nor a provider's."""
    assert member_namespace("system") != "fedgpu-system"
    assert member_namespace("provider-acme") != provider_namespace("acme")
