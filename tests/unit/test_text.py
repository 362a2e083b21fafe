"""Text of strangers: what comes out can be encoded and shown, and honest text comes out as it went in."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.text import clean, clean_all, clean_line, is_clean, is_name

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
JSON = st.recursive(
    st.none() | st.integers() | ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)
)


@given(ANY_TEXT)
def test_whatever_comes_in_what_comes_out_can_be_encoded_and_steers_nothing(text: str) -> None:
    found = clean(text)
    found.encode()
    kinds = {unicodedata.category(each) for each in found if each not in "\n\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not any(
        unicodedata.bidirectional(each) in {"LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI"} for each in found
    )
    assert clean(found) == found
    assert "\n" not in clean_line(text)


@pytest.mark.parametrize(
    "text", ["", "exit code 3 (Error)", "no space\n\tleft on device", "größer 大きい 🚀 עברית العربية", "a\u200db <&>"]
)
def test_honest_text_is_not_touched(text: str) -> None:
    assert is_clean(text)
    assert clean(text) is text


def test_each_unsafe_character_leaves_a_mark() -> None:
    assert clean("a\x1b[31mb\x9bc\ud800d\u202ee\x00") == "a\ufffd[31mb\ufffdc\ufffdd\ufffde\ufffd"
    assert clean("one\r\ntwo\rthree") == "one\ntwo\ufffdthree"
    assert clean_line(" two\n lines\t here ") == "two lines here"


@given(JSON)
def test_keys_and_values_at_any_depth_are_cleaned_and_nothing_else_changes(value: Any) -> None:
    def walk(part: Any) -> None:
        if isinstance(part, str):
            assert is_clean(part)
        for each in part.items() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ():
            walk(each)

    found = clean_all(value)
    walk(found)
    assert clean_all(found) == found
    assert not isinstance(value, int) or found == value


@pytest.mark.parametrize("name", ["a", "kube-root-ca.crt", "system:controller:x", "v1.35.0+k3s1", "a" * 253])
def test_names_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "\x1b[31m", "\ud800", "ä", "a" * 254, None, 7, ["a"]])
def test_what_identifies_nothing_is_no_name(name: object) -> None:
    assert not is_name(name)
