"""How often a reading is made at one endpoint, and at several that do not agree: repeated in one place only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from fedgpu_operator.adapters.chain import Patience, endpoint
from fedgpu_operator.adapters.chain.endpoint import Endpoint
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wordings import SEND
from fedgpu_operator.errors import ChainUnreachableError

Answer = tuple[int, object]
"""HTTP status and body."""
GOOD: Answer = (200, {"jsonrpc": "2.0", "id": 1, "result": "0x7"})
BUSY: Answer = (503, "busy")
LIMITED: Answer = (200, {"error": {"code": -32005, "message": "rate limited"}})
STRANGER: Answer = (401, "who are you?")
KEYLESS: Answer = (200, {"error": {"code": -32000, "message": "Must be authenticated!"}})


class Script:
    """What each endpoint answers one after the other, the last for good; `asked` are the methods, by host."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.asked: dict[str, list[str]] = {host: [] for host in answers}
        self._answers = {host: list(each) for host, each in answers.items()}

    async def post(self, at: Endpoint, body: bytes) -> tuple[int, bytes]:
        self.asked[at.host].append(json.loads(body)["method"])
        left = self._answers[at.host]
        status, answer = left.pop(0) if len(left) > 1 else left[0]
        return status, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TURNED_AWAY_S", (0.0, 0.0))
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.0)


def scripted(monkeypatch: pytest.MonkeyPatch, **answers: Sequence[Answer]) -> Script:
    script = Script(**answers)

    async def post(self: Endpoint, body: bytes) -> tuple[int, bytes]:
        return await script.post(self, body)

    monkeypatch.setattr(Endpoint, "_post", post)
    return script


async def read(hosts: Sequence[str], patience: Patience | None, quorum: int | None = None) -> Any:
    async with Rpc([f"http://{host}/" for host in hosts], quorum=quorum, patience=patience) as rpc:
        with rpc.speaking("reading"):
            return await rpc.w3.eth.gas_price


@pytest.mark.parametrize("turned_away", [BUSY, LIMITED])
async def test_what_is_turned_away_is_repeated_twice_and_then_unknown(
    monkeypatch: pytest.MonkeyPatch, turned_away: Answer
) -> None:
    script = scripted(monkeypatch, a=[turned_away])
    with pytest.raises(ChainUnreachableError):
        await read("a", None)
    assert script.asked == {"a": ["eth_gasPrice"] * 3}


async def test_with_patience_a_reading_is_repeated_until_it_is_answered_and_no_oftener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Repetitions inside of repetitions would ask three times as often as the pauses say."""
    script = scripted(monkeypatch, a=[BUSY] * 4 + [GOOD])
    assert await read("a", Patience(10, 10)) == 7
    assert script.asked == {"a": ["eth_gasPrice"] * 5}


@pytest.mark.parametrize("denied", [STRANGER, KEYLESS])
@pytest.mark.parametrize("patience", [None, Patience(10, 10)])
async def test_a_caller_that_is_not_known_does_not_ask_again(
    monkeypatch: pytest.MonkeyPatch, denied: Answer, patience: Patience | None
) -> None:
    script = scripted(monkeypatch, a=[denied, GOOD])
    with pytest.raises(ChainUnreachableError, match="a denies access"):
        await read("a", patience)
    assert script.asked == {"a": ["eth_gasPrice"]}


async def test_a_quorum_that_one_stranger_makes_impossible_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted(monkeypatch, a=[GOOD], b=[STRANGER, GOOD])
    with pytest.raises(ChainUnreachableError, match="b denies access"):
        await read("ab", Patience(10, 10), quorum=2)
    assert script.asked == {"a": ["eth_gasPrice"], "b": ["eth_gasPrice"]}


async def test_endpoints_that_do_not_agree_are_asked_again_with_patience_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def block(last: str) -> Answer:
        found = {"number": "0x5", "hash": "0x" + last * 64, "timestamp": "0x5", "parentHash": "0x" + "0" * 64}
        return 200, {"jsonrpc": "2.0", "id": 1, "result": found}

    async def at_five(patience: Patience | None) -> Any:
        async with Rpc(["http://a/", "http://b/"], quorum=2, patience=patience) as rpc:
            with rpc.speaking("reading"):
                return (await rpc.w3.eth.get_block(5))["number"]

    said: list[str] = []
    script = scripted(monkeypatch, a=[block("1")], b=[block("2"), block("2"), block("1")])
    assert await at_five(Patience(10, 10, said.append)) == 5
    assert script.asked == {"a": ["eth_getBlockByNumber"] * 3, "b": ["eth_getBlockByNumber"] * 3}
    assert len(said) == 1
    assert "do not agree" in said[0]
    scripted(monkeypatch, a=[block("1")], b=[block("2"), block("1")])
    with pytest.raises(ChainUnreachableError, match="do not agree"):
        await at_five(None)


@pytest.mark.parametrize("patience", [None, Patience(10, 10)])
async def test_what_is_sent_goes_out_once(monkeypatch: pytest.MonkeyPatch, patience: Patience | None) -> None:
    script = scripted(monkeypatch, a=[BUSY, GOOD])
    async with Rpc("http://a/", patience=patience) as rpc:
        with pytest.raises(ChainUnreachableError), rpc.speaking("sending"):
            await rpc.w3.eth.send_raw_transaction(b"\x02\xf8")
    assert script.asked == {"a": [SEND]}
