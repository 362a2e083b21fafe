"""Finds or provides the programs that the lab starts; hack/tools declares them, gobuild and npm make them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from hashlib import sha256
from pathlib import Path

from fedgpu_lab import gobuild, npm
from fedgpu_lab.progress import Progress, QuietProgress, Task
from fedgpu_operator.errors import LabError

KUBERNETES = gobuild.GoModule(
    "hack/tools",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kubeadm": "k8s.io/kubernetes/cmd/kubeadm",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
        "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    },
    version_of="k8s.io/kubernetes",
    version_variable="k8s.io/component-base/version.gitVersion",
    title="Building Kubernetes, etcd and kwok (once on this machine: a few minutes, then cached)",
)
HELM = gobuild.GoModule(
    "hack/tools/helm",
    {"helm": "helm.sh/helm/v4/cmd/helm"},
    version_of="helm.sh/helm/v4",
    version_variable="helm.sh/helm/v4/internal/version.version",
    title="Building Helm (once on this machine, then cached)",
)
KIND = gobuild.GoModule(
    "hack/tools/kind",
    {"kind": "sigs.k8s.io/kind"},
    version_of="sigs.k8s.io/kind",
    version_variable="",
    title="Building kind (once on this machine, then cached)",
)
GETH = gobuild.GoModule(
    "hack/tools/geth",
    {"geth": "github.com/ethereum/go-ethereum/cmd/geth"},
    version_of="github.com/ethereum/go-ethereum",
    version_variable="",
    title="Building geth (once on this machine: some minutes, then cached)",
)
NODE_PROGRAMS = {
    "anvil": ("hack/tools/node", "node_modules/@foundry-rs/anvil-*/bin/anvil"),
    "hardhat": ("hack/tools/hardhat", "node_modules/hardhat/internal/cli/bootstrap.js"),
}
"""Program → the folder whose lock file installs it, and where it is in there. Hardhat's is a script for `node`."""
CLUSTER_BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
"""What the control planes of the process lab are made of."""


def ensure(names: Iterable[str], progress: Progress | None = None) -> dict[str, Path]:
    """The path of each named program, built or installed on first use.

    Known names: etcd, kube-apiserver, kube-controller-manager, kube-proxy, kube-scheduler, kubeadm, kubectl, kubelet,
    kwok, kind, helm, geth, anvil, hardhat, node.
    Looked for in KUBEBUILDER_ASSETS (at the pinned version only), then in the cache, then made. Several processes
    may ask at once: one works, the others wait. Raises LabError when a program can be neither found nor made.
    """
    wanted = list(dict.fromkeys(names))
    progress = progress or QuietProgress()
    found: dict[str, Path] = {}
    for module in (KUBERNETES, KIND, HELM, GETH):
        ours = [name for name in wanted if name in module.packages]
        if ours:
            found |= _ensure_go(module, ours, progress)
    for name in wanted:
        if name in NODE_PROGRAMS:
            found[name] = _ensure_npm(name, progress)
        if name == "node":
            with progress.task("Finding Node") as task:
                found[name] = npm.find_node(cache_root(), task)
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        raise LabError(f"the lab has no program called {', '.join(unknown)}")
    return found


def cache_root() -> Path:
    """Where built programs are kept: fedgpu/ in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedgpu"


def declared(folder: str) -> Path:
    """A folder of tool declarations in the checkout; LabError where the package runs without one."""
    path = Path(__file__).resolve().parents[3] / folder
    if not path.is_dir():
        raise LabError(
            f"the lab needs a checkout of the project: {folder} declares its programs, and it is not part of the "
            "installed package. Clone the repository and install both packages of it with `pip install -e . -e lab`."
        )
    return path


def npm_packages(folder: Path, progress: Progress | None = None) -> Path:
    """A cached folder with the `node_modules` that `folder`/package-lock.json describes; no install scripts are run."""
    home = cache_root() / "node" / digest(folder / "package.json", folder / "package-lock.json")
    if not home.is_dir():
        with (
            (progress or QuietProgress()).task("Installing npm packages (once on this machine)") as task,
            lock(cache_root() / "node", task),
        ):
            if not home.is_dir():
                npm.clean_install(folder, home, cache_root(), task)
    return home


def digest(*files: Path) -> str:
    """A short hash of files' contents; LabError when one is missing."""
    whole = sha256()
    for file in files:
        try:
            whole.update(file.read_bytes())
        except FileNotFoundError as error:
            raise LabError(f"{file} is missing") from error
    return whole.hexdigest()[:16]


@contextmanager
def lock(folder: Path, task: Task) -> Iterator[None]:
    """Hold `folder` against other processes; the kernel lets go of it should this one die."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            task.note("another process is at it, waiting")
            flock(file, LOCK_EX)
        yield


def _ensure_go(module: gobuild.GoModule, names: list[str], progress: Progress) -> dict[str, Path]:
    source = declared(module.folder)
    home = cache_root() / "bin" / digest(source / "go.mod", source / "go.sum")
    found = {name: home / name for name in names if (home / name).is_file()}
    missing = [name for name in names if name not in found]
    if missing and module is KUBERNETES:
        found |= _from_assets(missing, module.versions(source))
        missing = [name for name in missing if name not in found]
    if missing:
        with progress.task(module.title) as task, lock(cache_root() / "bin", task):
            still = [name for name in missing if not (home / name).is_file()]
            if still:
                gobuild.build(module, source, still, home, cache_root(), task)
        found |= {name: home / name for name in missing}
    return found


def _ensure_npm(name: str, progress: Progress) -> Path:
    folder, place = NODE_PROGRAMS[name]
    home = npm_packages(declared(folder), progress)
    matches = sorted(home.glob(place))
    if not matches:
        raise LabError(f"npm has no {name} for this kind of machine ({os.uname().sysname} {os.uname().machine})")
    return matches[0]


def _from_assets(names: list[str], versions: dict[str, str]) -> dict[str, Path]:
    """What KUBEBUILDER_ASSETS holds at exactly the pinned versions."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return {}
    kubernetes, etcd = versions["k8s.io/kubernetes"], versions["go.etcd.io/etcd/server/v3"]
    pinned = {
        "etcd": (["--version"], etcd),
        "kube-apiserver": (["--version"], kubernetes),
        "kube-controller-manager": (["--version"], kubernetes),
        "kube-scheduler": (["--version"], kubernetes),
        "kubectl": (["version", "--client"], kubernetes),
    }
    found: dict[str, Path] = {}
    for name in set(names) & set(pinned):
        words, version = pinned[name]
        path = Path(assets) / name
        if path.is_file() and _tells(path, words, version.removeprefix("v")):
            found[name] = path
    return found


def _tells(path: Path, words: list[str], version: str) -> bool:
    try:
        answer = subprocess.run([path, *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.search(rf"\bv?{re.escape(version)}\b(?![-+.])", answer.stdout) is not None
