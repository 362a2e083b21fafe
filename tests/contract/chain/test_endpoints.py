"""What the chain adapter makes of endpoints that fail in every way, and that no secret leaves with the error."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain import EscrowClient, Roles, TenantWallet, calls, deploy
from fedgpu_operator.adapters.chain.endpoint import Endpoint
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    ConfigurationError,
    FedGPUError,
    RevertedError,
    StatePrunedError,
)

ESCROW = "0x" + "11" * 20
KEY = "0x" + "a7" * 32
API_KEY = "s3cr3t-api-key"
Answer = Callable[[dict[str, Any]], Awaitable[web.Response]]


@asynccontextmanager
async def endpoint(answer: Answer, seen: list[web.Request] | None = None) -> AsyncIterator[str]:
    """A JSON-RPC server that gives `answer`; yields its address, which carries an API key as real ones do."""

    async def handle(request: web.Request) -> web.Response:
        if seen is not None:
            seen[:] = [request]
        return await answer(await request.json())

    app = web.Application()
    app.router.add_post("/{key}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/{API_KEY}"
    finally:
        await runner.cleanup()


def rpc_error(code: int, message: str, data: str | None = None) -> Answer:
    async def answer(request: dict[str, Any]) -> web.Response:
        error = {"code": code, "message": message} | ({"data": data} if data else {})
        return web.json_response({"jsonrpc": "2.0", "id": request["id"], "error": error})

    return answer


def plain(status: int, body: str) -> Answer:
    async def answer(request: dict[str, Any]) -> web.Response:
        return web.Response(status=status, text=body)

    return answer


async def silent(request: dict[str, Any]) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def ask(url: str, patience: float = 5.0) -> FedGPUError:
    """The error that every kind of call gives at this endpoint; they must agree, and keep what is secret."""
    async with EscrowClient(url, ESCROW, 1, KEY, patience) as client:
        assert API_KEY not in repr(client)
        asked: list[Awaitable[object]] = [
            client.verify(),
            client.snapshot([ESCROW], []),
            client.epoch(1),
            client.receipt(ZERO_HASH),
            client.send(calls.encode(client.escrow, "cancelEpoch", [1])),
        ]
        results = await asyncio.gather(*asked, return_exceptions=True)
    errors = [result for result in results if isinstance(result, FedGPUError)]
    assert len(errors) == len(results), results
    assert len({type(error) for error in errors}) == 1, errors
    for error in errors:
        text = "".join(traceback.format_exception(error))
        assert KEY[2:] not in text
        assert API_KEY not in text
    return errors[0]


@pytest.mark.parametrize(
    "answer",
    [
        plain(500, "oops"),
        plain(401, "who?"),
        plain(200, "<html>"),
        plain(200, "[]"),
        plain(200, '"x"'),
        plain(429, "slow"),
    ],
    ids=["500", "401", "html", "list", "text", "429"],
)
async def test_no_usable_answer_means_unknown(answer: Answer) -> None:
    async with endpoint(answer) as url:
        assert isinstance(await ask(url), ChainUnreachableError)


async def test_nobody_there_means_unknown() -> None:
    async with endpoint(silent) as url:
        pass
    assert isinstance(await ask(url), ChainUnreachableError)


async def test_silence_means_unknown_after_the_timeout() -> None:
    async with endpoint(silent) as url:
        assert isinstance(await ask(url, patience=0.2), ChainUnreachableError)


RUBBISH = [0, "", "0x", "0xzz", "-0x1", [], {}, [{}], {"number": "0x1"}, {"hash": "0x", "number": "0x2"}, True, 1e400]


@pytest.mark.parametrize("result", RUBBISH, ids=repr)
async def test_whatever_an_endpoint_says_is_an_error_of_ours_or_a_no(result: object) -> None:
    async def answer(request: dict[str, Any]) -> web.Response:
        told = "0x1" if request["method"] == "eth_chainId" else result
        return web.json_response({"jsonrpc": "2.0", "id": request["id"], "result": told})

    async with endpoint(answer) as url, EscrowClient(url, ESCROW, 1, KEY, 5.0) as client:
        reads: list[Awaitable[object]] = [
            client.verify(),
            client.snapshot([ESCROW], []),
            client.epoch(1),
            client.posted(1),
            client.disputes(),
            client.nonces(ESCROW),
            client.suggest_fees(),
            client.send(calls.encode(client.escrow, "cancelEpoch", [1])),
        ]
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(outcome, ChainError), outcome
        for each in (client.receipt(ZERO_HASH), client.is_valid_signature(ESCROW, b"\1" * 32, b"")):
            (said,) = await asyncio.gather(each, return_exceptions=True)
            assert isinstance(said, ChainError) or not said


async def test_json_nested_without_end_is_no_answer() -> None:
    async def answer(request: dict[str, Any]) -> web.Response:
        return web.Response(text='{"result":' + "[" * 200_000 + "]" * 200_000 + "}", content_type="application/json")

    async with endpoint(answer) as url:
        assert isinstance(await ask(url), ChainUnreachableError)


async def test_an_endpoint_that_drips_is_given_up() -> None:
    async def answer(request: dict[str, Any]) -> web.Response:
        response = web.StreamResponse()
        await response.prepare(asking[0])
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    asking: list[web.Request] = []
    async with endpoint(answer, seen=asking) as url:
        assert isinstance(await ask(url, patience=0.3), ChainUnreachableError)


async def test_a_refused_request_is_an_error_of_the_chain() -> None:
    async with endpoint(rpc_error(-32602, "invalid argument 0")) as url:
        async with EscrowClient(url, ESCROW, 1) as client:
            with pytest.raises(ChainError, match=r"reading fees: .* answers invalid argument 0") as caught:
                await client.suggest_fees()
        error = await ask(url)
    assert type(caught.value) is type(error) is ChainError
    assert "invalid argument 0" in str(error)


def in_status(status: int, answer: Answer) -> Answer:
    """The same, with its errors under another HTTP status."""

    async def changed(request: dict[str, Any]) -> web.Response:
        response = await answer(request)
        if "error" in json.loads(response.text or ""):
            response.set_status(status)
        return response

    return changed


@pytest.mark.parametrize("status", [200, 400, 429, 503])
@pytest.mark.parametrize(
    "answer",
    [
        rpc_error(-32000, "header not found"),
        rpc_error(-32005, "daily request count exceeded, request rate limited"),
        rpc_error(-32000, "transaction indexing is in progress"),
        rpc_error(-32603, "Internal error"),
        rpc_error(429, "has exceeded its compute units per second capacity"),
    ],
    ids=["header", "rate", "indexing", "internal", "429"],
)
async def test_not_now_is_unknown_in_the_providers_own_words(status: int, answer: Answer) -> None:
    async with endpoint(in_status(status, answer)) as url:
        error = await ask(url)
    assert type(error) is ChainUnreachableError
    assert re.search(r"gives no answer now \((header|daily|transaction|Internal|has exceeded)", str(error))


@pytest.mark.parametrize("busy", [plain(429, "slow"), rpc_error(-32005, "request rate limited")], ids=["429", "rate"])
async def test_a_reading_that_is_turned_away_is_repeated_and_what_is_sent_is_not(busy: Answer) -> None:
    asked: Counter[str] = Counter()

    async def answer(request: dict[str, Any]) -> web.Response:
        asked[request["method"]] += 1
        # The first reading and one more are turned away, and whatever is sent.
        if request["method"] == "eth_sendRawTransaction" or asked.total() % 4 == 1:
            return await busy(request)
        result = "0x1" if request["method"] == "eth_chainId" else "0x" + "00" * 31 + "2a"
        return web.json_response({"jsonrpc": "2.0", "id": request["id"], "result": result})

    async with endpoint(answer) as url:
        asking = Endpoint(url, 5.0, 1)
        for _ in range(4):
            assert (await asking.vote("eth_getStorageAt", [ESCROW, "0x0", "latest"], 0)).answer is not None
        assert (await asking.vote("eth_sendRawTransaction", ["0x00"], 0)).answer is None
        await asking.aclose()
    assert asked["eth_getStorageAt"] > 4
    assert asked["eth_sendRawTransaction"] == 1


@pytest.mark.parametrize(
    "body", [f"quota of {API_KEY} used up", f'{{"message": "no credit left for {API_KEY}\\u001b[31m"}}']
)
async def test_the_words_of_a_status_are_shown_without_key_and_controls(body: str) -> None:
    async with endpoint(plain(429, body)) as url:
        error = await ask(url)
    assert re.search(r"HTTP 429: (quota of …|no credit left for …)", str(error))
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("status", [200, 400])
async def test_an_error_without_its_member_is_an_error_all_the_same(status: int) -> None:
    """As QuickNode and drpc send some of theirs."""

    async def answer(request: dict[str, Any]) -> web.Response:
        return web.json_response({"code": -32007, "message": "50/second request limit reached"}, status=status)

    async with endpoint(answer) as url:
        error = await ask(url)
    assert type(error) is ChainUnreachableError
    assert "50/second request limit reached" in str(error)


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_revert_in_any_status_is_a_revert(status: int) -> None:
    async with (
        endpoint(in_status(status, revert_with("ZeroRoot()"))) as url,
        EscrowClient(url, ESCROW, 1, KEY) as client,
    ):
        with pytest.raises(RevertedError, match=r"ZeroRoot\(\)"):
            await client.send(calls.encode(client.escrow, "cancelEpoch", [1]))


async def test_a_contract_cannot_have_the_operator_fetch_an_address() -> None:
    """EIP-3668: web3 follows the URLs in such a revert, to wherever the contract says."""
    seen: list[web.Request] = []
    async with endpoint(plain(200, "{}"), seen) as elsewhere:
        lookup = "OffchainLookup(address,string[],bytes,bytes4,bytes)"
        data = encode(["address", "string[]", "bytes", "bytes4", "bytes"], [ESCROW, [elsewhere], b"", b"\1" * 4, b""])
        answer = revert(keccak(text=lookup)[:4] + data)
        async with endpoint(answer) as url, EscrowClient(url, ESCROW, 1, KEY) as client:
            with pytest.raises(RevertedError):
                await client.epoch(1)
    assert seen == []


async def test_a_node_without_the_state_is_named_with_the_cure() -> None:
    async with endpoint(rpc_error(-32000, "missing trie node 5f1a (path ) state 0x5f1a is not available")) as url:
        error = await ask(url)
    assert type(error) is StatePrunedError
    assert "missing trie node 5f1a" in str(error)
    assert "an archive node" in str(error)


def revert_with(signature: str, *values: object) -> Answer:
    kinds = signature.partition("(")[2].rstrip(")")
    return revert(keccak(text=signature)[:4] + encode(kinds.split(",") if kinds else [], list(values)))


def revert(raw: bytes) -> Answer:
    data = "0x" + raw.hex()

    async def answer(request: dict[str, Any]) -> web.Response:
        results = {
            "eth_chainId": "0x1",
            "eth_getTransactionCount": "0x0",
            "eth_maxPriorityFeePerGas": "0x1",
            "eth_getBlockByNumber": {"number": "0x1", "baseFeePerGas": "0x1", "hash": ZERO_HASH, "timestamp": "0x1"},
        }
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] in results:
            return web.json_response(body | {"result": results[request["method"]]})
        body["error"] = {"code": 3, "message": "execution reverted", "data": data}
        return web.Response(text=json.dumps(body), content_type="application/json")

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (revert_with("ZeroRoot()"), "ZeroRoot()"),
        (revert_with("NotActive(uint32,uint32)", 7, 3), "NotActive(epoch=7, active=3)"),
        (revert_with("StaleState(uint40,bytes32)", 1, b"\1" * 32), "StaleState(seq=1, prevRoot=0x" + "01" * 32 + ")"),
        (
            revert_with("ERC20InsufficientBalance(address,uint256,uint256)", ESCROW, 1, 2),
            f"ERC20InsufficientBalance(sender={ESCROW}, balance=1, needed=2)",
        ),
        (revert_with("Unheard(uint256)", 5), "an unknown error 0xf1c95f7a00"),
        (
            revert_with("Error(string)", "Blacklistable: account\x1b is blacklisted"),
            "Blacklistable: account\ufffd is bl",
        ),
        (revert_with("Panic(uint256)", 0x11), "Panic(0x11): arithmetic overflow or underflow"),
    ],
)
async def test_a_revert_says_what_the_contract_said(answer: Answer, words: str) -> None:
    async with endpoint(answer) as url, EscrowClient(url, ESCROW, 1, KEY) as client:
        with pytest.raises(RevertedError) as caught:
            await client.send(calls.encode(client.escrow, "cancelEpoch", [1]))
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["", "0x12", "a7" * 33, KEY[:-1], "0x" + "0" * 64, "f" * 64, "not a key at all"])
async def test_a_wrong_key_is_refused_without_being_shown(key: str) -> None:
    for make in (
        lambda: EscrowClient("http://127.0.0.1:1", ESCROW, 1, key),
        lambda: TenantWallet("http://127.0.0.1:1", key),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert not key or key not in "".join(traceback.format_exception(caught.value))


async def test_no_key_is_shown_by_what_holds_it() -> None:
    async with EscrowClient("http://127.0.0.1:1/" + API_KEY, ESCROW, 1, KEY) as client:
        for held in (client, client._sender, vars(client), client._sender and vars(client._sender)):
            assert KEY[2:] not in repr(held)
            assert API_KEY not in repr(held)


async def test_a_reader_cannot_write() -> None:
    async with EscrowClient("http://127.0.0.1:1", ESCROW, 1) as client:
        assert client.address is None
        with pytest.raises(ConfigurationError, match="without a signer"):
            await client.send(calls.encode(client.escrow, "cancelEpoch", [1]))


async def test_deploying_to_nobody_means_unknown() -> None:
    settler, meter, other = ("0x" + digit * 40 for digit in "234")
    roles = Roles(settler, meter, arbiter=other, guardian=other, reserve=other, owners=(ESCROW,))
    with pytest.raises(ChainUnreachableError):
        await deploy("http://127.0.0.1:1", KEY, roles)
