"""The lab's small parts: node objects, kubeconfigs, ports, children and their watchdog, progress for logs."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fedgpu_lab import GpuNodes, Lab, MemberSpec, kubeconfig, progress_for, watchdog
from fedgpu_lab.cluster import STAGES
from fedgpu_lab.gpus import CATALOGUE, DESCRIBED
from fedgpu_lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_operator.errors import LabError
from fedgpu_operator.supply.judge import read_node
from fedgpu_operator.supply.node import node_facts


@pytest.fixture
def guard() -> Iterator[Watchdog]:
    running = Watchdog()
    yield running
    running.close()


def sleeper(name: str, rank: Rank, guard: Watchdog, tmp_path: Path, code: str = "pass") -> Child:
    argv = [sys.executable, "-c", f"import signal, time; {code}; print('up', flush=True); time.sleep(60)"]
    child = Child(name, argv, log=tmp_path / f"{name}.log", rank=rank, watchdog=guard)
    child.start()
    child.wait_until(lambda: child.log_tail().startswith("up"), timeout=10, what="its first line")
    return child


def test_nodes_have_distinct_names_and_only_the_labels_that_are_known() -> None:
    group = GpuNodes.of("rtx4090", nodes=3, count_per_node=2, region="asia-southeast1", tainted=True)
    manifests = group.manifests("edge")
    assert len({str(m["metadata"]) for m in manifests}) == 3
    labels = yaml.safe_load(yaml.safe_dump(manifests[0]))["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-GeForce-RTX-4090"
    assert labels["nvidia.com/gpu.count"] == "2"
    assert labels["topology.kubernetes.io/region"] == "asia-southeast1"
    assert "topology.kubernetes.io/zone" not in labels
    assert manifests[0]["spec"] == {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]}


def test_every_model_makes_valid_label_values() -> None:
    for model in CATALOGUE:
        for manifest in GpuNodes.of(model).manifests("m"):
            labels = yaml.safe_load(yaml.safe_dump(manifest))["metadata"]["labels"]
            assert all(len(value) <= 63 and " " not in value for value in labels.values())


@pytest.mark.parametrize("described", DESCRIBED)
def test_nodes_are_read_as_what_they_were_made_as_whoever_describes_them(described: str) -> None:
    (manifest,) = GpuNodes.of("h100", described=described).manifests("m")
    made = yaml.safe_load(yaml.safe_dump(manifest))
    made["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    (pool,) = read_node(node_facts(made)).pools
    assert (pool.product, pool.count) == ("NVIDIA-H100-80GB-HBM3", 8)
    assert (f"{pool.resource}.product" in made["metadata"]["labels"]) is (described == "discovery")


def test_a_kubeconfig_is_whole_in_itself() -> None:
    config = yaml.safe_load(kubeconfig.render(name="m", server="https://x", ca_pem="PEM", token="t"))
    assert config["current-context"] == "m"
    assert config["clusters"][0]["cluster"] == {"server": "https://x", "certificate-authority-data": "UEVN"}


def test_stages_never_use_a_relative_delay_for_a_pods_life() -> None:
    stages = [stage for stage in yaml.safe_load_all(STAGES.read_text()) if stage]
    delayed = [s for s in stages if s["spec"]["resourceRef"]["kind"] == "Pod" and "delay" in s["spec"]]
    assert {s["metadata"]["name"] for s in delayed} == {"pod-run", "pod-finish", "pod-stop"}
    assert all(s["spec"]["delay"]["durationMilliseconds"] == 0 for s in delayed)
    assert all("todate" in s["spec"]["delay"]["durationFrom"]["expressionFrom"] for s in delayed)


def test_free_ports_are_distinct() -> None:
    assert len(set(free_ports(50))) == 50


def test_a_child_that_dies_early_is_an_error_with_its_last_words(guard: Watchdog, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such etcd')"]
    child = Child("api", argv, log=tmp_path / "log", rank=Rank.CLIENT, watchdog=guard)
    child.start()
    with pytest.raises(LabError, match=r"(?s)api ended with code 1 before ready.*no such etcd"):
        child.wait_until(lambda: False, timeout=10, what="ready")


def test_children_end_rank_after_rank_even_the_deaf_ones(guard: Watchdog, tmp_path: Path) -> None:
    says_when = "signal.signal(15, lambda *_: (print(time.monotonic(), flush=True), exit(0)))"
    store = sleeper("store", Rank.STORE, guard, tmp_path, says_when)
    server = sleeper("server", Rank.API_SERVER, guard, tmp_path, "signal.signal(15, signal.SIG_IGN)")
    begin = time.monotonic()
    end([store, server], grace=0.5)
    assert not store.running
    assert not server.running
    assert float(store.log_tail(1)) >= begin + 0.5


def test_the_watchdog_ends_what_a_killed_lab_left(tmp_path: Path) -> None:
    guard = Watchdog()
    child = sleeper("orphan", Rank.CLIENT, guard, tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    guard.remove_directory(folder)
    assert guard._process.stdin is not None
    guard._process.stdin.close()
    guard._process.wait(timeout=10)
    assert child.reap(1.0)
    assert not folder.exists()


def test_the_watchdog_leaves_a_stranger_with_the_same_id_alone(tmp_path: Path) -> None:
    guard = Watchdog()
    child = sleeper("stranger", Rank.CLIENT, guard, tmp_path)
    guard.forget(child.pid or 0)
    guard._tell(f"+ 0 {child.pid} 1")
    assert guard._process.stdin is not None
    guard._process.stdin.close()
    guard._process.wait(timeout=10)
    assert child.running
    subprocess.run(["kill", "-9", str(child.pid)], check=True)
    assert child._process is not None
    child._process.wait(timeout=5)


def test_start_time_tells_processes_apart() -> None:
    assert watchdog.start_time(1) != ""
    assert watchdog.start_time(2**22 + 1) == ""


def test_progress_for_a_pipe_is_plain_lines() -> None:
    out = io.StringIO()
    with progress_for(Console(file=out)).task("Building [once]") as task:
        task.note("1 package")
    lines = out.getvalue().splitlines()
    assert lines[0] == "Building [once] …"
    assert lines[1].startswith("Building [once]: 0.")


def test_a_directory_that_exists_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("")
    monkeypatch.setattr("fedgpu_lab.toolchain.ensure", lambda names, progress=None: {})
    with pytest.raises(LabError, match="exists already"), Lab([MemberSpec("a")], directory=tmp_path):
        pytest.fail("the lab must not open")
    assert precious.exists()
