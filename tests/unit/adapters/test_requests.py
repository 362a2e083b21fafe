"""Requests to the chain and calls to the ledger are counted by how they ended; no label knows where they went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hexbytes import HexBytes
from prometheus_client import CollectorRegistry

from fedgpu_operator.adapters.chain.endpoint import Endpoint
from fedgpu_operator.adapters.chain.rpc import Rpc, block_at
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.metrics import PrometheusMetrics

Sample = Callable[..., float]
SECRET = "http://rpc.example.com/v2/0123456789abcdef"


@pytest.fixture
def registry() -> CollectorRegistry:
    return PrometheusMetrics(CollectorRegistry()).registry


@pytest.fixture
def since(registry: CollectorRegistry) -> Sample:
    """What a series has grown by since the test began."""
    before = {(s.name, *sorted(s.labels.items())): s.value for family in registry.collect() for s in family.samples}

    def grown(name: str, **labels: str) -> float:
        now = registry.get_sample_value(name, labels)
        return (now or 0.0) - before.get((name, *sorted(labels.items())), 0.0)

    return grown


@asynccontextmanager
async def answering(
    answer: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]],
) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(SECRET, 5.0, None)
    await endpoint._client.aclose()
    endpoint._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    yield endpoint
    await endpoint.aclose()


@pytest.mark.parametrize(
    ("status", "body", "outcome", "requests"),
    [
        (200, {"jsonrpc": "2.0", "id": 1, "result": "0x1"}, "ok", 1),
        (200, {"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "execution reverted"}}, "error", 1),
        (200, ["no", "answer"], "no_answer", 1),
        (429, {"message": "slow down"}, "turned_away", 3),
    ],
)
async def test_each_request_counts_once_by_its_outcome(
    monkeypatch: pytest.MonkeyPatch, since: Sample, status: int, body: object, outcome: str, requests: int
) -> None:
    monkeypatch.setattr("fedgpu_operator.adapters.chain.endpoint.TURNED_AWAY_S", (0.0, 0.0))

    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body)

    async with answering(answer) as endpoint:
        await endpoint.vote("eth_call", [], 0)
    for each in ("ok", "error", "no_answer", "turned_away"):
        wanted = requests if each == outcome else 0
        assert since("fedgpu_rpc_requests_total", method="eth_call", outcome=each) == wanted
    assert since("fedgpu_rpc_request_duration_seconds_count", method="eth_call") == requests


async def test_a_request_that_is_cancelled_has_no_outcome(since: Sample) -> None:
    sent = asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(answer) as endpoint:
        task = asyncio.create_task(endpoint.vote("eth_call", [], 0))
        await sent.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert since("fedgpu_rpc_request_duration_seconds_count", method="eth_call") == 0


async def test_the_age_of_the_finalized_block_goes_by_the_blocks_own_time(
    monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    async def block(self: object, name: object) -> dict[str, object]:
        return {"number": 7, "hash": HexBytes(b"\1" * 32), "timestamp": 1_700_000_000 if name == "finalized" else 9}

    monkeypatch.setattr("web3.eth.AsyncEth.get_block", block)
    async with Rpc(SECRET) as rpc:
        await block_at(rpc, "finalized")
        await block_at(rpc, "latest")
    assert registry.get_sample_value("fedgpu_chain_finalized_block_timestamp_seconds") == 1_700_000_000


async def test_the_ledger_shows_its_size_and_how_long_it_takes(
    tmp_path: Path, since: Sample, registry: CollectorRegistry
) -> None:
    async with await SqlLedger.open(tmp_path / "ledger.db") as ledger:
        await ledger.ping(5.0)
        await ledger.bind(1, "0x" + "5f" * 20)
    size = registry.get_sample_value("fedgpu_ledger_size_bytes")
    assert size is not None
    assert 4096 < size < 2**22
    calls = {call: since("fedgpu_ledger_call_duration_seconds_count", call=call) for call in ("ping", "write")}
    assert calls == {"ping": 1, "write": 1}


async def test_no_series_knows_an_address(registry: CollectorRegistry) -> None:
    async def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to rpc.example.com")

    async with answering(answer) as endpoint:
        await endpoint.vote("eth_chainId", [], 0)
    labels = {value for family in registry.collect() for s in family.samples for value in s.labels.values()}
    assert {"eth_chainId", "no_answer"} <= labels
    assert not [value for value in labels if "example.com" in value or "0123456789abcdef" in value]
