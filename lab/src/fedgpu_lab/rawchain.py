"""Reads a chain by raw JSON-RPC for the audit: imports nothing of the operator, and believes no answer unchecked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

LOGS_PER_CALL: Final = 5_000
"""Blocks asked for at once; public endpoints refuse much more."""
NOBODY: Final = "0x" + "00" * 20


class AuditError(Exception):
    """The chain gave no answer, or one that cannot be read; says nothing about the money."""


@dataclass(frozen=True, slots=True)
class Log:
    """One event: the transaction it came in, its topics, and the words of its data."""

    transaction: str
    topics: tuple[str, ...]
    data: bytes

    def number(self, word: int) -> int:
        """An unsigned integer of the data, by its place."""
        return int.from_bytes(self.data[32 * word : 32 * word + 32])

    def address(self, topic: int) -> str:
        """An address among the topics, by its place; lower-case."""
        return "0x" + self.topics[topic][-40:].lower()


class RawChain:
    """Raw JSON-RPC calls; every answer is checked before it is used. Raises AuditError."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def finalized(self) -> int:
        """The newest block that cannot go away any more."""
        answer = self._call("eth_getBlockByNumber", "finalized", False)
        if not isinstance(answer, dict):
            raise AuditError("the chain names no finalized block")
        return int(str(answer["number"]), 16)

    def words(self, contract: str, signature: str, block: int, *values: object) -> tuple[int, ...]:
        """The words that a getter returns, as unsigned integers; the arguments' types are in the signature."""
        types = signature.partition("(")[2].removesuffix(")")
        arguments = encode(types.split(",") if types else [], values)
        data = keccak(text=signature)[:4] + arguments
        answer = _bytes(str(self._call("eth_call", {"to": contract, "data": "0x" + data.hex()}, hex(block))))
        if len(answer) < 32 or len(answer) % 32:
            raise AuditError(f"{contract} does not answer {signature}")
        found: tuple[int, ...] = decode(["uint256"] * (len(answer) // 32), answer)
        return found

    def number(self, contract: str, signature: str, block: int, *values: object) -> int:
        """The first word that a getter returns."""
        return self.words(contract, signature, block, *values)[0]

    def logs(self, address: str, topics: Sequence[str | None], to_block: int) -> list[Log]:
        """Every event of a contract up to a block, in order."""
        found: list[Log] = []
        for start in range(0, to_block + 1, LOGS_PER_CALL):
            end = min(to_block, start + LOGS_PER_CALL - 1)
            query = {"address": address, "topics": list(topics), "fromBlock": hex(start), "toBlock": hex(end)}
            answer = self._call("eth_getLogs", query)
            if not isinstance(answer, list):
                raise AuditError("eth_getLogs: the answer is no list")
            found += [Log(each["transactionHash"], tuple(each["topics"]), _bytes(each["data"])) for each in answer]
        return found

    def _call(self, method: str, *params: object) -> object:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = self._client.post("", json=request)
            document = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise AuditError(f"{method}: {error}") from error
        if not isinstance(document, dict) or "result" not in document:
            raise AuditError(f"{method}: {document}")
        result: object = document["result"]
        return result


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def topic_of(address: str) -> str:
    """An address as a topic."""
    return "0x" + address.removeprefix("0x").rjust(64, "0")


def event(signature: str) -> str:
    """The topic that an event of this signature begins with."""
    return "0x" + keccak(text=signature).hex()
