"""Reads the log of one contract in pieces as large as the endpoints allow; keeps nothing of what it read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from eth_typing import ChecksumAddress, HexStr
from web3.types import FilterParams, LogReceipt

from fedgpu_operator.adapters.chain.answers import AnswerError
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wordings import Meaning, blocks_suggested
from fedgpu_operator.errors import ChainUnreachableError

MOST_BLOCKS: Final = 2_000
"""Blocks per request to begin with, and never more: most public endpoints take as many."""
LEAST_AFTER_SILENCE: Final = 64
"""Blocks per request below which silence makes no request smaller: it is then not the size that is at fault."""
GROW_AFTER: Final = 4
"""Pieces that must succeed before a larger one is tried; twice as many after each refusal, up to SLOWEST_GROWTH."""
SLOWEST_GROWTH: Final = 256

Topic = str | Sequence[str] | None
"""A topic, any of several, or whichever."""


class LogReader:
    """The log of the contract at `address`. What it learned of the endpoints' limits holds for later calls."""

    def __init__(self, rpc: Rpc, address: ChecksumAddress) -> None:
        self._rpc = rpc
        self._address = address
        self._size = MOST_BLOCKS
        self._smooth = 0
        self._grow_after = GROW_AFTER

    async def pieces(
        self, start: int, end: int, topics: Sequence[Topic]
    ) -> AsyncIterator[tuple[int, Sequence[LogReceipt]]]:
        """Each piece from block `start` to `end` as (its last block, its logs), in order.

        An error leaves what came before it valid: who keeps the last block goes on behind it. Raises
        ChainUnreachableError where no answer came, ChainError where not even the log of one block is given.
        """
        first = start
        while first <= end:
            last = min(end, first + self._size - 1)
            logs = await self._read(first, last, topics)
            if logs is not None:
                yield last, logs
                first = last + 1

    async def _read(self, first: int, last: int, topics: Sequence[Topic]) -> Sequence[LogReceipt] | None:
        """The logs of these blocks; None where they are too many, and fewer must be asked for."""
        query: FilterParams = {
            "address": self._address,
            "topics": [_topic(topic) for topic in topics],
            "fromBlock": first,
            "toBlock": last,
        }
        count = last - first + 1
        try:
            with self._rpc.speaking("reading the contract's log"):
                try:
                    logs = await self._rpc.w3.eth.get_logs(query)
                except AnswerError as error:
                    if error.fault.meaning is not Meaning.RANGE or count == 1:
                        raise
                    self._shrink(blocks_suggested(error.fault.words, first), count)
                    return None
        except ChainUnreachableError:
            # A node that takes too long for so many blocks looks silent.
            self._size = max(min(count, LEAST_AFTER_SILENCE), count // 2)
            self._smooth = 0
            raise
        self._succeeded()
        return logs

    def _shrink(self, suggested: int | None, count: int) -> None:
        self._size = suggested if suggested is not None and suggested < count else count // 2
        self._smooth = 0
        self._grow_after = min(SLOWEST_GROWTH, 2 * self._grow_after)

    def _succeeded(self) -> None:
        self._smooth += 1
        if self._smooth >= self._grow_after:
            self._size, self._smooth = min(MOST_BLOCKS, 2 * self._size), 0


def _topic(topic: Topic) -> Any:
    if topic is None:
        return None
    return HexStr(topic) if isinstance(topic, str) else [HexStr(each) for each in topic]
