"""The operator's own client against the lab's real hub."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client


@pytest.fixture
async def kube(hub: Cluster) -> AsyncIterator[KubeClient]:
    client = KubeClient(member_client(hub.kubeconfig_text()))
    yield client
    await client.close()
