"""What people and other programs get from the lab: kubeconfigs, GPU labels, identities, a chain, and clean ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from fedgpu_lab import Chain, Cluster, GpuNodes, Lab, MemberSpec
from fedgpu_lab.api import ClusterApi
from fedgpu_operator.errors import ForbiddenError, LabError

ONE_MEMBER = MemberSpec("solo", (GpuNodes.of("l4", count_per_node=1),))


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie that waits for its parent has)."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_plain_kubectl_works_with_the_kubeconfig(lab: Lab, hub: Cluster) -> None:
    assert hub.kubeconfig.stat().st_mode & 0o777 == 0o600
    argv = [str(lab.binary("kubectl")), "get", "namespaces", "-o", "name"]
    done = subprocess.run(argv, env={"PATH": "", **hub.env}, capture_output=True, text=True, check=True)
    assert "namespace/kube-system" in done.stdout


def test_kubeconfigs_name_no_files_and_check_the_certificate(hub: Cluster) -> None:
    config = yaml.safe_load(hub.kubeconfig_text())
    assert set(config["clusters"][0]["cluster"]) == {"server", "certificate-authority-data"}
    assert set(config["users"][0]["user"]) == {"token"}
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(hub.server, trust_env=False)


def test_clusters_listen_on_loopback_alone(hub: Cluster, chain: Chain) -> None:
    ports = {int(url.rsplit(":", 1)[1]) for url in (hub.server, chain.rpc_url)}
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {entry.split(":")[0] for entry in listening if int(entry.split(":")[1], 16) in ports}
    assert addresses == {"0100007F"}


def test_nodes_carry_what_gpu_feature_discovery_sets(members: Mapping[str, Cluster]) -> None:
    nodes = members["beta"].api.get("/api/v1/nodes")["items"]
    seen = {
        (
            node["metadata"]["labels"]["nvidia.com/gpu.product"],
            node["metadata"]["labels"]["nvidia.com/gpu.memory"],
            node["metadata"]["labels"]["topology.kubernetes.io/region"],
            node["status"]["allocatable"]["nvidia.com/gpu"],
        )
        for node in nodes
    }
    assert seen == {
        ("NVIDIA-A100-SXM4-80GB", "81920", "us-east-1", "8"),
        ("NVIDIA-L4", "23034", "us-east-1", "4"),
    }


def test_a_service_account_gets_a_kubeconfig_with_its_own_rights_only(
    members: Mapping[str, Cluster], unique_name: Callable[[str], str]
) -> None:
    beta, namespace = members["beta"], unique_name("agent")
    beta.create_namespace(namespace)
    config = yaml.safe_load(beta.kubeconfig_for_service_account(namespace, "default"))
    token = config["users"][0]["user"]["token"]
    api = ClusterApi(beta.server, beta.ca_pem, token)
    with pytest.raises(ForbiddenError, match=f"system:serviceaccount:{namespace}:default"):
        api.get("/api/v1/nodes")
    api.close()
    stranger = ClusterApi(members["alpha"].server, beta.ca_pem, token)
    with pytest.raises(Exception, match="401"):
        stranger.get("/api/v1/nodes")
    stranger.close()


def test_namespaces_of_the_hub_can_be_deleted(hub: Cluster, unique_name: Callable[[str], str]) -> None:
    name = unique_name("tenant")
    hub.create_namespace(name)
    hub.kubectl("delete", "namespace", name, "--timeout=20s")
    assert hub.kubectl("get", "namespace", name, check=False).returncode == 1


def test_a_refused_manifest_is_an_error_with_the_servers_words(hub: Cluster) -> None:
    with pytest.raises(LabError, match=r"metadata\.name"):
        hub.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "Bad_Name"}}])


def test_the_chain_jumps_and_finalizes(chain: Chain) -> None:
    def block(tag: str) -> dict[str, str]:
        answer = chain.rpc("eth_getBlockByNumber", tag, False)
        assert isinstance(answer, dict)
        return answer

    before = int(block("latest")["timestamp"], 16)
    chain.jump(86400)
    assert int(block("latest")["timestamp"], 16) >= before + 86400
    chain.mine(3)
    assert int(block("latest")["number"], 16) - int(block("finalized")["number"], 16) == 2
    assert len(chain.accounts) == 24


def test_a_member_that_hangs_or_restarts_comes_back_with_its_data(own_lab: Lab) -> None:
    solo = own_lab.members["solo"]
    solo.create_namespace("kept")
    solo.pause()
    assert not solo.ready()
    assert all(child.running for child in solo.children)
    solo.resume()
    solo.kubectl("get", "namespace", "kept")
    server = solo.server
    solo.stop()
    assert not solo.running
    assert not solo.ready()
    solo.start()
    assert solo.server == server
    solo.kubectl("get", "namespace", "kept")


def test_the_chain_goes_on_after_a_stop(own_lab: Lab) -> None:
    chain = own_lab.chain
    assert chain is not None
    chain.mine(5)
    height = int(str(chain.rpc("eth_blockNumber")), 16)
    chain.stop()
    chain.start()
    assert int(str(chain.rpc("eth_blockNumber")), 16) >= height


def test_a_lab_leaves_nothing_behind() -> None:
    with Lab([ONE_MEMBER], chain=True) as lab:
        directory = lab.directory
        children = [child for cluster in lab.clusters for child in cluster.children]
        pids = [child.pid for child in children]
        # A frozen member must not keep the lab from ending.
        lab.members["solo"].pause()
    assert not directory.exists()
    assert all(pid is not None and gone(pid) for pid in pids)


def test_children_end_even_when_the_lab_is_killed(tmp_path: Path) -> None:
    script = (
        "import json, sys, time\n"
        "from fedgpu_lab import Lab\n"
        "with Lab([], chain=True) as lab:\n"
        "    pids = [c.pid for x in lab.clusters for c in x.children] + [lab.chain.children[0].pid]\n"
        "    print(json.dumps([str(lab.directory), pids]), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory, pids = json.loads(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not all(gone(pid) for pid in pids) or Path(directory).exists():
        assert time.monotonic() < deadline, "children or files outlived a killed lab"
        time.sleep(0.1)
    assert pids


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = Lab._prepare

    def with_a_wrong_flag(self: Lab) -> None:
        original(self)
        maker, _ = self._running()
        make = maker.make

        def made(name: str, nodes: object) -> Cluster:
            cluster = make(name, None)
            cluster._api_server._argv.append("--no-such-flag")
            return cluster

        monkeypatch.setattr(maker, "make", made)

    monkeypatch.setattr(Lab, "_prepare", with_a_wrong_flag)
    directory = tmp_path / "lab"
    with pytest.raises(LabError, match="unknown flag: --no-such-flag"), Lab(directory=directory):
        pytest.fail("the lab must not open")
    assert not directory.exists()
