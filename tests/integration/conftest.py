"""What several folders of the integration tests start from."""

from __future__ import annotations

import pytest

from fedgpu_lab import Cluster
from fedgpu_operator.api.crd import all_crds


@pytest.fixture(scope="module")
def kinds(hub: Cluster) -> Cluster:
    """The hub with our kinds, served."""
    hub.apply(all_crds())
    names = [f"crd/{crd['metadata']['name']}" for crd in all_crds()]
    hub.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return hub
