"""Parses what API servers answer, object by object: none is larger than it may be, and only what is kept stays.

The parser of the standard library holds the interpreter for as long as it works on one text, in whatever thread. So a
list is taken apart here, object by object: other threads run in between, and what an object took in memory is free
again before the next one is read.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar, cast

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.text import UNSAFE, clean_all
from fedgpu_operator.errors import AnswerTooLargeError

INLINE_BYTES: Final = 256 * 1024
"""Up to so many bytes are parsed at once, within some milliseconds; more goes into a thread, one body at a time."""
MAX_DIGITS: Final = 19
"""Of a whole number: Kubernetes has none beyond 64 bits."""
ENVELOPE_BYTES: Final = 64 * 1024
"""What a list says besides its items: its kind, its version, where it goes on."""

Keep: TypeAlias = Callable[[JSONObject], JSONObject]
"""What stays of an object; runs in any thread, fails on nothing."""
T = TypeVar("T")

_SPACE: Final = " \t\n\r"
_ESCAPE: Final = re.compile(r"\\(?:[bfr]|u(?!00(?:09|0[aA]|22|26|27|2[fF]|3[cCeE]|5[cC])))")
"""Any escape but those that Go's encoder writes for harmless characters, such as the one for ``<``."""
PIECES: Final = (16 * 1024, 256 * 1024)
"""Sizes of the pieces in which an object is looked for first: most objects fit into the first one."""
_gate: asyncio.Semaphore | None = None
_gate_of: asyncio.AbstractEventLoop | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A list's answer: its objects as they are kept, and its metadata."""

    items: list[JSONObject]
    metadata: JSONObject


@dataclass(frozen=True, slots=True)
class Reading:
    """How one server's objects are read: their largest size, how many a page may have, whether texts are cleaned."""

    object_bytes: int
    page_items: int
    cleans: bool
    keep: Keep | None = None


def parse_object(body: bytes | bytearray, reading: Reading) -> JSONObject:
    """The one JSON object that the body is; raises ValueError (or RecursionError) for anything else."""
    text = body.decode()
    value = _DECODER.decode(text)
    if reading.cleans and _suspect(text):
        value = clean_all(value)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  # it is the text that is wrong
    return _kept(value, reading)


def parse_page(body: bytes | bytearray, reading: Reading) -> Page:
    """A list, object by object. Raises ValueError (or RecursionError) for anything else, AnswerTooLargeError."""
    text = body.decode()
    suspect = reading.cleans and _suspect(text)
    items: list[JSONObject] = []
    metadata: object = None
    at, first = _expect(text, 0, "{"), True
    while not text.startswith("}", at := _after_space(text, at)):
        at, first = (at if first else _expect(text, at, ",")), False
        key, at = _value(text, _after_space(text, at), ENVELOPE_BYTES)
        if not isinstance(key, str):
            raise ValueError("a key is not a text")  # noqa: TRY004  # it is the text that is wrong
        at = _after_space(text, _expect(text, at, ":"))
        if key == "items" and text.startswith("[", at):
            items, at = _items(text, at, reading, suspect=suspect)
            continue
        value, at = _value(text, at, ENVELOPE_BYTES)
        if key == "items" and value is not None:
            raise ValueError("items is not a list")
        if key == "metadata":
            metadata = clean_all(value) if suspect else value
    if _after_space(text, at + 1) != len(text):
        raise ValueError("more than one value")
    if not isinstance(metadata, dict):
        raise ValueError("a list without metadata")  # noqa: TRY004  # it is the text that is wrong
    return Page(items, metadata)


def parse_event(line: bytes | bytearray, reading: Reading) -> tuple[str, JSONObject]:
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


def _items(text: str, at: int, reading: Reading, *, suspect: bool) -> tuple[list[JSONObject], int]:
    """The objects of the array that begins there, as they are kept, and where the array ends."""
    items: list[JSONObject] = []
    at = _after_space(text, at + 1)
    while not text.startswith("]", at):
        at = at if not items else _after_space(text, _expect(text, at, ","))
        if not text.startswith("{", at):
            raise ValueError("an item is not an object")
        if len(items) >= reading.page_items:
            raise AnswerTooLargeError(f"a page has more than {reading.page_items} objects")
        item, at = _value(text, at, reading.object_bytes)
        items.append(_kept(cast("JSONObject", clean_all(item) if suspect else item), reading))
        at = _after_space(text, at)
    return items, at + 1


def _value(text: str, at: int, most: int) -> tuple[object, int]:
    """The value that begins there and where it ends; AnswerTooLargeError where it takes more than `most` characters.

    Only a piece of the text is shown to the parser, so that it can neither work nor allocate beyond that.
    """
    for size in (*(each for each in PIECES if each < most), most):
        piece = text[at : at + size]
        try:
            value, length = _DECODER.raw_decode(piece)
        except ValueError:
            if len(piece) < size:
                raise
            continue
        return value, at + length
    raise AnswerTooLargeError(f"an object is larger than {most} bytes")


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, what: str) -> int:
    """Where the text goes on after that character; raises ValueError where another one stands."""
    at = _after_space(text, at)
    if text[at : at + 1] != what:
        raise ValueError(f"expected {what}")
    return at + 1


def _kept(obj: JSONObject, reading: Reading) -> JSONObject:
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
