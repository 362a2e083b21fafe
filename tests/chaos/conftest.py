"""Two shooting ranges, each with a hub of its own: a settlement epoch is named without a namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.chaos.field import Range, open_range, prepare_hub

from fedgpu_lab.cluster import Cluster
from fedgpu_lab.world import Lab, MemberSpec


@pytest.fixture(scope="session")
def hubs() -> Iterator[tuple[Cluster, Cluster]]:
    with Lab([MemberSpec("other")]) as lab:
        found = lab.hub, lab.members["other"]
        for hub in found:
            prepare_hub(hub)
        yield found


@pytest.fixture(scope="session")
def ranges(
    chain_kind: str, hubs: tuple[Cluster, Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Range, Range]]:
    folder = tmp_path_factory.mktemp("chaos")
    with ExitStack() as stack:
        one, two = (stack.enter_context(open_range(hub, folder / hub.name, kind=chain_kind)) for hub in hubs)
        yield one, two


@pytest.fixture
def shooting_range(ranges: tuple[Range, Range]) -> Range:
    return ranges[0]
