"""The record of what one key sent to one chain: a file that is written before anything is sent; knows no connection.

One JSON object a line, only ever appended: `signed` before a transaction is sent, `refused` when no endpoint takes it,
`ended` when a final block decided it, `finished` and `dropped` for work of several transactions. No keys are in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import SignedTx

LOCK_POLL_S: Final = 0.5
_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


class TxOutcome(StrEnum):
    """What a final block decided about a transaction."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REPLACED = "replaced"
    """Another transaction of the same nonce is final."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One signed transaction. `verb` and `arguments` say what for; `at` is when it was signed, in Unix seconds.

    `details` is what the command wants to know again, as JSON. `refused` is why no endpoint took it, empty if one did
    or nobody knows; `dropped` says that its command was told to begin again without it.
    """

    tx_hash: str
    raw: bytes
    sender: str
    nonce: int
    verb: str
    arguments: JSONObject
    details: JSONObject
    at: int
    outcome: TxOutcome | None = None
    block: int = 0
    refused: str = ""
    dropped: bool = False

    @property
    def signed(self) -> SignedTx:
        """Its bytes, to be sent again."""
        from fedgpu_operator.domain.settlement import SignedTx

        return SignedTx(tx_hash=self.tx_hash, raw=self.raw, sender=self.sender, nonce=self.nonce)

    def of(self, verb: str, arguments: Mapping[str, object]) -> bool:
        """Whether it was signed for just that."""
        return self.verb == verb and canonical(self.arguments) == canonical(arguments)


@dataclass
class Journal:
    """The file of one account on one chain. `open` must come first; ConfigurationError where it cannot be kept.

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
                tell(f"another command sends for {self.account}: waiting until it has sent")
                # Between processes nothing but asking tells when it is free.
                while not lock.take():  # noqa: ASYNC110
                    await asyncio.sleep(LOCK_POLL_S)
            yield lock
        finally:
            lock.release()

    def open(self, genesis: str) -> None:
        """Read what is there; a last line that was not written in full was never sent."""
        self.genesis = genesis
        self.entries.clear()
        self.finished.clear()
        with _kept(self.path):
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError, LookupError, TypeError):
                self._take(json.loads(line))

    def unfinished(self) -> list[Entry]:
        """What no final block has decided and some endpoint may have, lowest nonce first."""
        found = [each for each in self.entries.values() if each.outcome is None and not each.refused]
        return sorted(found, key=lambda each: each.nonce)

    def of(self, verb: str, arguments: Mapping[str, object]) -> list[Entry]:
        """What was signed for just that, in order."""
        return [each for each in self.entries.values() if each.of(verb, arguments)]

    def signed(self, signed: SignedTx, verb: str, arguments: JSONObject, details: JSONObject) -> Entry:
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
            }
        )

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

    def _append_entry(self, line: JSONObject) -> Entry:
        self._append(line)
        return self.entries[line["hash"]]

    def _append(self, line: JSONObject) -> None:
        dated = {**line, "genesis": self.genesis, "at": int(self.now())}
        with _kept(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _FILE_MODE)
            try:
                # A line that a crash cut off must not swallow this one.
                size = os.fstat(file).st_size
                torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
                os.write(file, (b"\n" if torn else b"") + json.dumps(dated).encode() + b"\n")
                os.fsync(file)
            finally:
                os.close(file)
            _sync_folder(self.path.parent)
        self._take(dated)

    def _take(self, line: JSONObject) -> None:
        if self.genesis and line.get("genesis") not in ("", self.genesis):
            return
        match line["type"]:
            case "signed":
                self.entries[line["hash"]] = Entry(
                    tx_hash=line["hash"],
                    raw=bytes.fromhex(line["raw"][2:]),
                    sender=self.account,
                    nonce=int(line["nonce"]),
                    verb=line["verb"],
                    arguments=line["arguments"],
                    details=line["details"],
                    at=int(line["at"]),
                )
            case "ended":
                self._change(line["hash"], outcome=TxOutcome(line["outcome"]), block=int(line["block"]))
            case "refused":
                self._change(line["hash"], refused=str(line["why"]))
            case "finished":
                self.finished.append({"verb": line["verb"], "arguments": line["arguments"]})
            case "dropped":
                self.finished = [each for each in self.finished if each["verb"] != line["verb"]]
                for each in [each for each in self.entries.values() if each.verb == line["verb"]]:
                    self._change(each.tx_hash, dropped=True)

    def _change(self, tx_hash: str, **fields: object) -> None:
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
        raise ConfigurationError("no home folder to keep the record of transactions in: set XDG_STATE_HOME") from None


def canonical(value: object) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Turns what a disk refuses into words: without the record nothing is sent."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the record of transactions {path} cannot be kept ({error.strerror}), so nothing is sent: "
            "name a folder of yours in XDG_STATE_HOME"
        ) from None


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
