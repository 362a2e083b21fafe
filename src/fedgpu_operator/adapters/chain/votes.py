"""When two endpoints' answers are the same answer, and what a count of them decides; pure, no connection is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

Answer = Mapping[str, object]
"""A JSON-RPC answer as it came: `result` or `error`."""

BLOCK: Final = ("hash", "number", "parentHash", "timestamp", "baseFeePerGas", "gasLimit")
RECEIPT: Final = (
    "transactionHash",
    "blockHash",
    "blockNumber",
    "status",
    "gasUsed",
    "contractAddress",
    "effectiveGasPrice",
)
TRANSACTION: Final = ("hash", "blockHash", "blockNumber", "from", "to", "input", "nonce", "value")
LOG: Final = ("address", "topics", "data", "blockHash", "transactionHash", "logIndex")
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    "eth_getBlockByNumber": BLOCK,
    "eth_getBlockByHash": BLOCK,
    "eth_getTransactionReceipt": RECEIPT,
    "eth_getTransactionByHash": TRANSACTION,
}
"""What must be equal in an object; clients differ in the rest, such as fields of newer forks."""

_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Vote:
    """What one endpoint said; `answer` is None where nothing usable came, and `why` then says what came instead.

    `mark` is the answer's fingerprint.
    """

    host: str
    answer: Answer | None
    why: str = ""
    mark: Hashable = None
    wrong_chain: int | None = None
    """The chain that it serves instead of the expected one; its answer does not count then."""

    @property
    def refused(self) -> bool:
        """Whether it answered with a JSON-RPC error."""
        return self.answer is not None and self.answer.get("error") is not None

    @property
    def result(self) -> object:
        """The result; None where there is none."""
        return None if self.answer is None else self.answer.get("result")


def fingerprint(method: str, answer: Answer) -> Hashable:
    """Equal for two answers that say the same.

    A revert is told by its data, another error by its code: the words are each client's own.
    """
    if (error := answer.get("error")) is not None:
        detail = error if isinstance(error, Mapping) else {}
        data = detail.get("data")
        revert = data.lower() if isinstance(data, str) and data.startswith("0x") else None
        return ("error", revert if revert is not None else detail.get("code"))
    result = answer.get("result")
    if isinstance(result, Mapping) and method in COMPARED:
        logs = result.get("logs")
        return (_fields(result, COMPARED[method]), _logs(logs) if isinstance(logs, list) else None)
    if isinstance(result, list) and method == "eth_getLogs":
        return _logs(result)
    return _canonical(result)


def agreed(votes: Iterable[Vote], quorum: int) -> Answer | None:
    """The answer that `quorum` endpoints give alike; None while no answer has so many."""
    counts: dict[Hashable, int] = {}
    for vote in votes:
        if vote.answer is not None:
            counts[vote.mark] = counts.get(vote.mark, 0) + 1
            if counts[vote.mark] == quorum:
                return vote.answer
    return None


def quantity(value: object) -> int | None:
    """A JSON-RPC quantity as a whole number; None for anything else."""
    return int(value, 16) if isinstance(value, str) and _QUANTITY.fullmatch(value) else None


def quantities(votes: Sequence[Vote]) -> list[int]:
    """The whole numbers among the answers, lowest first."""
    return sorted(number for vote in votes if not vote.refused and (number := quantity(vote.result)) is not None)


def height_of(vote: Vote) -> int | None:
    """The number of the block that was answered; None where no block was."""
    return quantity(vote.result.get("number")) if isinstance(vote.result, Mapping) else None


def choice(method: str, params: Sequence[object], quorum: int) -> Callable[[Sequence[int]], int] | None:
    """Which of several sorted figures to take, by method; None where all must be equal.

    Gas: the lowest that covers what a quorum asks, so that one that exaggerates cannot raise it. A tip: the lower
    median. A nonce with what waits in pools: the highest, because a nonce that any endpoint knows to be taken is.
    """
    if method == "eth_estimateGas":
        return lambda figures: figures[quorum - 1]
    if method in {"eth_maxPriorityFeePerGas", "eth_gasPrice"}:
        return median_low
    if method == "eth_getTransactionCount" and len(params) > 1 and params[1] == "pending":
        return max
    return None


def _fields(item: Mapping[str, object], names: Sequence[str]) -> str:
    return _canonical([item.get(name) for name in names])


def _logs(logs: Sequence[object]) -> str:
    return _canonical([[log.get(name) for name in LOG] if isinstance(log, Mapping) else log for log in logs])


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).lower()
