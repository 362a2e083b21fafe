"""A node image for kind, made where none can be pulled: Debian, the lab's own Kubernetes, and hack/kind."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from fedgpu_lab import gobuild, image, toolchain
from fedgpu_lab.engine import Engine
from fedgpu_lab.layers import write_archive
from fedgpu_lab.progress import Progress, QuietProgress
from fedgpu_operator.errors import LabError

REPOSITORY: Final = "fedgpu-node"
ROOT: Final = "fedgpu-node-root:1"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "containerd", "runc", "containernetworking-plugins", "iptables", "nftables"),
    *("conntrack", "socat", "kmod", "iproute2", "mount", "procps", "ethtool", "hostname", "ca-certificates"),
)
CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
ON_NODE: Final = ("kubelet", "kubeadm", "kubectl")
SMALL: Final = ("pause", "trainer")
"""Programs of hack/kind, each of one file."""


def ensure(engine: Engine, progress: Progress | None = None) -> str:
    """The tag of the node image in `engine`, built on first use and whenever one of its parts has changed."""
    progress = progress or QuietProgress()
    programs = toolchain.ensure([*CONTROL_PLANE, *ON_NODE, "kube-proxy"], progress)
    source = toolchain.declared("hack/kind")
    tag = f"{REPOSITORY}:{_digest(source, programs['kubelet'])}"
    if engine.has_image(tag):
        return tag
    with progress.task("Making a node image of Debian's packages and the lab's programs (once on this machine)"):
        image.file_system(engine, ROOT, PACKAGES)
        with _context(engine, source, programs) as context:
            engine.docker("build", "--network=none", f"--build-arg=ROOTFS={ROOT}", f"--tag={tag}", context)
    held = engine.docker("images", "--format={{.Repository}}:{{.Tag}}", REPOSITORY).stdout.split()
    outdated = [name for name in held if name != tag]
    if outdated:
        engine.docker("rmi", *outdated, check=False)
    return tag


def small_programs(folder: Path) -> dict[str, Path]:
    """The programs of hack/kind, compiled into `folder`."""
    source = toolchain.declared("hack/kind")
    with QuietProgress().task("") as task:
        go = gobuild.find_go(toolchain.declared("hack/tools"), toolchain.cache_root(), task)
    env = os.environ | {"GO111MODULE": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    for name in SMALL:
        argv = [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", str(folder / name), "main.go"]
        done = subprocess.run(argv, cwd=source / name, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"{name} could not be compiled:\n{done.stderr}")
    return {name: folder / name for name in SMALL}


@contextmanager
def _context(engine: Engine, source: Path, programs: Mapping[str, Path]) -> Iterator[Path]:
    """What hack/kind/Dockerfile copies, in a folder."""
    version = toolchain.KUBERNETES.versions(toolchain.declared("hack/tools"))["k8s.io/kubernetes"]
    names = _image_names(programs["kubeadm"], version)
    with tempfile.TemporaryDirectory(dir=engine.directory) as folder:
        context = Path(folder)
        shutil.copytree(source / "node", context / "node")
        shutil.copy(source / "Dockerfile", context)
        for part in ("images", "programs", "small"):
            (context / part).mkdir()
        for name in ON_NODE:
            shutil.copy(programs[name], context / "programs")
        for name in CONTROL_PLANE:
            files = {f"/usr/local/bin/{name}": programs[name]}
            write_archive(context / "images" / f"{name}.tar", names[name], files)
        proxy: dict[str, Path | bytes] = {"/usr/local/bin/kube-proxy": programs["kube-proxy"], **_nft(engine)}
        write_archive(context / "images/kube-proxy.tar", names["kube-proxy"], proxy)
        pause = {"/pause": small_programs(context / "small")["pause"]}
        write_archive(context / "images/pause.tar", names["pause"], pause, entrypoint=["/pause"], user="65535:65535")
        config = context / "node/etc/containerd/config.toml"
        config.write_text(config.read_text().replace("@PAUSE@", names["pause"]))
        (context / "node/kind/version").write_text(f"{version}\n")
        yield context


def _image_names(kubeadm: Path, version: str) -> dict[str, str]:
    """What kubeadm calls the images of this version, by their last word: they are made here under these names."""
    argv = [str(kubeadm), "config", "images", "list", f"--kubernetes-version={version}"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return {name.rsplit(":", 1)[0].rsplit("/", 1)[-1]: name for name in listed}


def _nft(engine: Engine) -> dict[str, bytes]:
    """What kube-proxy writes its rules with: nft and the libraries that it loads, by path."""
    script = "for f in /usr/sbin/nft $(ldd /usr/sbin/nft | grep -o '/[^ ]*'); do echo $f $(readlink -f $f); done"
    within = ["run", "--rm", "--network=none", ROOT]
    places = dict(line.split() for line in engine.docker(*within, "sh", "-c", script).stdout.splitlines())
    argv = ["docker", *within, "tar", "--directory=/", "--create", *(real.lstrip("/") for real in places.values())]
    done = subprocess.run(argv, capture_output=True, check=True, env=os.environ | engine.env)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        held = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
        contents = {name: file.read() for name, file in held.items() if file is not None}
    return {path: contents[real.lstrip("/")] for path, real in places.items()}


def _digest(source: Path, *more: Path) -> str:
    files = [path for part in ("node", "pause") for path in sorted((source / part).rglob("*")) if path.is_file()]
    whole = sha256(" ".join(PACKAGES).encode())
    for path in (*files, source / "Dockerfile", Path(__file__), *more):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]
