"""An address without code: nothing yet at a node that is behind, else a wrong one; and who bundles calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from eth_abi.abi import encode

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.chain.calls import MULTICALL3
from fedgpu_operator.adapters.chain.endpoint import Endpoint
from fedgpu_operator.adapters.chain.errors import fault_of
from fedgpu_operator.adapters.chain.escrow import LOOKS
from fedgpu_operator.adapters.chain.rpc import FRESH_S
from fedgpu_operator.adapters.chain.votes import Answer, Result, Vote, fingerprint
from fedgpu_operator.errors import ChainMismatchError, ChainUnreachableError

ESCROW, NAMED = "0x" + "11" * 20, "0x" + "22" * 20
NONE = encode(["(bool,bytes)[]"], [[]])
UNKNOWN = {"code": -32601, "message": "the method eth_syncing does not exist/is not available"}


class Node:
    """Answers whatever is asked; `batches` are the contracts that bundle calls."""

    def __init__(self) -> None:
        self.syncing: object = False
        self.number, self.age = 1000, 5
        self.code = "0x"
        self.batches: set[str] = set()

    def answer(self, method: str, params: Sequence[Any]) -> Answer:
        if method == "eth_syncing" and self.syncing is None:
            return fault_of(UNKNOWN, 200, method)
        if method == "eth_call":
            return Result("0x" + NONE.hex() if params[0]["to"] in self.batches else "0x")
        block = {
            "number": hex(self.number),
            "hash": "0x" + f"{self.number:064x}",
            "timestamp": hex(int(time.time()) - self.age),
        }
        answers: Mapping[str, object] = {
            "eth_chainId": "0x1",
            "eth_getCode": self.code,
            "eth_syncing": self.syncing,
            "eth_getBlockByNumber": block,
        }
        return Result(answers[method])


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()

    async def vote(self: Endpoint, method: str, params: Sequence[object], height: int) -> Vote:
        answer = made.answer(method, params)
        return Vote(self.host, answer, mark=fingerprint(method, answer))

    monkeypatch.setattr(Endpoint, "vote", vote)
    return made


@pytest.mark.parametrize("syncing", [False, None])
async def test_a_node_in_step_without_code_there_means_a_wrong_address_at_once(node: Node, syncing: object) -> None:
    node.syncing = syncing
    async with EscrowClient("http://rpc/", ESCROW, 1) as client:
        with pytest.raises(ChainMismatchError, match="holds no contract, not this ComputeEscrow"):
            await client.verify()


async def test_a_node_that_catches_up_means_nothing_yet_however_often_it_is_asked(node: Node) -> None:
    async with EscrowClient("http://rpc/", ESCROW, 1) as client:
        for node.syncing, node.number in (({"currentBlock": "0x1", "highestBlock": "0x9"}, 1000), (False, 0)):
            for _ in range(LOOKS + 2):
                with pytest.raises(ChainUnreachableError, match=r"no contract.*not yet: .*(catching up|but the first)"):
                    await client.verify()
        node.syncing, node.number = False, 1000
        with pytest.raises(ChainMismatchError, match="no contract"):
            await client.verify()


async def test_an_old_newest_block_is_a_node_behind_until_it_was_seen_often(node: Node) -> None:
    node.age = FRESH_S + 60
    async with EscrowClient("http://rpc/", ESCROW, 1) as client:
        for _ in range(LOOKS - 1):
            with pytest.raises(ChainUnreachableError, match=r"the newest block of .* is 66\d s old"):
                await client.verify()
        with pytest.raises(ChainMismatchError, match="no contract"):
            await client.verify()


async def test_other_code_is_a_wrong_address_at_any_node(node: Node) -> None:
    node.code, node.age = "0x6001", FRESH_S + 60
    async with EscrowClient("http://rpc/", ESCROW, 1) as client:
        with pytest.raises(ChainMismatchError, match="2 bytes of other code"):
            await client.verify()


@pytest.mark.parametrize(
    ("there", "used"),
    [
        ({NAMED, MULTICALL3}, NAMED),
        ({MULTICALL3}, MULTICALL3),
        (set(), None),
    ],
)
async def test_calls_are_bundled_by_the_named_contract_or_else_the_canonical_one(
    node: Node, there: set[str], used: str | None
) -> None:
    node.batches = there
    async with EscrowClient("http://rpc/", ESCROW, 1, batch=NAMED) as client:
        assert await client.batch() == used
