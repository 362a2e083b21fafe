"""The record of what one key sent to one chain: a file that is written before anything is sent; knows no connection.

One JSON object a line, only ever appended: `signed` before a transaction is sent, `refused` when no endpoint takes it,
`seen` when it is in a block, `ended` when a final block decided it, `used` when somebody else sent the transfer that it
carries, `finished` and `dropped` for work of several transactions. No keys are in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import SignedTx

LOCK_POLL_S: Final = 0.5
AGAIN_WITHIN_S: Final = 86_400
"""A payment that the record learned the end of within this time is not repeated without being asked about."""
_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


class TxOutcome(StrEnum):
    """What a final block decided about a transaction."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REPLACED = "replaced"
    """Another transaction of the same nonce is final."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A block by which a chain is known again: a copy of it that a test chain went on from has it not."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One signed transaction. `verb` and `arguments` say what for; `at` is when it was signed, in Unix seconds.

    `details` is what the command wants to know again, as JSON. `refused` is why every endpoint rejected it, empty if
    one did not or that is not known; `dropped` is whether its command was told to begin again without it. `mark` is
    the newest block of its chain when it was signed, later the block that it was seen in.
    """

    tx_hash: str
    raw: bytes
    sender: str
    nonce: int
    verb: str
    arguments: JSONObject
    details: JSONObject
    at: int
    mark: Mark
    outcome: TxOutcome | None = None
    ended_at: int = 0
    """When the outcome was written down, in Unix seconds."""
    block: int = 0
    refused: str = ""
    dropped: bool = False
    used_at: int = 0
    """When it was recorded that somebody else sent the transfer it carries; 0 while that is not known."""
    adrift: bool = False
    """Whether this chain is not known to have `mark`, so that it belongs to another, as of this process alone."""

    @property
    def signed(self) -> SignedTx:
        """Its bytes, to be sent again."""
        from fedgpu_operator.domain.settlement import SignedTx

        return SignedTx(tx_hash=self.tx_hash, raw=self.raw, sender=self.sender, nonce=self.nonce)

    @property
    def waits(self) -> bool:
        """Whether nothing decided it, on this chain, and some endpoint may have it."""
        return self.outcome is None and not self.refused and not self.adrift

    def of(self, verb: str, arguments: Mapping[str, object]) -> bool:
        """Whether it was signed for just that."""
        return self.verb == verb and canonical(self.arguments) == canonical(arguments)


@dataclass
class Journal:
    """The file of one account on one chain. `open` must come first; ConfigurationError if it cannot be accessed.

    `genesis` tells one chain from another of the same id, such as a test chain that was started again: what was
    signed for another is not shown.
    """

    chain_id: int
    account: str
    now: Callable[[], float] = time.time
    genesis: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    """By hash, in the order in which they were signed."""
    finished: list[JSONObject] = field(default_factory=list)
    """Arguments of the work of several transactions that was done in full."""
    _known: set[str] = field(default_factory=set)
    """All hashes in the file, of other chains too."""

    @property
    def path(self) -> Path:
        """Where it is."""
        return state_folder() / "transactions" / f"{self.chain_id}-{self.account}.jsonl"

    @asynccontextmanager
    async def locked(self, tell: Callable[[str], None]) -> AsyncIterator[Lock]:
        """Hold the right to send for this account on this machine; whoever comes second waits for it."""
        lock = Lock(self.path.with_suffix(".lock"))
        try:
            if not lock.take():
                tell(f"another command is sending for {self.account}; waiting for it")
                # Between processes nothing but asking tells when it is free.
                while not lock.take():  # noqa: ASYNC110
                    await asyncio.sleep(LOCK_POLL_S)
            yield lock
        finally:
            lock.release()

    def open(self, genesis: str) -> None:
        """Read what is there; a last line that was not written in full was never sent.

        ConfigurationError, with its number, if any other line cannot be read: it may be what was sent.
        """
        self.genesis = genesis
        self.entries.clear()
        self.finished.clear()
        self._known.clear()
        *lines, last = self._read().split(b"\n")
        for number, line in enumerate([*lines, *([] if _torn(last) else [last])], 1):
            if not line:
                continue
            try:
                self._take(_parsed(line))
            except (ValueError, LookupError, TypeError) as error:
                raise ConfigurationError(
                    f"line {number} of the record of transactions {self.path} cannot be read ({_why(error)}); it may "
                    "be of a sent transaction, so nothing is sent: restore the file from a copy; or look up the "
                    f"transactions of {self.account} in a block explorer, and if none is pending, move the file away"
                ) from None

    def unfinished(self) -> list[Entry]:
        """What no final block of this chain has decided and some endpoint may have, lowest nonce first."""
        return sorted((each for each in self.entries.values() if each.waits), key=lambda each: each.nonce)

    def of(self, verb: str, arguments: Mapping[str, object]) -> list[Entry]:
        """What was signed for just that, in order."""
        return [each for each in self.entries.values() if each.of(verb, arguments)]

    def signed(self, signed: SignedTx, verb: str, arguments: JSONObject, details: JSONObject, mark: Mark) -> Entry:
        """Write a transaction down, on the disk, before it is sent."""
        return self._append_entry(
            {
                "type": "signed",
                "hash": signed.tx_hash,
                "raw": "0x" + signed.raw.hex(),
                "nonce": signed.nonce,
                "verb": verb,
                "arguments": arguments,
                "details": details,
                "mark": {"number": mark.number, "hash": mark.hash},
            },
            "so nothing is sent",
        )

    def seen(self, tx_hash: str, mark: Mark) -> None:
        """Write down which block a transaction is in, while it is not final."""
        if self.entries[tx_hash].mark != mark:
            self._append({"type": "seen", "hash": tx_hash, "mark": {"number": mark.number, "hash": mark.hash}})

    def adrift(self, tx_hash: str) -> None:
        """Keep in mind, not on the disk, that a transaction is not known to be of this chain."""
        self._change(tx_hash, adrift=True)

    def used(self, tx_hash: str) -> None:
        """Write down that somebody else sent the transfer that a transaction carries."""
        if not self.entries[tx_hash].used_at:
            self._append({"type": "used", "hash": tx_hash})

    def ended(self, tx_hash: str, outcome: TxOutcome, block: int = 0) -> None:
        """Write down what a final block decided."""
        if self.entries[tx_hash].outcome is None:
            self._append({"type": "ended", "hash": tx_hash, "outcome": str(outcome), "block": block})

    def refused(self, tx_hash: str, why: str) -> None:
        """Write down that no endpoint took a transaction; `why` empty takes that back."""
        if self.entries[tx_hash].refused != why:
            self._append({"type": "refused", "hash": tx_hash, "why": why})

    def finish(self, verb: str, arguments: JSONObject) -> None:
        """Write down that work of several transactions is done in full."""
        if {"verb": verb, "arguments": arguments} not in self.finished:
            self._append({"type": "finished", "verb": verb, "arguments": arguments})

    def drop(self, verb: str) -> None:
        """Write down that what was signed for this verb so far is not to be gone on with."""
        self._append({"type": "dropped", "verb": verb})

    def _append_entry(self, line: JSONObject, otherwise: str) -> Entry:
        self._append(line, otherwise)
        return self.entries[line["hash"]]

    def _append(self, line: JSONObject, otherwise: str = "what was sent before is not affected") -> None:
        dated = {**line, "genesis": self.genesis, "at": int(self.now())}
        with _kept(self.path, otherwise):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _FILE_MODE)
            try:
                # Outcomes are written without the account's lock, by several commands.
                fcntl.flock(file, fcntl.LOCK_EX)
                _write_line(file, json.dumps(dated).encode())
            finally:
                os.close(file)
            _sync_folder(self.path.parent)
        self._take(dated)

    def _read(self) -> bytes:
        with _kept(self.path):
            try:
                file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
            with os.fdopen(file, "rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_SH)
                return opened.read()

    def _take(self, line: JSONObject) -> None:
        if line["type"] == "signed":
            self._known.add(line["hash"])
        elif "hash" in line and line["hash"] not in self._known:
            raise ValueError("refers to a transaction that no line before it has")
        if self.genesis and line["genesis"] not in ("", self.genesis):
            return
        match line["type"]:
            case "signed":
                self.entries[line["hash"]] = _entry(line, self.account)
            case "seen" | "used" | "ended" | "refused":
                self._change(line["hash"], **_fields(line))
            case "finished":
                self.finished.append({"verb": line["verb"], "arguments": line["arguments"]})
            case "dropped":
                self.finished = [each for each in self.finished if each["verb"] != line["verb"]]
                for tx_hash in [each.tx_hash for each in self.entries.values() if each.verb == line["verb"]]:
                    self._change(tx_hash, dropped=True)
            case other:
                raise ValueError(f"unknown line type {other!r}")

    def _change(self, tx_hash: str, **fields: object) -> None:
        # It may be of another chain, and this written while the first block could not be read.
        if tx_hash in self.entries:
            self.entries[tx_hash] = replace(self.entries[tx_hash], **fields)  # type: ignore[arg-type]


class Lock:
    """An exclusive lock on a file, held by this process; gone with it, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Try once; False while somebody else has it."""
        with _kept(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back; nothing if it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def state_folder() -> Path:
    """Where this user's programs keep state (XDG base directories); ConfigurationError for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "fedgpu"
    try:
        return Path.home() / ".local" / "state" / "fedgpu"
    except RuntimeError:
        raise ConfigurationError("no home folder for the record of transactions: set XDG_STATE_HOME") from None


def canonical(value: object) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _entry(line: JSONObject, account: str) -> Entry:
    if not isinstance(line["details"], dict):
        raise TypeError("details is not a JSON object")
    return Entry(
        tx_hash=line["hash"],
        raw=bytes.fromhex(line["raw"][2:]),
        sender=account,
        nonce=int(line["nonce"]),
        verb=line["verb"],
        arguments=line["arguments"],
        details=line["details"],
        at=int(line["at"]),
        mark=_mark(line),
    )


def _fields(line: JSONObject) -> dict[str, object]:
    """What a later line says of a transaction."""
    match line["type"]:
        case "seen":
            return {"mark": _mark(line)}
        case "used":
            return {"used_at": int(line["at"])}
        case "refused":
            return {"refused": str(line["why"])}
        case _:
            outcome, block = TxOutcome(line["outcome"]), int(line["block"])
            return {"outcome": outcome, "block": block, "ended_at": int(line["at"])}


def _mark(line: JSONObject) -> Mark:
    return Mark(int(line["mark"]["number"]), str(line["mark"]["hash"]))


def _parsed(line: bytes) -> JSONObject:
    value = json.loads(line.decode())
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _torn(last: bytes) -> bool:
    """Whether what follows the last line feed is the beginning of a line that was not written in full."""
    if not last.startswith(b"{"):
        return False
    try:
        json.loads(last)
    except UnicodeDecodeError:
        return False
    except ValueError:
        return True
    return False


def _why(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _write_line(file: int, line: bytes) -> None:
    """Append the line in full and sync it, or leave the file as it was; OSError then."""
    size = os.fstat(file).st_size
    content = os.pread(file, size, 0) if size else b""
    start = content.rfind(b"\n") + 1
    last = content[start:]
    if _torn(last):
        # A crash cut it off, so it was never sent; it must not swallow this one.
        os.ftruncate(file, start)
        size, last = start, b""
    rest = (b"\n" if last else b"") + line + b"\n"
    try:
        # A disk that is nearly full takes the beginning, and refuses the rest.
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


@contextmanager
def _kept(path: Path, otherwise: str = "so nothing is sent") -> Iterator[None]:
    """Words what a disk refuses: without the record nothing is sent."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"record of transactions {path} cannot be accessed ({error.strerror}), {otherwise}: "
            "free space there or, if there is no record yet, set XDG_STATE_HOME to a folder of yours"
        ) from None


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
