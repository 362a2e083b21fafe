"""The lab's PostgreSQL as pytest fixtures: one server per session, a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedgpu_lab.postgres import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server; started when the first test asks."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of a new, empty database."""
    return postgres.create()
