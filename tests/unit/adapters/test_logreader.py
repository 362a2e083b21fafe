"""The log is read whole and once, in pieces as large as an endpoint allows, whatever it refuses on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from web3.types import RPCEndpoint, RPCResponse

from fedgpu_operator.adapters.chain.errors import AnswerError, fault_of
from fedgpu_operator.adapters.chain.history import LEAST_AFTER_SILENCE, MOST_BLOCKS, LogReader
from fedgpu_operator.adapters.chain.quorum import QuorumProvider
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wordings import LOGS, blocks_suggested
from fedgpu_operator.errors import ChainError, ChainUnreachableError

ADDRESS = to_checksum_address("0x" + "11" * 20)
Words = Callable[[int, int, int], str]


def mute(first: int, last: int, limit: int) -> str:
    return "block range is too wide"


def by_hex(first: int, last: int, limit: int) -> str:
    return f"this block range should work: [{first:#x}, {first + limit - 1:#x}]"


def by_decimal(first: int, last: int, limit: int) -> str:
    return f"query exceeds max results 20000, retry with the range {first}-{first + limit - 1}"


def by_count(first: int, last: int, limit: int) -> str:
    return f"eth_getLogs is limited to a {limit:,} range"


def useless(first: int, last: int, limit: int) -> str:
    return f"exceed maximum block range: {10 * (last - first + 1)}"


class Endpoint(QuorumProvider):
    """Refuses ranges above `limit` in some words, and is silent at the requests whose numbers are in `silent`."""

    def __init__(self, limit: int, words: Words, silent: frozenset[int] = frozenset()) -> None:
        super().__init__(["http://127.0.0.1:1"], None, 1.0, None)
        self.limit = limit
        self.words = words
        self.silent = silent
        self.asked: list[int] = []
        self.given: list[tuple[int, int]] = []

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        assert method == LOGS
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        self.asked.append(last - first + 1)
        if len(self.asked) in self.silent:
            raise ChainUnreachableError("gives no answer")
        if last - first + 1 > self.limit:
            error = {"code": -32005, "message": self.words(first, last, self.limit)}
            raise AnswerError(method, fault_of(error, 200, method))
        self.given.append((first, last))
        return {"jsonrpc": "2.0", "id": 1, "result": []}


def reader_of(endpoint: Endpoint) -> LogReader:
    rpc = Rpc("http://127.0.0.1:1")
    rpc.w3.provider = endpoint
    return LogReader(rpc, ADDRESS)


async def read(reader: LogReader, start: int, end: int) -> int:
    """Read on after every silence; how often there was one."""
    silences = 0
    while start <= end:
        try:
            async for last, _ in reader.pieces(start, end, [None]):
                start = last + 1
        except ChainUnreachableError:
            silences += 1
    return silences


@settings(max_examples=30)
@given(
    st.integers(0, 10**8),
    st.integers(1, 9_000),
    st.integers(1, 3_000),
    st.sampled_from([mute, by_hex, by_decimal, by_count, useless]),
    st.frozensets(st.integers(1, 30), max_size=10),
)
async def test_every_block_is_read_once_and_in_order(
    start: int, count: int, limit: int, words: Words, silent: frozenset[int]
) -> None:
    limit = max(limit, count // 300)
    endpoint = Endpoint(limit, words, silent)
    silences = await read(reader_of(endpoint), start, start + count - 1)
    assert endpoint.given[0][0] == start
    assert endpoint.given[-1][1] == start + count - 1
    assert all(after == last + 1 for (_, last), (after, _) in zip(endpoint.given, endpoint.given[1:], strict=False))
    assert max(endpoint.asked) <= MOST_BLOCKS
    wasted = len(endpoint.asked) - len(endpoint.given) - silences
    assert wasted <= 12 + len(endpoint.given) // 4, "few requests are made to be refused"


async def test_a_range_that_is_suggested_is_taken_and_kept() -> None:
    endpoint = Endpoint(800, by_count)
    reader = reader_of(endpoint)
    await read(reader, 0, 3_999)
    assert endpoint.asked == [2_000, 800, 800, 800, 800, 800]
    await read(reader, 4_000, 4_799)
    assert endpoint.asked[-1] == 800, "what was learned holds for later calls"


async def test_a_limit_that_stays_is_tried_less_and_less() -> None:
    endpoint = Endpoint(100, mute)
    await read(reader_of(endpoint), 0, 49_999)
    assert len(endpoint.given) >= 500
    assert len(endpoint.asked) - len(endpoint.given) < 20


async def test_pieces_grow_again_up_to_the_bound() -> None:
    endpoint = Endpoint(10, mute)
    reader = reader_of(endpoint)
    await read(reader, 0, 99)
    endpoint.limit = 10**9
    await read(reader, 100, 900_000)
    assert max(endpoint.asked) == endpoint.asked[-2] == MOST_BLOCKS


async def test_not_even_one_block_is_the_providers_own_refusal() -> None:
    endpoint = Endpoint(0, mute)
    with pytest.raises(ChainError, match="answers block range is too wide") as caught:
        await read(reader_of(endpoint), 5, 50)
    assert type(caught.value) is ChainError
    assert endpoint.asked[-1] == 1


async def test_silence_makes_requests_smaller_but_not_small() -> None:
    endpoint = Endpoint(10**9, mute, frozenset(range(1, 12)))
    assert await read(reader_of(endpoint), 0, 9_999) == 11
    assert endpoint.asked[:3] == [2_000, 1_000, 500]
    assert min(endpoint.asked[:-1]) == LEAST_AFTER_SILENCE


@pytest.mark.parametrize(
    ("words", "first", "blocks"),
    [
        ("Try with this block range [0x1388, 0x1770].", 5_000, 1_001),
        ("this block range should work: [0x0, 0x3d7773]", 5_000_000, None),
        ("retry with the range 5000-5499", 5_000, 500),
        ("eth_getLogs is limited to a 10,000 range", 0, 10_000),
        ("eth_getLogs is limited to 0 - 50 blocks range", 0, 50),
        ("you can make eth_getLogs requests with up to a 2K block range", 0, 2_000),
        ("exceed maximum block range: 5000", 0, 5_000),
        ("range too large. Max range: 800", 0, 800),
        ("ranges over 10000 blocks are not supported on freetier", 0, 10_000),
        ("query exceeds max block range 100000", 0, 100_000),
        ("block range greater than 500 max", 0, 500),
        ("please limit the query to at most 1000 blocks", 0, 1_000),
        ("query block range exceeds server limit, narrow your filter: 1000", 0, 1_000),
        ("range 1000000 exceeds limit of 10000", 0, 10_000),
        ("logs matched by query exceeds limit of 10000", 0, None),
        ("query returned more than 10000 results", 0, None),
        ("block range is too wide", 0, None),
        ("limited to a 0 range", 0, None),
    ],
)
def test_how_many_blocks_a_refusal_suggests(words: str, first: int, blocks: int | None) -> None:
    assert blocks_suggested(words, first) == blocks
