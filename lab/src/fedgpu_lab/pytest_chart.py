"""The chart as pytest fixtures, beside pytest_plugin's clusters; Helm is built when the first test asks."""

from __future__ import annotations

import pytest

from fedgpu_lab import chart as lab_chart
from fedgpu_lab.chart import Helm
from fedgpu_lab.progress import progress_for
from fedgpu_lab.world import Lab


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The pinned Helm, with a home of its own."""
    return Helm(tmp_path_factory.mktemp("helm"), progress_for())


@pytest.fixture(scope="session")
def operator_service_account(lab: Lab) -> str:
    """A kubeconfig (YAML text) of the ServiceAccount that the chart makes on the hub, CRDs installed with it.

    Whoever runs the operator with it runs with the chart's RBAC and nothing more.
    """
    return lab_chart.install(lab)
