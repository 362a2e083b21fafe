"""Answers are taken apart object by object: the same as the standard library reads, and no more than the bounds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tracemalloc
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.kube import parser
from fedgpu_operator.adapters.kube.parser import (
    INLINE_BYTES,
    PIECE_BYTES,
    PageReader,
    ParseRules,
    off_the_loop,
    parse_object,
)
from fedgpu_operator.errors import AnswerTooLargeError

MIB = 2**20
READING = ParseRules(object_bytes=MIB, cleans=True)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
CLEAN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | CLEAN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLEAN, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.lists(st.dictionaries(CLEAN, VALUES, max_size=3), max_size=4)


@dataclass(frozen=True)
class Page:
    items: list[dict[str, Any]]
    metadata: dict[str, Any] | None


def parse_page(body: bytes, reading: ParseRules, size: int = PIECE_BYTES) -> Page:
    """A page that arrives in pieces of that size, and an empty one at its end."""
    reader, items = PageReader(reading), []
    for begin in range(0, len(body), size):
        items += reader.feed(memoryview(body)[begin : begin + size])
        assert reader.held <= reading.object_bytes + 2 * size
    items += reader.feed(memoryview(b""), last=True)
    return Page(items, reader.metadata)


@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans(), st.integers(1, 40))
def test_a_page_is_what_the_standard_library_reads(
    items: list[dict[str, Any]], indent: int | str | None, ascii_only: bool, last: bool, size: int
) -> None:
    said = {"kind": "List", "n": 12345, "metadata": {"continue": "x", "n": 1}, "items": items}
    said = said if last else dict(reversed(said.items()))
    page = parse_page(json.dumps(said, indent=indent, ensure_ascii=ascii_only).encode() + b"\n", READING, size)
    assert (page.items, page.metadata) == (items, said["metadata"])


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "1", '{"metadata": {}', '{"metadata": {}} {}', '{"metadata": {}, "items": [{}', '{"items": []}',
        '{"metadata": {}, "items": [{} {}]}', '{"metadata": {}, "items": [{},]}', '{"metadata": {}, "items": [1]}',
        '{"metadata": {}, "items": {}}', '{"metadata": {},, "items": []}', '{"metadata": [], "items": []}',
        '{"metadata": {}, "items": [{"a": ' + "1" * 20 + "}]}", '{"metadata": {}, "items": [{"a": 1e999}]}',
        '{"metadata": {}, "items": [{"a": NaN}]}', '{"metadata": {}, "items": [{"a": -Infinity}]}',
        '{"metadata": {}, "items": [' + '{"a":' * 100_000, '{1: 2, "metadata": {}}', "\ufeff{}",
        '{"metadata": {}, "x"}',
    ],
)  # fmt: skip
def test_what_is_no_list_is_no_list(body: str) -> None:
    for size in (1, PIECE_BYTES) if len(body) < 100 else (PIECE_BYTES,):
        with pytest.raises((ValueError, RecursionError)):
            parse_page(body.encode(), READING, size)


def test_bytes_that_are_no_text_are_no_list() -> None:
    with pytest.raises(ValueError, match="decode"):
        parse_page(b'{"metadata": {"x": "\xed\xa0\x80"}}', READING)


def page_of(*items: str) -> bytes:
    return ('{"metadata": {}, "items": [' + ",".join(items) + "]}").encode()


def test_an_object_may_be_as_large_as_it_may_and_no_larger() -> None:
    frame = len('{"a": ""}')
    for size in (10, 16 * 1024, 16 * 1024 + 1, 256 * 1024, 256 * 1024 + 1, MIB):
        (item,) = parse_page(page_of('{"a": "' + "x" * (size - frame) + '"}'), READING).items
        assert len(item["a"]) == size - frame
    with pytest.raises(AnswerTooLargeError, match="larger than"):
        parse_page(page_of("{}", '{"a": "' + "x" * (MIB - frame + 1) + '"}'), READING)
    with pytest.raises(AnswerTooLargeError):
        parse_page(b'{"metadata": {}, "junk": [1' + b",[]" * MIB + b"]}", READING)


def test_of_a_page_only_what_is_kept_takes_memory() -> None:
    """Two megabytes of brackets would be forty of lists; one object of them at a time is there, and its text."""
    body = page_of(*['{"name": "a", "junk": [1' + ",[]" * (MIB // 12) + "]}"] * 40)
    reading = ParseRules(object_bytes=MIB, cleans=True, keep=lambda obj: {"name": obj["name"]})
    tracemalloc.start()
    try:
        page = parse_page(body, reading)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert page.items == [{"name": "a"}] * 40
    assert held < MIB
    assert peak < 16 * MIB


def test_the_text_of_a_large_object_is_read_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not complete is tried again when it has doubled: else a megabyte in small pieces would take for ever."""
    read = 0
    decode = parser._DECODER.raw_decode

    def counted(text: str, at: int = 0) -> tuple[object, int]:
        nonlocal read
        read += len(text) - at
        return decode(text, at)

    monkeypatch.setattr(parser._DECODER, "raw_decode", counted)
    body = page_of('{"a": [1' + ",[]" * (MIB // 4) + "]}")
    assert len(parse_page(body, READING, 1000).items) == 1
    assert read < 4 * len(body)


@pytest.mark.parametrize("escape", ["\\u001b", "\\ud800", "\\u202e", "\\u009b", "\\b", "\\r", "\u202e", "\x9b"])
def test_what_a_member_says_is_clean_however_it_is_written(escape: str) -> None:
    body = f'{{"metadata": {{"x{escape}": "y{escape}"}}, "items": [{{"{escape}": ["{escape}", {{"a": "{escape}"}}]}}]}}'
    page = parse_page(body.encode(), READING)
    assert (page.metadata, page.items) == ({"x\ufffd": "y\ufffd"}, [{"\ufffd": ["\ufffd", {"a": "\ufffd"}]}])
    assert parse_object(body.encode(), READING)["items"] == page.items


def test_what_the_hub_says_is_as_it_stands_there() -> None:
    """A tenant's command may hold any character that JSON has."""
    hub = ParseRules(object_bytes=MIB, cleans=False)
    assert parse_object(b'{"args": ["printf \\u001b[31m"]}', hub) == {"args": ["printf \x1b[31m"]}


async def test_while_a_large_body_is_parsed_the_loop_goes_on() -> None:
    body = json.dumps([{"name": "a", "junk": ["x" * 20_000, *([[]] * 2000)]}] * 900).encode()
    assert len(body) > 64 * INLINE_BYTES
    begun, ticks = time.monotonic(), 0
    parsing = asyncio.create_task(off_the_loop(partial(json.loads, body), len(body)))
    while not parsing.done():
        await asyncio.sleep(0.001)
        ticks += 1
    found, seconds = await parsing
    assert len(found) == 900
    assert 0 < seconds <= time.monotonic() - begun
    assert ticks


async def test_large_bodies_are_parsed_one_after_the_other() -> None:
    running, most = 0, 0

    def parse() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1

    await asyncio.gather(*(off_the_loop(parse, INLINE_BYTES + 1) for _ in range(5)))
    assert most == 1


async def test_the_hub_waits_for_no_member() -> None:
    begun, done = threading.Event(), threading.Event()

    def long() -> bool:
        begun.set()
        return done.wait(10)

    member = asyncio.create_task(off_the_loop(long, INLINE_BYTES + 1))
    await asyncio.to_thread(begun.wait, 10)
    hub, _ = await off_the_loop(lambda: "parsed", INLINE_BYTES + 1, queued=False)
    assert (hub, member.done()) == ("parsed", False)
    done.set()
    assert (await member)[0]
