"""The guard takes what the hub renders and refuses every change that reaches past the lease."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fedgpu_operator.agent.guard import check_workload
from fedgpu_operator.domain.devices import DeviceRequest, Toleration
from fedgpu_operator.domain.inventory import InventoryRules, NamedNodes
from fedgpu_operator.errors import InvalidResourceError

Object = dict[str, Any]
SHOWN = {
    "path": "checkpoint-requested",
    "fieldRef": {"fieldPath": "metadata.annotations['fedgpu.dev/checkpoint-requested']"},
}
NOTES = {"team": "a", "lab.fedgpu.dev/duration": "1s"}
RICH = {
    "containers": [
        {
            "name": "main",
            "image": "work:1",
            "command": ["run"],
            "args": ["--fast"],
            "env": [{"name": "MODE", "value": "x"}, {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute"}],
            "workingDir": "/work",
            "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        },
        {"name": "side", "image": "side:1"},
    ],
    "volumes": [
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "asked", "downwardAPI": {"items": [SHOWN]}},
    ],
}


def _pod(workload: Object) -> Object:
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


def _main(workload: Object) -> Object:
    main: Object = _pod(workload)["containers"][0]
    return main


def _expressions(workload: Object) -> list[Object]:
    (required,) = _pod(workload)["affinity"]["nodeAffinity"].values()
    found: list[Object] = required["nodeSelectorTerms"][0]["matchExpressions"]
    return found


def test_nodes_that_look_alike_may_be_excluded(make: Any) -> None:
    workload = make.workload()
    _expressions(workload).append({"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["odd-1"]})
    check_workload(make.lease(workload=workload))


def _toleration(key: str, value: str) -> Object:
    return {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}


RULES = InventoryRules(
    named=(NamedNodes((("pool", "big"),), "NVIDIA-L4", "nvidia.com/gpu"),),
    tolerations=(Toleration("dedicated", "gpu"),),
    runtime_class="nvidia",
)
"""Of an owner whose nodes have no label that names their GPUs, a taint of its own, and a runtime class."""
REQUEST = DeviceRequest(
    "nvidia.com/gpu", ((("pool", "big"),),), tolerations=(Toleration("dedicated", "gpu"),), runtime_class="nvidia"
)


def test_what_an_owner_says_of_its_nodes_passes_there_and_nowhere_else(make: Any) -> None:
    lease = make.lease(workload=make.workload(request=REQUEST))
    check_workload(lease, RULES)
    with pytest.raises(InvalidResourceError, match="labels that name NVIDIA-L4"):
        check_workload(lease)
    for change, why in (
        ({"runtimeClassName": "kata"}, "runtimeClassName must be nvidia"),
        ({"tolerations": [_toleration("dedicated", "db")]}, "dedicated=db"),
    ):
        workload = make.workload(request=REQUEST)
        _pod(workload).update(change)
        with pytest.raises(InvalidResourceError, match=why):
            check_workload(make.lease(workload=workload), RULES)


def test_what_the_hub_renders_passes(make: Any) -> None:
    check_workload(make.lease())
    check_workload(make.lease(replicas=4, gpus=8))
    check_workload(make.lease(workload=make.workload(template=RICH, notes=NOTES)))


HOSTILE: dict[str, Callable[[Object], Any]] = {
    "another kind": lambda w: w.update(kind="DaemonSet"),
    "another API": lambda w: w.update(apiVersion="v1"),
    "another name": lambda w: w["metadata"].update(name="other"),
    "another namespace": lambda w: w["metadata"].update(namespace="kube-system"),
    "an owner": lambda w: w["metadata"].update(ownerReferences=[]),
    "a finalizer": lambda w: w["metadata"].update(finalizers=["x/y"]),
    "more replicas": lambda w: w["spec"].update(parallelism=2),
    "more completions": lambda w: w["spec"].update(completions=2),
    "restarts": lambda w: w["spec"].update(backoffLimit=3),
    "no end": lambda w: w["spec"].pop("activeDeadlineSeconds"),
    "a far end": lambda w: w["spec"].update(activeDeadlineSeconds=10**6),
    "an end before the run limit": lambda w: w["spec"].update(activeDeadlineSeconds=1),
    "a foreign controller": lambda w: w["spec"].update(managedBy="x.example/y"),
    "a ttl": lambda w: w["spec"].update(ttlSecondsAfterFinished=0),
    "replacement of pods": lambda w: w["spec"].update(podReplacementPolicy="TerminatingOrFailed"),
    "a reserved annotation": lambda w: w["spec"]["template"]["metadata"].update(annotations={"cdi.k8s.io/x": "y"}),
    "another network": lambda w: w["spec"]["template"]["metadata"].update(
        annotations={"k8s.v1.cni.cncf.io/networks": "host"}
    ),
    "a sidecar": lambda w: w["spec"]["template"]["metadata"].update(annotations={"sidecar.istio.io/inject": "true"}),
    "a hypervisor": lambda w: w["spec"]["template"]["metadata"].update(
        annotations={"io.katacontainers.config.hypervisor.path": "/x"}
    ),
    "channels of other nodes": lambda w: _main(w).update(env=[{"name": "NVIDIA_IMEX_CHANNELS", "value": "all"}]),
    "network cards": lambda w: _main(w).update(env=[{"name": "NVIDIA_MOFED", "value": "enabled"}]),
    "switches": lambda w: _pod(w)["containers"][1]["env"].append({"name": "NVIDIA_NVSWITCH", "value": "enabled"}),
    "a pod finalizer": lambda w: w["spec"]["template"]["metadata"].update(finalizers=["x/y"]),
    "restarting containers": lambda w: _pod(w).update(restartPolicy="OnFailure"),
    "a token": lambda w: _pod(w).update(automountServiceAccountToken=True),
    "an implied token": lambda w: _pod(w).pop("automountServiceAccountToken"),
    "an account": lambda w: _pod(w).update(serviceAccountName="admin"),
    "the node's network": lambda w: _pod(w).update(hostNetwork=True),
    "the node's processes": lambda w: _pod(w).update(hostPID=True),
    "the node's IPC": lambda w: _pod(w).update(hostIPC=True),
    "a node by name": lambda w: _pod(w).update(nodeName="n1"),
    "a runtime class": lambda w: _pod(w).update(runtimeClassName="nvidia"),
    "a priority": lambda w: _pod(w).update(priorityClassName="system-node-critical"),
    "another product": lambda w: _expressions(w)[0].update(values=["NVIDIA-H100"]),
    "one product or another": lambda w: _expressions(w)[0]["values"].append("NVIDIA-H100"),
    "any but its product": lambda w: _expressions(w)[0].update(operator="NotIn"),
    "no product": lambda w: _expressions(w).clear(),
    "any node": lambda w: _pod(w).pop("affinity"),
    "a control plane": lambda w: _expressions(w).append(
        {"key": "node-role.kubernetes.io/control-plane", "operator": "In", "values": [""]}
    ),
    "nodes without a label": lambda w: _expressions(w).append({"key": "team", "operator": "NotIn", "values": ["a"]}),
    "a selector beside": lambda w: _pod(w).update(nodeSelector={"kubernetes.io/hostname": "n1"}),
    "two kinds of GPUs": lambda w: _main(w)["resources"]["limits"].update({"nvidia.com/mig-1g.10gb": "1"}),
    "GPUs that its labels do not name": lambda w: _main(w)["resources"].update(limits={"nvidia.com/mig-1g.10gb": "1"}),
    "any toleration": lambda w: _pod(w).update(tolerations=[{"operator": "Exists"}]),
    "a toleration of another taint": lambda w: _pod(w).update(tolerations=[_toleration("team", "a")]),
    "staying where it is thrown off": lambda w: _pod(w).update(
        tolerations=[_toleration("nvidia.com/gpu", "present") | {"effect": "NoExecute"}]
    ),
    "resource claims": lambda w: _pod(w).update(resourceClaims=[{"name": "x"}]),
    "init containers": lambda w: _pod(w).update(initContainers=[{"name": "i", "image": "i"}]),
    "a host path": lambda w: _pod(w).update(volumes=[{"name": "r", "hostPath": {"path": "/"}}]),
    "a projected token": lambda w: _pod(w).update(
        volumes=[{"name": "r", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]
    ),
    "a secret": lambda w: _pod(w).update(volumes=[{"name": "r", "secret": {"secretName": "s"}}]),
    "a claim": lambda w: _pod(w).update(volumes=[{"name": "r", "persistentVolumeClaim": {"claimName": "c"}}]),
    "a look at the node": lambda w: _pod(w).update(
        volumes=[{"name": "r", "downwardAPI": {"items": [SHOWN | {"fieldRef": {"fieldPath": "spec.nodeName"}}]}}]
    ),
    "a file elsewhere": lambda w: _pod(w).update(
        volumes=[{"name": "r", "downwardAPI": {"items": [SHOWN | {"path": "../etc/passwd"}]}}]
    ),
    "a volume of two kinds": lambda w: _pod(w).update(
        volumes=[{"name": "r", "emptyDir": {}, "downwardAPI": {"items": [SHOWN]}}]
    ),
    "a CSI volume": lambda w: _pod(w).update(volumes=[{"name": "r", "csi": {"driver": "d"}}]),
    "root": lambda w: _pod(w)["securityContext"].update(runAsUser=0),
    "perhaps root": lambda w: _pod(w)["securityContext"].update(runAsNonRoot=False),
    "no seccomp": lambda w: _pod(w)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "sysctls": lambda w: _pod(w)["securityContext"].update(sysctls=[]),
    "privileges": lambda w: _main(w)["securityContext"].update(privileged=True),
    "escalation": lambda w: _main(w)["securityContext"].update(allowPrivilegeEscalation=True),
    "a capability": lambda w: _main(w)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "kept capabilities": lambda w: _main(w)["securityContext"]["capabilities"].update(drop=[]),
    "no security context": lambda w: _main(w).pop("securityContext"),
    "more GPUs": lambda w: _main(w)["resources"].update(limits={"nvidia.com/gpu": "2"}),
    "no GPU": lambda w: _main(w)["resources"].update(limits={}),
    "another device": lambda w: _main(w)["resources"]["limits"].update({"rdma/hca": "1"}),
    "GPUs for the second": lambda w: _pod(w)["containers"][1]["resources"].update(limits={"nvidia.com/gpu": "1"}),
    "all GPUs by name": lambda w: _main(w).update(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
    "the image's GPUs": lambda w: _pod(w)["containers"][1].update(env=[]),
    "a host port": lambda w: _main(w).update(ports=[{"containerPort": 1, "hostPort": 1}]),
    "variables of secrets": lambda w: _main(w).update(envFrom=[{"secretRef": {"name": "s"}}]),
    "a variable of a secret": lambda w: _main(w).update(env=[{"name": "X", "valueFrom": {}}]),
    "a hook": lambda w: _main(w).update(lifecycle={"preStop": {"exec": {"command": ["x"]}}}),
    "a block device": lambda w: _main(w).update(volumeDevices=[{"name": "x", "devicePath": "/dev/x"}]),
    "a spreading mount": lambda w: _main(w)["volumeMounts"][0].update(mountPropagation="Bidirectional"),
    "nothing at all": lambda w: w.clear(),
    "no pod": lambda w: w["spec"].update(template=None),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_every_reach_past_the_lease_is_refused(make: Any, change: Callable[[Object], Any]) -> None:
    workload = make.workload(template=RICH, notes=NOTES)
    _pod(workload)["containers"][1]["resources"] = {}
    check_workload(make.lease(workload=copy.deepcopy(workload)))
    change(workload)
    with pytest.raises(InvalidResourceError) as refusal:
        check_workload(make.lease(workload=workload))
    assert refusal.value.why == "WorkloadRefused"


def test_the_refusal_names_the_field_and_not_its_value(make: Any) -> None:
    workload = make.workload()
    _main(workload)["envFrom"] = [{"secretRef": {"name": "do-not-print"}}]
    with pytest.raises(InvalidResourceError, match=r"containers\.0\.envFrom") as refusal:
        check_workload(make.lease(workload=workload))
    assert "do-not-print" not in str(refusal.value)
