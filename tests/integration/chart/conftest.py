"""The rendered chart as objects, and the hub as the chart's ServiceAccount sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from fedgpu_lab.api import ClusterApi
from fedgpu_lab.chart import Helm
from fedgpu_lab.cluster import Cluster

Manifest = dict[str, Any]
Find = Callable[..., Manifest]
Render = Callable[..., list[Manifest]]


@pytest.fixture
def render(helm: Helm) -> Render:
    """``render(values)`` → the chart's objects, without CRDs."""

    def rendered(values: Mapping[str, object] | None = None) -> list[Manifest]:
        return helm.template(values)

    return rendered


@pytest.fixture(scope="session")
def defaults(helm: Helm) -> list[Manifest]:
    """The objects of an installation with default values."""
    return helm.template()


@pytest.fixture
def find() -> Find:
    """``find(objects, kind, name_ends="")`` → the one object of that kind; fails where there is none or are several."""

    def one(objects: Iterable[Manifest], kind: str, name_ends: str = "") -> Manifest:
        found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name_ends)]
        assert len(found) == 1, f"{len(found)} objects of kind {kind}"
        return found[0]

    return one


@pytest.fixture
def operator(hub: Cluster, operator_service_account: str) -> Iterator[ClusterApi]:
    """The hub's API as the chart's ServiceAccount may use it."""
    token = yaml.safe_load(operator_service_account)["users"][0]["user"]["token"]
    api = ClusterApi(hub.server, hub.ca_pem, token)
    yield api
    api.close()
