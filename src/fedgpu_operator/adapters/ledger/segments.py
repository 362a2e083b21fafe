"""Segments as files: how one is written, synced to disk, read back and judged; no SQL lives here.

A file is gzip'd text in UTF-8, one JSON value a line: a header, then the canonical text of each row, which is what the
chain's hash is made over (docs/ledger.md). In a segment of `epochs` each row is followed by what belongs to that epoch:
``["epoch_parts", number, manifest in hex, lines, covers, skipped leases]``.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path

from eth_utils.crypto import keccak

from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, Field, canonical
from fedgpu_operator.domain.ledger import EPOCH_CHAIN, Segment
from fedgpu_operator.errors import LedgerError

FORMAT = "fedgpu.dev/ledger-segment/v1"
PARTS = "epoch_parts"
MAX_LINE = 256 * 2**20
"""Bytes of one line that are read at most: a manifest takes twice its size in hex, and every lease of an epoch 100."""

Note = Callable[[str, int, int], None]
"""Takes what is being worked on, how much of it is done, and how much there is."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def silent(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody follows."""


class SegmentError(Exception):
    """A file is not the segment that it should be; `key` names the row where one can be named."""

    def __init__(self, why: str, key: str = "") -> None:
        super().__init__(why)
        self.why, self.key = why, key


@dataclass(frozen=True, slots=True)
class Parts:
    """What belongs to an epoch: `texts` are its sorted lines and covers, the values that its `parts_hash` is over."""

    manifest: bytes
    texts: tuple[list[list[str]], list[list[str]]]
    skipped: tuple[str, ...]

    @property
    def hash(self) -> bytes:
        """SHA-256 over lines and covers, as the epoch's row has it."""
        return sha256(_encode(self.texts).encode()).digest()


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One row of a segment: its fields as its text has them, the hash up to it, and an epoch's parts."""

    position: int
    fields: tuple[str | None, ...]
    text: bytes
    hash: bytes
    parts: Parts | None = None


def name_of(chain: str, first: int, last: int) -> str:
    """The file of a segment, so that names sort as positions do."""
    return f"{chain}-{first:012}-{last:012}.jsonl.gz"


def parts_text(number: int, parts: Parts) -> bytes:
    """The line with what belongs to an epoch."""
    lines, covers = parts.texts
    return _encode([PARTS, str(number), parts.manifest.hex(), lines, covers, list(parts.skipped)]).encode()


def write(folder: Path, segment: Segment, lines: Iterable[bytes]) -> str:
    """Write a segment's file, whole or not at all, and sync it to the disk; the SHA-256 of its bytes.

    The same rows make the same file again. Raises LedgerError if the folder cannot be written.
    """
    target = folder / segment.file
    part = folder / f".{segment.file}.part"
    try:
        with part.open("wb") as raw:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                packed.write(_encode(_header(segment)).encode() + b"\n")
                for line in lines:
                    packed.write(line + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(target)
        sync_folder(folder)
        return digest_of(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LedgerError(f"segment file {target} cannot be written: {error.strerror or error}") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes; raises OSError."""
    with path.open("rb") as raw:
        return file_digest(raw, "sha256").hexdigest()


def holds(folder: Path, segment: Segment) -> bool:
    """Whether the folder has the segment's file, byte for byte; a segment without rows needs none."""
    try:
        return not segment.file or digest_of(folder / segment.file) == segment.digest
    except OSError:
        return False


def rows_of(folder: Path, segment: Segment) -> Iterator[SegmentRow]:
    """Read a segment back row by row; only the end of the iteration says that all of it is right.

    Raises SegmentError at the first thing that is wrong: the file is missing, is not gzip, is another segment or one of
    another ledger, or a row was altered, removed, inserted or moved. An altered row shows where the segment ends, or in
    the head of an epoch before that, which is the caller's to compare.
    """
    path = folder / segment.file
    try:
        with path.open("rb") as raw:
            yield from _judged(raw, segment)
        found = digest_of(path)
    except FileNotFoundError:
        raise SegmentError(f"file {segment.file} is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SegmentError(f"file {segment.file} cannot be read: {error}") from error
    if segment.digest and found != segment.digest:
        raise SegmentError(f"file {segment.file} is not the file that was written, though its rows are")


def manifest_in(folder: Path, segment: Segment, number: int) -> bytes:
    """The manifest of an epoch, out of a segment that is judged to its end; raises SegmentError."""
    found = None
    for row in rows_of(folder, segment):
        if row.parts is not None and field_of(segment.chain, row.fields, "number") == str(number):
            found = row.parts.manifest
    if found is None:
        raise SegmentError(f"file {segment.file} has no epoch {number}")
    return found


def _judged(raw: BufferedReader, segment: Segment) -> Iterator[SegmentRow]:
    with gzip.GzipFile(fileobj=raw, mode="rb") as packed:
        lines = _lines(lambda: packed.readline(MAX_LINE + 1))
        _check_header(next(lines, b""), segment)
        last = bytes.fromhex(segment.before)
        for position in range(segment.first, segment.last + 1):
            text = next(lines, None)
            if text is None:
                missing = f"position {position}" if position == segment.last else f"positions {position} on"
                raise SegmentError(f"are missing in file {segment.file}", missing)
            row = _row(segment, position, text, last)
            last = row.hash
            if segment.chain == EPOCH_CHAIN:
                row = _with_parts(segment, row, next(lines, b""))
            if position == segment.last and last.hex() != segment.after:
                # The chain's end stands in an epoch's head, so some row before it is not the one that was hashed.
                raise SegmentError(f"file {segment.file} does not end in the hash that epoch {segment.epoch} names")
            yield row
        if next(lines, None) is not None:
            raise SegmentError(f"stands in file {segment.file} after its last row", f"position {segment.last + 1}")


def _lines(readline: Callable[[], bytes]) -> Iterator[bytes]:
    while line := readline():
        if len(line) > MAX_LINE:
            raise SegmentError(f"has a line of more than {MAX_LINE} bytes")
        yield line.removesuffix(b"\n")


def _header(segment: Segment) -> dict[str, object]:
    return {
        "format": FORMAT,
        "chain": segment.chain,
        "columns": list(COLUMNS[segment.chain]),
        "first": segment.first,
        "last": segment.last,
        "before": segment.before,
        "after": segment.after,
        "epoch": segment.epoch,
    }


def _check_header(line: bytes, segment: Segment) -> None:
    try:
        found = json.loads(line)
        kind = found["format"]
    except (ValueError, KeyError, TypeError):
        raise SegmentError(f"file {segment.file} is not a ledger segment") from None
    if kind != FORMAT:
        raise SegmentError(f"file {segment.file} has the format {kind!r}, this fedgpu reads {FORMAT!r}")
    if found != _header(segment):
        what = " ".join(str(found.get(key)) for key in ("chain", "first", "last"))
        raise SegmentError(f"file {segment.file} is another segment ({what}), or one of another ledger")


def _row(segment: Segment, position: int, text: bytes, before: bytes) -> SegmentRow:
    try:
        name, at, *fields = json.loads(text)
        place = int(at)
    except (ValueError, TypeError):
        raise SegmentError(f"cannot be read in file {segment.file}", f"position {position}") from None
    if (name, place) != (segment.chain, position) or len(fields) != len(COLUMNS[segment.chain]):
        raise SegmentError(f"is not where it belongs in file {segment.file}", f"position {position}")
    return SegmentRow(position, tuple(fields), text, sha256(before + text).digest())


def _with_parts(segment: Segment, row: SegmentRow, text: bytes) -> SegmentRow:
    """The row with its epoch's parts; a fault unless they are those that the row binds."""
    number = field_of(segment.chain, row.fields, "number")
    try:
        name, of, manifest, lines, covers, skipped = json.loads(text)
        parts = Parts(bytes.fromhex(manifest), (lines, covers), tuple(skipped))
    except (ValueError, TypeError):
        raise SegmentError(f"has no readable parts in file {segment.file}", str(number)) from None
    if (name, of) != (PARTS, number):
        raise SegmentError(f"has the parts of another epoch in file {segment.file}", str(number))
    if "0x" + keccak(parts.manifest).hex() != field_of(segment.chain, row.fields, "manifest_hash"):
        raise SegmentError(f"has another manifest in file {segment.file} than its hash names", str(number))
    if parts.hash.hex() != field_of(segment.chain, row.fields, "parts_hash"):
        raise SegmentError(f"has other lines or covers in file {segment.file} than it was stored with", str(number))
    return SegmentRow(row.position, row.fields, row.text, row.hash, parts)


def position_of(text: bytes) -> int:
    """The position in a row's text that we wrote."""
    return int(json.loads(text)[1])


def fields_of(values: Sequence[Field]) -> tuple[str | None, ...]:
    """Values of a row as its text has them."""
    return tuple(json.loads(canonical("", 0, values))[2:])


def field_of(chain: str, fields: Sequence[str | None], column: str) -> str | None:
    """One field of a row's text."""
    return fields[COLUMNS[chain].index(column)]


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk; raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
