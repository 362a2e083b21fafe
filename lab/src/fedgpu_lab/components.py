"""Command lines of the Kubernetes programs: which parts of a control plane the lab runs, and with what settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedgpu_lab.pki import ServerIdentity

HUB_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
"""Namespaces on the hub must be deletable, owners collected, and aggregated ClusterRoles filled."""

MEMBER_CONTROLLERS = (
    *HUB_CONTROLLERS,
    "job-controller",
    "pod-garbage-collector-controller",
    "resourcequota-controller",
    "ttl-after-finished-controller",
)
"""What a workload's life needs beside that, and quotas, by which an owner's own limits hold."""

NODE_LEASE_S = 200
"""kwok renews a node's lease at a quarter of this; nothing in the lab ends nodes, so seldom is enough."""


@dataclass(frozen=True)
class Files:
    """What a cluster's programs read: serving certificate, token file, service-account key, admin kubeconfig."""

    identity: ServerIdentity
    tokens: Path
    service_account_key: Path
    kubeconfig: Path


def etcd(binary: Path, data: Path, client_port: int, peer_port: int) -> list[str | Path]:
    """One etcd for all clusters. Nothing in it outlives the lab, so it need not wait for the disk."""
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        binary,
        "--name=lab",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def api_server(binary: Path, name: str, port: int, etcd_port: int, files: Files) -> list[str | Path]:
    """A kube-apiserver with its own etcd prefix, default admission, RBAC, loopback only."""
    issuer = f"https://127.0.0.1:{port}"
    return [
        binary,
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--etcd-prefix=/{name}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--external-hostname=localhost",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={files.identity.cert_file}",
        f"--tls-private-key-file={files.identity.key_file}",
        f"--token-auth-file={files.tokens}",
        "--authorization-mode=RBAC",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={files.service_account_key}",
        f"--service-account-signing-key-file={files.service_account_key}",
        "--service-cluster-ip-range=10.96.0.0/16",
        # Only the node-lifecycle controller would lift the taint that this plugin sets, and the lab has none.
        "--disable-admission-plugins=TaintNodesByCondition",
        "--enable-priority-and-fairness=false",
        "--event-ttl=1h",
        "--profiling=false",
        "--v=0",
    ]


def controller_manager(binary: Path, files: Files, controllers: tuple[str, ...]) -> list[str | Path]:
    """A kube-controller-manager with just the named controllers and no server of its own."""
    return [
        binary,
        f"--kubeconfig={files.kubeconfig}",
        f"--controllers={','.join(controllers)}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        "--profiling=false",
    ]


def scheduler(binary: Path, files: Files) -> list[str | Path]:
    """A kube-scheduler with its defaults and no server of its own."""
    return [
        binary,
        f"--kubeconfig={files.kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        "--profiling=false",
    ]


def kwok(binary: Path, files: Files, stages: Path) -> list[str | Path]:
    """The nodes and pods of one member, played by our own Stages."""
    return [
        binary,
        f"--kubeconfig={files.kubeconfig}",
        f"--config={stages}",
        "--manage-all-nodes=true",
        "--node-ip=127.0.0.1",
        f"--node-lease-duration-seconds={NODE_LEASE_S}",
        "--v=WARN",
    ]
