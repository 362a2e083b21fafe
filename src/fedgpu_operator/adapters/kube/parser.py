"""Parses what API servers answer, object by object: none is larger than it may be, and only what is kept stays.

The parser of the standard library holds the interpreter for as long as it works on one text, in whatever thread. So a
list is taken apart here as it arrives, object by object: neither its text nor what its objects took in memory is held
beyond the object that is being read.
"""

from __future__ import annotations

import asyncio
import codecs
import gc
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, TypeAlias, TypeVar, cast

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.text import UNSAFE, clean_all
from fedgpu_operator.errors import AnswerTooLargeError

INLINE_BYTES: Final = 256 * 1024
"""Up to so many bytes are parsed at once, within some milliseconds; more goes into a thread, one body at a time."""
PIECE_BYTES: Final = 64 * 1024
"""A list is parsed in pieces of this size: so long, about a millisecond, it keeps the event loop from others."""
MAX_DIGITS: Final = 19
"""Of a whole number: Kubernetes has none beyond 64 bits."""
ENVELOPE_BYTES: Final = 64 * 1024
"""What a list says besides its items: its kind, its version, where it goes on."""

Keep: TypeAlias = Callable[[JSONObject], JSONObject]
"""What stays of an object; runs in any thread, fails on nothing."""
T = TypeVar("T")

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_ESCAPE: Final = re.compile(r"\\(?:[bfr]|u(?!00(?:09|0[aA]|22|26|27|2[fF]|3[cCeE]|5[cC])))")
"""Any escape but those that Go's encoder writes for harmless characters, such as the one for ``<``."""
_gate: asyncio.Semaphore | None = None
_gate_of: asyncio.AbstractEventLoop | None = None


@dataclass(frozen=True, slots=True)
class ParseRules:
    """How one server's objects are read: their largest size, whether texts are cleaned, what is kept of them."""

    object_bytes: int
    cleans: bool
    keep: Keep | None = None


def parse_object(body: bytes | bytearray, reading: ParseRules) -> JSONObject:
    """The one JSON object that the body is; raises ValueError (or RecursionError) for anything else."""
    text = body.decode()
    value = _DECODER.decode(text)
    if reading.cleans and _suspect(text):
        value = clean_all(value)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  # it is the text that is wrong
    return _kept(value, reading)


class _At(Enum):
    """What comes next in a list."""

    BEGIN = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    AFTER_VALUE = auto()
    FIRST_ITEM = auto()
    ITEM = auto()
    AFTER_ITEM = auto()
    END = auto()


class PageReader:
    """Takes one page of a list apart as its bytes arrive; `metadata` is the list's own, None until it was read.

    It holds the text of what is not complete yet, which `held` counts in characters: less than an object may have, and
    a piece. Text that did not become an object is tried again only when it has doubled, so a page costs at most twice.
    """

    def __init__(self, reading: ParseRules) -> None:
        self.metadata: JSONObject | None = None
        self._reading = reading
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._wanted = 0
        self._next = _At.BEGIN
        self._key = ""

    @property
    def held(self) -> int:
        """Characters that wait for more."""
        return len(self._text)

    def feed(self, piece: memoryview, *, last: bool = False) -> list[JSONObject]:
        """The objects that are complete with that piece, as they are kept; `last` says that the page is.

        Raises ValueError (or RecursionError) for what is no list, AnswerTooLargeError.
        """
        text = self._text = self._text + self._bytes.decode(piece, last)
        if len(text) < self._wanted and not last:
            return []
        found: list[JSONObject] = []
        suspect = self._reading.cleans and _suspect(text)
        at = 0
        while (at := _after_space(text, at)) < len(text):
            after = self._step(text, at, found, suspect=suspect, last=last)
            if after is None:
                break
            at = after
        self._text = text[at:]
        self._wanted = 2 * len(self._text)
        if last and (self._next is not _At.END or self.metadata is None):
            raise ValueError("breaks off, or is a list without metadata")
        return found

    def _step(self, text: str, at: int, found: list[JSONObject], *, suspect: bool, last: bool) -> int | None:
        """Read what comes next; returns where the text goes on after it, None while it is not complete."""
        state, char = self._next, text[at]
        if state in _SIGNS:
            return at + self._sign(state, char)
        most = self._reading.object_bytes if state is _At.ITEM else ENVELOPE_BYTES
        if state is _At.VALUE and self._key == "items" and char == "[":
            self._next = _At.FIRST_ITEM
            return at + 1
        if state is _At.ITEM and char != "{":
            raise ValueError("an item is not an object")
        read = _value(text, at, most, last=last)
        if read is None:
            return None
        value, after = read
        if state is _At.ITEM:
            found.append(_kept(cast("JSONObject", clean_all(value) if suspect else value), self._reading))
            self._next = _At.AFTER_ITEM
        elif state is _At.KEY:
            if not isinstance(value, str):
                raise ValueError("a key is not a text")
            self._key, self._next = value, _At.COLON
        else:
            self._take(clean_all(value) if suspect else value)
            self._next = _At.AFTER_VALUE
        return after

    def _sign(self, state: _At, char: str) -> int:
        """Read one of the signs between values; returns 0 where what stands there is the value itself."""
        expected = _SIGNS[state]
        if char in expected:
            self._next = expected[char]
            return 1
        if "" not in expected:
            raise ValueError(f"expected one of {' '.join(expected)}")
        self._next = expected[""]
        return 0

    def _take(self, value: object) -> None:
        """A value of the list itself."""
        if self._key == "items" and value is not None:
            raise ValueError("items is not a list")
        if self._key == "metadata":
            if not isinstance(value, dict):
                raise ValueError("a list without metadata")
            self.metadata = value


_SIGNS: Final[Mapping[_At, Mapping[str, _At]]] = {
    _At.BEGIN: {"{": _At.FIRST_KEY},
    _At.FIRST_KEY: {"}": _At.END, "": _At.KEY},
    _At.COLON: {":": _At.VALUE},
    _At.AFTER_VALUE: {",": _At.KEY, "}": _At.END},
    _At.FIRST_ITEM: {"]": _At.AFTER_VALUE, "": _At.ITEM},
    _At.AFTER_ITEM: {",": _At.ITEM, "]": _At.AFTER_VALUE},
    _At.END: {},
}
"""Of each place in a list where signs stand, what follows each of them; empty for whatever is no sign there."""


def parse_event(line: bytes | bytearray, reading: ParseRules) -> tuple[str, JSONObject]:
    """Type and object of an event of a watch; raises ValueError (or RecursionError) for anything else."""
    event = parse_object(line, replace(reading, keep=None))
    kind, obj = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(obj, dict):
        raise ValueError("not an event")  # noqa: TRY004  # it is the text that is wrong
    return kind, obj if kind == "ERROR" else _kept(obj, reading)


async def off_the_loop(parse: Callable[[], T], size: int, *, queued: bool = True) -> tuple[T, float]:
    """The result, and the seconds of processor time that it took; a large body in a thread.

    Of those that are `queued`, one is parsed at a time: members wait for each other, the hub for none of them.
    """
    if size <= INLINE_BYTES:
        return _timed(parse)
    if not queued:
        return await asyncio.to_thread(_timed, parse)
    async with _one_at_a_time():
        return await asyncio.to_thread(_timed, parse)


def _timed(parse: Callable[[], T]) -> tuple[T, float]:
    """JSON has no cycles: looking for some meanwhile costs ten times the parsing of what is mostly brackets."""
    begun, collects = time.thread_time(), gc.isenabled()
    gc.disable()
    try:
        return parse(), time.thread_time() - begun
    finally:
        if collects:
            gc.enable()


def _one_at_a_time() -> asyncio.Semaphore:
    """The gate of the running event loop, in front of which members wait in the order in which they came."""
    global _gate, _gate_of
    loop = asyncio.get_running_loop()
    if _gate is None or _gate_of is not loop:
        _gate, _gate_of = asyncio.Semaphore(1), loop
    return _gate


def _value(text: str, at: int, most: int, *, last: bool) -> tuple[object, int] | None:
    """The value that begins there and where it ends, None while it is not complete.

    Raises AnswerTooLargeError if it takes more than `most` characters, ValueError if it is `last` and no value.
    """
    try:
        value, after = _DECODER.raw_decode(text, at)
    except ValueError:
        if len(text) - at > most:
            raise AnswerTooLargeError(f"an object is larger than {most} bytes") from None
        if last:
            raise
        return None
    if after - at > most:
        raise AnswerTooLargeError(f"an object is larger than {most} bytes")
    if after == len(text) and not last and not isinstance(value, dict | list | str):
        return None  # a number may go on
    return value, after


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


def _kept(obj: JSONObject, reading: ParseRules) -> JSONObject:
    return obj if reading.keep is None else reading.keep(obj)


def _suspect(text: str) -> bool:
    """Whether anything in the text may be unsafe: as it stands, or behind one of JSON's own escapes."""
    # The parser refuses the other control characters of ASCII where they stand in a text themselves.
    bare = "\x7f" in text if text.isascii() else UNSAFE.search(text) is not None
    return bare or _ESCAPE.search(text) is not None


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError("a number has more than 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise ValueError("a number is not finite")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
"""The standard library's, but for numbers that no API server has."""
