"""Fixtures that all rooms of the tests may ask for; each is started only when a test does."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Both measure how busy the machine is, which says nothing about the code: a test fails for what it finds alone.
settings.register_profile("fedgpu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedgpu")

pytest_plugins = [
    "fedgpu_lab.pytest_plugin",
    "fedgpu_lab.pytest_chart",
    "fedgpu_lab.pytest_postgres",
]

CHAINS = tuple(os.environ.get("TEST_CHAINS", "anvil hardhat").split())
"""The chains that tests run on which can take several; `make chains` names geth."""
ANY_CHAIN = ("anvil", "hardhat", "geth")
"""Where a test without a mark runs."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chains(*kinds): the chains of fedgpu_lab/chains.py on which a test makes sense")
    config.addinivalue_line(
        "markers", "story: each test of the module builds on those before it, so they keep their order"
    )


@pytest.fixture(scope="session")
def chain_kind(request: pytest.FixtureRequest) -> str:
    """The chain that a test runs on, by its name in fedgpu_lab/chains.py."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that needs `chain_kind` runs once on each chain that its mark allows."""
    if "chain_kind" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("chains")
    kinds = mark.args if mark is not None else ANY_CHAIN
    metafunc.parametrize("chain_kind", kinds, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for a chain that this run does not ask for, and give stories their order back."""
    left_out = [item for item in items if _kind(item) not in (None, *CHAINS)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    _order_stories(items)


def _order_stories(items: list[pytest.Item]) -> None:
    """Sort the tests of each module that is a story by their lines: pytest-randomly has shuffled them."""
    stories: defaultdict[Path, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        if item.get_closest_marker("story") is not None:
            stories[item.path].append(place)
    for places in stories.values():
        told = sorted((items[place] for place in places), key=lambda item: item.location[1] or 0)
        for place, item in zip(places, told, strict=True):
            items[place] = item


def _kind(item: pytest.Item) -> str | None:
    chosen = getattr(item, "callspec", None)
    return chosen.params.get("chain_kind") if chosen is not None else None
