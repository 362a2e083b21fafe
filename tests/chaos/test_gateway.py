"""A campaign behind a gateway that turns requests away and loses replies: nothing is lost, nothing is paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.field import Range, behind_a_gateway, open_range
from tests.chaos.seeds import TENANTS, fight

from fedgpu_lab.cluster import Cluster
from fedgpu_lab.gateway import Gateway

pytestmark = pytest.mark.chains("hardhat")

SEED = 6


@pytest.fixture
def served(
    hubs: tuple[Cluster, Cluster], chain_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Range, Gateway]]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with (
        open_range(hubs[0], folder, kind=chain_kind, tenants=TENANTS, usage=()) as field,
        behind_a_gateway(field) as gateway,
    ):
        yield field, gateway


def test_a_campaign_behind_a_gateway_loses_and_doubles_nothing(served: tuple[Range, Gateway]) -> None:
    field, gateway = served
    row = fight(field, SEED)
    assert row["failure"] == ""
    assert (row["lost"], row["doubled"], row["conserved"]) == (0, 0, True)
    assert row["kills"]
    assert gateway.calls["eth_sendRawTransaction"] > 2, "half of the replies to them were lost"
