"""When two endpoints' answers are the same answer, and what a count of them decides; pure, no connection is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from fedgpu_operator.adapters.chain.errors import ErrorAnswer
from fedgpu_operator.adapters.chain.wordings import ESTIMATE, LOGS, Meaning


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a JSON-RPC answer, None for `null`."""

    value: object


Answer = Result | ErrorAnswer
"""What an endpoint answers; never an error that means WAIT or DENIED, which is no answer."""

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
TIP: Final = "eth_maxPriorityFeePerGas"
FEE_HISTORY: Final = "eth_feeHistory"
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    "eth_getBlockByNumber": BLOCK,
    "eth_getBlockByHash": BLOCK,
    "eth_getTransactionReceipt": RECEIPT,
    "eth_getTransactionByHash": TRANSACTION,
    FEE_HISTORY: ("oldestBlock", "reward"),
}
"""What must be equal in an object; clients differ in the rest, such as fields of newer forks."""

_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Vote:
    """What one endpoint answered; `answer` None if nothing usable came, and `why` is then what came instead.

    `mark` is the answer's fingerprint.
    """

    host: str
    answer: Answer | None
    why: str = ""
    mark: Hashable = None
    wrong_chain: int | None = None
    """The chain that it serves instead of the expected one; its answer does not count then."""

    @property
    def fault(self) -> ErrorAnswer | None:
        """The error that it answered; None for a result and for no answer."""
        return self.answer if isinstance(self.answer, ErrorAnswer) else None

    @property
    def result(self) -> object:
        """The result; None if there is none."""
        return self.answer.value if isinstance(self.answer, Result) else None


def fingerprint(method: str, answer: Answer) -> Hashable:
    """Equal for two answers that mean the same: an error is known by its meaning and the bytes of its revert."""
    if isinstance(answer, ErrorAnswer):
        return (answer.meaning, answer.revert)
    result = answer.value
    if isinstance(result, Mapping) and method in COMPARED:
        logs = result.get("logs")
        return (_fields(result, COMPARED[method]), _logs(logs) if isinstance(logs, list) else None)
    if isinstance(result, list) and method == LOGS:
        return _logs(result)
    return _canonical(result)


MUTE: Final[Hashable] = (Meaning.REVERTED, None)
"""The mark of a revert from a client that does not give its bytes."""


def agreed(votes: Iterable[Vote], quorum: int) -> Answer | None:
    """The answer that `quorum` endpoints give alike; None while no answer has so many.

    A revert without its bytes counts for a revert with them.
    """
    counts: dict[Hashable, int] = {}
    spoken: Vote | None = None
    for vote in votes:
        if vote.answer is None:
            continue
        counts[vote.mark] = counts.get(vote.mark, 0) + 1
        if vote.mark != MUTE and vote.fault is not None and vote.fault.meaning is Meaning.REVERTED:
            spoken = vote if spoken is None or counts[vote.mark] >= counts[spoken.mark] else spoken
        if counts[vote.mark] >= quorum:
            return vote.answer
        if spoken is not None and counts[spoken.mark] + counts.get(MUTE, 0) >= quorum:
            return spoken.answer
    return None


def shrinks(method: str, votes: Iterable[Vote]) -> ErrorAnswer | None:
    """The refusal of one endpoint that another request avoids, where they do not agree: a range, or a fee method."""
    for fault in (vote.fault for vote in votes):
        if fault is None:
            continue
        if fault.meaning is Meaning.RANGE or (fault.meaning is Meaning.UNSUPPORTED and method in {TIP, FEE_HISTORY}):
            return fault
    return None


_WEIGHT: Final = (
    Meaning.NONCE_USED,
    Meaning.UNDERPRICED,
    Meaning.TOO_LARGE,
    Meaning.GAS_TOO_LOW,
    Meaning.FEE_CAPPED,
    Meaning.POOR,
    Meaning.REFUSED,
)


def refusal(votes: Sequence[Vote], quorum: int) -> ErrorAnswer | None:
    """What the endpoints' refusals of a transaction come to; None if it counts as taken, or nothing is known.

    With fewer refusals than a quorum they come to nothing. Otherwise the reason counts that most of them give; one
    whose words the table lacks is a reason as well (refused), so that a single endpoint decides nothing for those. Of
    as many, the first of: nonce used, underpriced, too large, gas too low, fee capped, insufficient funds, refused. In
    the words of the first host by name, so that the order in which answers came decides nothing.

    Where an endpoint takes the transaction, a quorum must give the same reason, and one that is known: what nearly
    all refuse waits for inclusion in vain, and its fee must not rise for that.
    """
    faults = [vote.fault for vote in sorted(votes, key=lambda vote: vote.host) if refuses(vote) and vote.fault]
    if len(faults) < quorum:
        return None
    reasons = [_reason(fault) for fault in faults]
    best = max(_WEIGHT, key=reasons.count)
    if any(takes(vote) for vote in votes) and (best is Meaning.REFUSED or reasons.count(best) < quorum):
        return None
    return faults[reasons.index(best)]


def takes(vote: Vote) -> bool:
    """Whether an endpoint takes a transaction, or has it already."""
    return isinstance(vote.answer, Result) or (vote.fault is not None and vote.fault.meaning is Meaning.KNOWN)


def refuses(vote: Vote) -> bool:
    """Whether an endpoint refuses a transaction."""
    return vote.fault is not None and not takes(vote)


def _reason(fault: ErrorAnswer) -> Meaning:
    return fault.meaning if fault.meaning in _WEIGHT else Meaning.REFUSED


def quantity(value: object) -> int | None:
    """A JSON-RPC quantity as a whole number; None for anything else."""
    return int(value, 16) if isinstance(value, str) and _QUANTITY.fullmatch(value) else None


def quantities(votes: Sequence[Vote]) -> list[int]:
    """The whole numbers among the answers, lowest first."""
    return sorted(number for vote in votes if (number := quantity(vote.result)) is not None)


def height_of(vote: Vote) -> int | None:
    """The number of the block that was answered; None if no block was."""
    return quantity(vote.result.get("number")) if isinstance(vote.result, Mapping) else None


def choice(method: str, params: Sequence[object], quorum: int) -> Callable[[Sequence[int]], int] | None:
    """Which of several sorted figures to take, by method; None if all must be equal.

    Gas: the lowest that covers what a quorum asks, so that one that exaggerates cannot raise it. A tip: the lower
    median. A nonce with what waits in pools: the highest that a quorum has reached, so that one that exaggerates cannot
    make a sender leave a gap; what one pool alone knows is met at the same nonce, where at most one counts.
    """
    if method == ESTIMATE:
        return lambda figures: figures[quorum - 1]
    if method in {TIP, "eth_gasPrice"}:
        return median_low
    if method == "eth_getTransactionCount" and len(params) > 1 and params[1] == "pending":
        return lambda figures: figures[-quorum]
    return None


def _fields(item: Mapping[str, object], names: Sequence[str]) -> str:
    return _canonical([item.get(name) for name in names])


def _logs(logs: Sequence[object]) -> str:
    return _canonical([[log.get(name) for name in LOG] if isinstance(log, Mapping) else log for log in logs])


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).lower()
