"""What an error answer of a node or gateway means: by the table of their words, then by code and HTTP status; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fedgpu_operator.adapters.chain.reverts import revert_data
from fedgpu_operator.adapters.chain.wordings import CALLS, ESTIMATE, LOGS, SEND, TABLE, Meaning
from fedgpu_operator.domain.text import clean_line

LONGEST_WORDS: Final = 400
"""Characters of a provider's own words that are shown."""
MOST_READ: Final = 4 * LONGEST_WORDS

BUSY_CODES: Final = (-32005, -32016, -32603, 429)
"""Limit exceeded (EIP-1474), over rate limit (proxyd), internal error (JSON-RPC 2.0): not now, in whatever words."""
BUSY_STATUSES: Final = frozenset({401, 402, 403, 404, 408, 425, 429})
"""HTTP statuses of who did not pass the request on to a node; as are all from 500."""
TOO_LONG: Final[Mapping[str, Meaning]] = {LOGS: Meaning.RANGE, ESTIMATE: Meaning.TOO_LARGE, SEND: Meaning.TOO_LARGE}
"""What HTTP 413 means, by method."""

_HEX: Final = re.compile(r"(Reverted )?0x")


@dataclass(frozen=True, slots=True)
class Fault:
    """An error answer: what it means, the provider's own words, and a revert's bytes in hex, None where it has none."""

    meaning: Meaning
    words: str
    revert: str | None = None


class AnswerError(Exception):
    """An error that enough endpoints answer alike; it leaves this package as an error of the project's own tree.

    `others` says what the endpoints do that do not refuse a transaction that a quorum refuses; empty without any.
    """

    def __init__(self, method: str, fault: Fault, others: str = "") -> None:
        super().__init__(f"{method}: {fault.words}")
        self.method = method
        self.fault = fault
        self.others = others


def judge(error: object, status: int, method: str) -> Meaning:
    """What a JSON-RPC error means as an answer to that method, under that HTTP status.

    A revert is recognised by its code 3 or its data before any words are read. Without a row it is WAIT where code or
    status say that no node looked at the request, else REFUSED.
    """
    detail = error if isinstance(error, Mapping) else {}
    code, words = detail.get("code"), _said(error)[:MOST_READ].lower()
    if method in CALLS and (code == 3 or revert_data(error) is not None):
        # Hardhat mines a transaction that fails, and answers with how it failed.
        return Meaning.KNOWN if method == SEND and _mined(detail) else Meaning.REVERTED
    for row in TABLE:
        if row.matches(method, code, words):
            return row.meaning
    if status == 413 and method in TOO_LONG:
        return TOO_LONG[method]
    return Meaning.WAIT if code in BUSY_CODES or status in BUSY_STATUSES or status >= 500 else Meaning.REFUSED


def fault_of(error: object, status: int, method: str, redact: Callable[[str], str] = str) -> Fault:
    """The error in our terms; its words are bounded, on one line, and steer no terminal.

    `redact` takes secrets out of them, before anything is cut: of half a secret it would know nothing.
    """
    meaning = judge(error, status, method)
    words = clean_line(redact(_said(error))[:MOST_READ])
    shown = words if len(words) <= LONGEST_WORDS else words[: LONGEST_WORDS - 1] + "…"
    return Fault(meaning, shown or "no words", revert_data(error) if meaning is Meaning.REVERTED else None)


def _said(error: object) -> str:
    """The message, with the text that OpenEthereum and Hardhat put into `data` when the message says nothing."""
    if not isinstance(error, Mapping):
        return str(error)
    message, data = error.get("message"), error.get("data")
    said = message if isinstance(message, str) else ""
    extra = data.get("message") if isinstance(data, Mapping) else data
    if isinstance(extra, str) and extra and not _HEX.match(extra) and extra not in said:
        said = f"{said} ({extra})" if said else extra
    return said


def _mined(detail: Mapping[object, object]) -> bool:
    data = detail.get("data")
    return isinstance(data, Mapping) and isinstance(data.get("txHash"), str)
