"""Two ways to hold the same ledger: open all the time, or opened anew for every single call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.books import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.ports import Ledger


class Reopened:
    """A ledger that forgets all it has in memory before each call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object, **kwargs: object) -> object:
            async with await SqlLedger.open(self._path) as ledger:
                method = cast("Callable[..., Awaitable[object]]", getattr(ledger, name))
                return await method(*args, **kwargs)

        return call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def as_port(ledger: SqlLedger) -> Ledger:
    """Type-checked only: the ledger is what ports.py asks for."""
    return ledger


@pytest.fixture(params=["held", "reopened"])
async def ledger(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[SqlLedger]:
    if request.param == "reopened":
        yield cast("SqlLedger", Reopened(path))
        return
    async with await SqlLedger.open(path) as held:
        yield held


@pytest.fixture
def now() -> datetime:
    return datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


Ask = Callable[..., AttemptRequest]


@pytest.fixture
def ask() -> Ask:
    """A request for an attempt; any field may be named."""

    def make(**fields: object) -> AttemptRequest:
        values: dict[str, object] = {
            "job_uid": "job",
            "request_id": "placement-1",
            "tenant": "team-a",
            "job_name": "train",
            "provider": "berlin",
            "product": "NVIDIA-H100-80GB-HBM3",
            "price": MicroUSD(1_250_000),
            "gpus": 8,
            "run_limit": 3600,
        }
        return cast("Callable[..., AttemptRequest]", AttemptRequest)(**{**values, **fields})

    return make
