"""Real kubelets: an engine of the lab's own, the operator's image, a hub and a member, made once for all tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedgpu_lab import image, nodeimage, toolchain
from fedgpu_lab.engine import Engine
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.kind import Kind, KindCluster
from fedgpu_lab.layers import write_archive
from fedgpu_lab.progress import Progress, progress_for

TRAINER = "fedgpu-trainer:1"


class Timings:
    """Seconds by step, and other figures; written to TEST_KIND_FIGURES if that names a file."""

    def __init__(self) -> None:
        self.figures: dict[str, float | int | str] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.figures[name] = round(time.monotonic() - begin, 1)


@pytest.fixture(scope="session")
def timings() -> Iterator[Timings]:
    kept = Timings()
    yield kept
    if target := os.environ.get("TEST_KIND_FIGURES"):
        Path(target).write_text(json.dumps(kept.figures, indent=2) + "\n")


@pytest.fixture(scope="session")
def progress(pytestconfig: pytest.Config) -> Progress:
    return progress_for()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, progress: Progress, timings: Timings) -> Iterator[Engine]:
    toolchain.ensure(["kind", "kubectl", "helm", "kubelet", "kubeadm", "kube-proxy"], progress)
    with Engine(tmp_path_factory.mktemp("engine") / "docker", progress) as running:
        yield running


@pytest.fixture(scope="session")
def operator_image(engine: Engine, progress: Progress, timings: Timings) -> str:
    with timings.step("operator image"):
        image.build(engine, progress)
    return image.TAG


@pytest.fixture(scope="session")
def operator_archive(engine: Engine, operator_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    target = tmp_path_factory.mktemp("image") / "operator.tar"
    engine.docker("save", f"--output={target}", operator_image)
    yield target
    # pytest keeps the folders of three sessions, which would be two gigabytes.
    target.unlink()


@pytest.fixture(scope="session")
def trainer_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    program = nodeimage.small_programs(folder)["trainer"]
    write_archive(folder / "trainer.tar", TRAINER, {"/trainer": program}, entrypoint=["/trainer"], user="65532:65532")
    return folder / "trainer.tar"


@pytest.fixture(scope="session")
def kind(engine: Engine, progress: Progress, timings: Timings) -> Kind:
    with timings.step("node image"):
        node = nodeimage.ensure(engine, progress)
    return Kind(engine, node, progress)


@pytest.fixture(scope="session")
def hub(kind: Kind, operator_archive: Path, progress: Progress, timings: Timings) -> KindCluster:
    with progress.task("Making the hub"), timings.step("hub"):
        cluster = kind.create("hub")
    with timings.step("operator image onto the hub"):
        cluster.load(operator_archive)
    return cluster


@pytest.fixture(scope="session")
def member(kind: Kind, trainer_archive: Path, progress: Progress, timings: Timings) -> KindCluster:
    """A member with four L4, and the image of the trainer on its node."""
    with progress.task("Making a member"), timings.step("member"):
        cluster = kind.create("alpha")
        cluster.load(trainer_archive)
        cluster.add_gpus(GpuNodes.of("l4", count_per_node=4, region="eu-central-1"))
    return cluster
