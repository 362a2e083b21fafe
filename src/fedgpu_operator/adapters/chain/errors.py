"""What an error answer of a node means, and what a revert says: by wordings.py, then code and HTTP status; pure.

Words of reverts come from the packaged contracts' own error definitions, and from the two errors of Solidity itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, cast

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain.wordings import CALLS, ESTIMATE, LOGS, SEND, TABLE, Meaning
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.text import clean_line

PACKAGED: Final[tuple[ContractName, ...]] = ("TimelockController", "ProviderStake", "Batch", "TestUSD", "ComputeEscrow")
"""Where two define an error of one name and type, the last one's names of the arguments are shown."""

ERROR: Final = bytes.fromhex("08c379a0")
"""Error(string), which `require` and `revert` with a text raise."""
PANIC: Final = bytes.fromhex("4e487b71")
"""Panic(uint256), which the compiler raises."""
PANICS: Final[Mapping[int, str]] = {
    0x00: "generic panic",
    0x01: "assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "value out of range for the enum",
    0x22: "storage byte array incorrectly encoded",
    0x31: "pop on an empty array",
    0x32: "array index out of bounds",
    0x41: "too much memory allocated",
    0x51: "call of an uninitialized function pointer",
}
"""The codes of Panic(uint256) (Solidity documentation, "Panic via assert and Error via require")."""

LONGEST_REASON: Final = 200
"""Characters of a reason text that are shown."""
LARGEST_REVERT: Final = 16_384
"""Bytes of a revert that are decoded; no packaged contract comes near it."""

_BYTES: Final = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_REASON: Final = re.compile(
    r"(?s)^(?:err: |error: )?(?:vm exception while processing transaction: )?"
    r"(?:execution reverted: (?:revert: )?(?P<plain>.+)|reverted with reason string '(?P<quoted>.*)')$",
    re.IGNORECASE,
)
_PANIC_CODE: Final = re.compile(r"reverted with panic code 0x([0-9a-f]{1,4})\b", re.IGNORECASE)
_RETURNED: Final = re.compile(r"(?:return data: |reverted:? )(0x[0-9a-f]{8,})", re.IGNORECASE)
_INNER: Final = ("data", "originalError", "error", "cause")
_DEEPEST: Final = 4


def revert_data(error: object) -> str | None:
    """The bytes that the contract reverted with, as lower-case hex; None if the error has none.

    Reads every form in use: hex (geth, reth, Erigon, anvil, Besu), ``Reverted 0x…`` (Nethermind, OpenEthereum), an
    object (Hardhat) or the error inside an error (gateways), and what a message alone tells (`Error` and `Panic`).
    """
    if not isinstance(error, Mapping):
        return None
    found = _bytes_in(error.get("data"), _DEEPEST)
    return found if found is not None else _bytes_in_message(error.get("message"))


def explain(revert: str | None, words: str) -> str:
    """The error with its arguments, such as ``StaleState(seq=1, prevRoot=0x…)``; else the node's own words.

    Of an `Error(string)` its text.
    """
    raw = bytes.fromhex((revert or "0x")[2:])
    if not raw:
        return words or "reverted without a reason"
    if len(raw) <= LARGEST_REVERT:
        if raw[:4] == ERROR:
            return _reason(raw) or "reverted with an unreadable reason"
        if raw[:4] == PANIC:
            return _panic(raw)
        if (known := _errors().get(raw[:4])) is not None:
            return _custom(known, raw)
    return f"an unknown error {(revert or '')[:74]}"


def _bytes_in(data: object, depth: int) -> str | None:
    if isinstance(data, str):
        plain = data.removeprefix("Reverted ").strip()
        return plain.lower() if len(plain) >= 10 and _BYTES.fullmatch(plain) else None
    if isinstance(data, Mapping) and depth:
        for name in _INNER:
            if (found := _bytes_in(data.get(name), depth - 1)) is not None:
                return found
    return None


def _bytes_in_message(message: object) -> str | None:
    """The bytes that a message tells of, where the client sends no data."""
    if not isinstance(message, str):
        return None
    if (code := _PANIC_CODE.search(message)) is not None:
        return "0x" + (PANIC + int(code[1], 16).to_bytes(32, "big")).hex()
    if (returned := _RETURNED.search(message)) is not None and len(returned[1]) % 2 == 0:
        return returned[1].lower()
    if (reason := _REASON.match(message.strip())) is not None:
        text = reason["plain"] if reason["plain"] is not None else reason["quoted"]
        if _BYTES.fullmatch(text) and len(text) >= 10:
            return text.lower()
        return "0x" + (ERROR + encode(["string"], [text.encode("utf-8", "replace").decode()])).hex()
    return None


def _reason(raw: bytes) -> str:
    try:
        (text,) = decode(["string"], raw[4:])
    except (DecodingError, UnicodeDecodeError):
        return ""
    return clean_line(str(text))[:LONGEST_REASON]


def _panic(raw: bytes) -> str:
    code = int.from_bytes(raw[4:36], "big")
    return f"Panic(0x{code:02x}): {PANICS.get(code, 'an unknown panic')}"


def _custom(known: tuple[str, list[tuple[str, str]]], raw: bytes) -> str:
    name, fields = known
    try:
        values = decode([kind for _, kind in fields], raw[4:])
    except (DecodingError, UnicodeDecodeError):
        return name
    said = ", ".join(f"{field}={_text(value)}" for (field, _), value in zip(fields, values, strict=True))
    return f"{name}({said})"


@cache
def _errors() -> dict[bytes, tuple[str, list[tuple[str, str]]]]:
    """Selector → (name, [(argument, type)]) of every error the packaged contracts can raise."""
    found = {}
    for entry in (entry for contract in PACKAGED for entry in load(contract).abi):
        if entry["type"] == "error":
            inputs = cast("list[dict[str, str]]", entry["inputs"])
            signature = f"{entry['name']}({','.join(field['type'] for field in inputs)})"
            fields = [(field["name"], field["type"]) for field in inputs]
            found[keccak(signature.encode())[:4]] = (str(entry["name"]), fields)
    return found


def _text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else clean_line(str(value))[:LONGEST_REASON]


LONGEST_WORDS: Final = 400
"""Characters of a provider's own words that are shown."""
MOST_READ: Final = 4 * LONGEST_WORDS

BUSY_CODES: Final = (-32005, -32016, -32603, 429)
"""Limit exceeded (EIP-1474), over rate limit (proxyd), internal error (JSON-RPC 2.0): not now, in whatever words."""
UNAUTHORIZED: Final = 401
"""HTTP status of who does not know its caller."""
BUSY_STATUSES: Final = frozenset({402, 403, 404, 408, 425, 429})
"""HTTP statuses of who did not pass the request on to a node; as are all from 500."""
TOO_LONG: Final[Mapping[str, Meaning]] = {LOGS: Meaning.RANGE, ESTIMATE: Meaning.TOO_LARGE, SEND: Meaning.TOO_LARGE}
"""What HTTP 413 means, by method."""

_HEX: Final = re.compile(r"(Reverted )?0x")


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error answer: what it means, the provider's own words, and a revert's bytes in hex, None if it has none."""

    meaning: Meaning
    words: str
    revert: str | None = None


class AnswerError(Exception):
    """An error that enough endpoints answer alike; it leaves this package as an error of the project's own tree.

    `others` says what the endpoints do that do not refuse a transaction that a quorum refuses; empty without any.
    """

    def __init__(self, method: str, fault: ErrorAnswer, others: str = "") -> None:
        super().__init__(f"{method}: {fault.words}")
        self.method = method
        self.fault = fault
        self.others = others


def judge(error: object, status: int, method: str) -> Meaning:
    """What a JSON-RPC error means as an answer to that method, under that HTTP status.

    A revert is recognised by its code 3 or its data before any words are read. Without a row it is DENIED under HTTP
    401, WAIT if code or status say that no node looked at the request, else REFUSED.
    """
    detail = error if isinstance(error, Mapping) else {}
    code, words = detail.get("code"), _message(error)[:MOST_READ].lower()
    if method in CALLS and (code == 3 or revert_data(error) is not None):
        # Hardhat mines a transaction that fails, and answers with how it failed.
        return Meaning.KNOWN if method == SEND and _mined(detail) else Meaning.REVERTED
    for row in TABLE:
        if row.matches(method, code, words):
            return row.meaning
    if status == 413 and method in TOO_LONG:
        return TOO_LONG[method]
    if status == UNAUTHORIZED:
        return Meaning.DENIED
    return Meaning.WAIT if code in BUSY_CODES or status in BUSY_STATUSES or status >= 500 else Meaning.REFUSED


def fault_of(error: object, status: int, method: str, redact: Callable[[str], str] = str) -> ErrorAnswer:
    """The error in our terms; its words are bounded, on one line, and steer no terminal.

    `redact` takes secrets out of them, before anything is cut: of half a secret it would know nothing.
    """
    meaning = judge(error, status, method)
    words = clean_line(redact(_message(error))[:MOST_READ])
    shown = words if len(words) <= LONGEST_WORDS else words[: LONGEST_WORDS - 1] + "…"
    return ErrorAnswer(meaning, shown or "no words", revert_data(error) if meaning is Meaning.REVERTED else None)


def _message(error: object) -> str:
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
