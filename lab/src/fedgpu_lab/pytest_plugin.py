"""The lab as pytest fixtures: clusters and chain once per session, names of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from uuid import uuid4

import pytest

from fedgpu_lab import toolchain
from fedgpu_lab.chain import Chain
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.progress import progress_for
from fedgpu_lab.world import Lab, MemberSpec
from fedgpu_operator.errors import LabError

TEST_MEMBERS = (
    MemberSpec(
        "alpha",
        (GpuNodes.of("h100", nodes=2, count_per_node=8, region="eu-central-1", zone="eu-central-1a"),),
    ),
    MemberSpec(
        "beta",
        (
            GpuNodes.of("a100-80gb", nodes=1, count_per_node=8, region="us-east-1", zone="us-east-1a"),
            GpuNodes.of("l4", nodes=2, count_per_node=4, region="us-east-1", zone="us-east-1b"),
        ),
    ),
)
"""Two owners: one in Germany with H100s, one in the United States with A100s and L4s."""


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """A hub, the members alpha and beta, and a chain; started when the first test asks."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    # A first build takes minutes, which people must see; with everything in the cache nothing is printed.
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        toolchain.ensure([*toolchain.CLUSTER_BINARIES, "anvil"], progress_for())
    with Lab(TEST_MEMBERS, chain=True) as running:
        yield running


@pytest.fixture(scope="session")
def hub(lab: Lab) -> Cluster:
    return lab.hub


@pytest.fixture(scope="session")
def members(lab: Lab) -> Mapping[str, Cluster]:
    return lab.members


@pytest.fixture(scope="session")
def chain(lab: Lab) -> Chain:
    if lab.chain is None:
        raise LabError("the lab of the tests runs without a chain")
    return lab.chain


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """``unique_name("tenant")`` → a DNS label that no other test uses, so that tests share clusters safely."""
    return lambda stem: f"{stem}-{uuid4().hex[:8]}"
