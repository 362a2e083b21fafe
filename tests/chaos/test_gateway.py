"""A campaign behind a gateway that turns requests away and loses replies: nothing is lost, nothing is paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.field import Range, open_range
from tests.chaos.seeds import TENANTS, fight

from fedgpu_operator.lab.cluster import Cluster
from fedgpu_operator.lab.faultychain import FrontDoor
from fedgpu_operator.lab.gateway import Gateway

pytestmark = pytest.mark.chains("hardhat")

SEED = 6
BUSY_EVERY = 41
"""Of so many requests one is turned away. A pass is some dozens of them, and one that fails ends it."""


@pytest.fixture
def behind_a_gateway(
    hubs: tuple[Cluster, Cluster], chain_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Range, Gateway]]:
    """A range whose settler reaches its chain through a gateway alone; everybody else is at the node."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    with open_range(hubs[0], folder, kind=chain_kind, tenants=TENANTS, usage=()) as field:
        gateway = Gateway(field.chain.rpc_url)
        gateway.as_public_ones()
        gateway.busy_every = BUSY_EVERY
        door = FrontDoor(gateway)
        door.open()
        field.site = replace(field.site, rpc_urls=(door.url,))
        yield field, gateway
        door.close()


def test_a_campaign_behind_a_gateway_loses_and_doubles_nothing(behind_a_gateway: tuple[Range, Gateway]) -> None:
    field, gateway = behind_a_gateway
    row = fight(field, SEED)
    assert row["failure"] == ""
    assert (row["lost"], row["doubled"], row["conserved"]) == (0, 0, True)
    assert row["kills"]
    assert gateway.calls["eth_sendRawTransaction"] > 2, "half of the replies to them were lost"
