"""One real control plane of the lab: the hub, or a member with GPU nodes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from fedgpu_lab import components, kubeconfig
from fedgpu_lab.api import ClusterApi
from fedgpu_lab.components import Files
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.pki import ServerIdentity, new_key_file, write_private
from fedgpu_lab.process import Child, Rank, Watchdog, end
from fedgpu_operator.errors import AlreadyExistsError, KubeError, LabError, NotFoundError

STAGES = Path(__file__).with_name("stages.yaml")
START_TIMEOUT_S = 90.0
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


class Cluster:
    """A running cluster. `kubeconfig` is the admin's, a 0600 file that plain kubectl can use.

    A member (`gpu_nodes` is not None) has controllers, a scheduler and nodes; a hub has controllers only.
    """

    def __init__(
        self,
        name: str,
        *,
        directory: Path,
        binaries: Mapping[str, Path],
        identity: ServerIdentity,
        watchdog: Watchdog,
        port: int,
        etcd_port: int,
        gpu_nodes: Sequence[GpuNodes] | None = None,
    ) -> None:
        directory.mkdir(mode=0o700)
        self.name, self.directory = name, directory
        self.server, self.ca_pem = f"https://127.0.0.1:{port}", identity.ca_pem
        self.gpu_nodes = gpu_nodes
        self._binaries, self._watchdog = binaries, watchdog
        self._token = secrets.token_urlsafe(24)
        tokens = f'{self._token},admin,admin,"system:masters"\n'.encode()
        self.kubeconfig = write_private(directory / "kubeconfig.yaml", self.kubeconfig_text().encode())
        self._files = Files(
            identity=identity,
            tokens=write_private(directory / "tokens.csv", tokens),
            service_account_key=new_key_file(directory / "service-account.key"),
            kubeconfig=self.kubeconfig,
        )
        self.api = ClusterApi(self.server, self.ca_pem, self._token)
        argv = components.api_server(binaries["kube-apiserver"], name, port, etcd_port, self._files)
        self._api_server = self._child("kube-apiserver", argv, Rank.API_SERVER)
        self._clients = self._client_children()

    # -- access -----------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """What to add to an environment so that kubectl and Helm speak to this cluster and cache in the lab."""
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.directory / "kubectl-cache")}

    def kubeconfig_text(self) -> str:
        """The admin's kubeconfig as YAML."""
        return self.kubeconfig_for(self._token)

    def kubeconfig_for(self, token: str) -> str:
        """A kubeconfig (YAML) for whoever holds `token`: inline CA data, nothing that names a file or a program."""
        return kubeconfig.render(name=self.name, server=self.server, ca_pem=self.ca_pem, token=token)

    def kubeconfig_for_service_account(self, namespace: str, name: str, *, seconds: int = 86400) -> str:
        """A kubeconfig with a token from the TokenRequest API, good for `seconds`; NotFoundError without account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.api.create(path, {"spec": {"expirationSeconds": seconds}})
        status = answer.get("status")
        token = status.get("token") if isinstance(status, dict) else None
        if not isinstance(token, str):
            raise LabError(f"{self.name}: the API server gave no token for {namespace}/{name}")
        return self.kubeconfig_for(token)

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002  # subprocess calls it so
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin with `input` as its stdin; LabError when it fails and `check` is set, or hangs."""
        argv = [str(self._binaries["kubectl"]), *args]
        env = os.environ | self.env
        try:
            done = subprocess.run(
                argv, input=input, capture_output=True, text=True, timeout=timeout, check=False, env=env
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: kubectl {' '.join(args)}: no end after {timeout:.0f} s") from error
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done

    def apply(self, manifests: str | Iterable[Mapping[str, object]]) -> None:
        """Server-side apply of YAML text or of objects; LabError with the API server's message when refused."""
        text = manifests if isinstance(manifests, str) else yaml.safe_dump_all([dict(one) for one in manifests])
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)

    def create_namespace(self, name: str, *, restricted: bool = False) -> None:
        """A namespace that is ready for pods; `restricted` enforces that Pod Security level."""
        labels = RESTRICTED if restricted else {}
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        self._await_service_account(name)

    def delete_namespace(self, name: str) -> None:
        """Remove it if it is there; returns when its Jobs and pods are gone and hold nothing of the nodes any more."""
        self.kubectl("delete", "jobs,pods", "--all", "-n", name, "--grace-period=0", "--force")
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")

    # -- life -------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """All processes of this cluster."""
        return [self._api_server, *self._clients]

    @property
    def running(self) -> bool:
        """Whether all processes live (they may be paused)."""
        return all(child.running for child in self.children)

    def start(self) -> None:
        """Start, or start again with the same port and data; returns when it serves and its nodes are Ready."""
        self._api_server.start()
        self._api_server.wait_until(self.ready, timeout=START_TIMEOUT_S, what="/readyz")
        for child in self._clients:
            child.start()
        self._register_nodes()
        self._await_service_account("default")
        for child in self._clients:
            if child.name.endswith("kwok"):
                child.wait_until(self._nodes_ready, timeout=START_TIMEOUT_S, what="all nodes Ready")

    def stop(self) -> None:
        """End all processes; the data stays in etcd for the next start()."""
        end(self.children)

    def pause(self) -> None:
        """Freeze all processes, as when a machine hangs: connections stay open, nothing answers."""
        for child in self.children:
            child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo pause()."""
        for child in self.children:
            child.signal(signal.SIGCONT)

    def ready(self) -> bool:
        """Whether the API server says that it can serve."""
        try:
            return self.api.text("/readyz") == "ok"
        except KubeError:
            return False

    # -- parts ------------------------------------------------------------------------------------

    def _child(self, program: str, argv: Sequence[str | Path], rank: Rank) -> Child:
        env = {
            # kwok reads a configuration from its user's home unless told of another work directory.
            "KWOK_WORKDIR": str(self.directory),
            # A start is mostly garbage collection of young heaps: this saves a third of its CPU time (measured).
            "GOGC": "300",
            "GOMAXPROCS": "2",
        }
        log = self.directory / f"{program}.log"
        return Child(f"{self.name}/{program}", argv, log=log, rank=rank, watchdog=self._watchdog, env=env)

    def _client_children(self) -> list[Child]:
        member = self.gpu_nodes is not None
        controllers = components.MEMBER_CONTROLLERS if member else components.HUB_CONTROLLERS
        manager, binaries = "kube-controller-manager", self._binaries
        commands = {manager: components.controller_manager(binaries[manager], self._files, controllers)}
        if member:
            commands["kube-scheduler"] = components.scheduler(binaries["kube-scheduler"], self._files)
            commands["kwok"] = components.kwok(binaries["kwok"], self._files, STAGES)
        return [self._child(program, argv, Rank.CLIENT) for program, argv in commands.items()]

    def _register_nodes(self) -> None:
        for group in self.gpu_nodes or ():
            for manifest in group.manifests(self.name):
                try:
                    self.api.create("/api/v1/nodes", manifest)
                except AlreadyExistsError:
                    continue

    def _nodes_ready(self) -> bool:
        text = json.dumps(self.api.get("/api/v1/nodes"))
        wanted = sum(group.nodes for group in self.gpu_nodes or ())
        return text.count('"reason": "KubeletReady"') >= wanted

    def _await_service_account(self, namespace: str) -> None:
        def exists() -> bool:
            try:
                self.api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
            except NotFoundError:
                return False
            return True

        self._clients[0].wait_until(exists, timeout=START_TIMEOUT_S, what=f"the default account in {namespace}")
