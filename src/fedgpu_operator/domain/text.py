"""Text of strangers made safe to store, to log and to print; pure, and the one place that says what is unsafe."""

from __future__ import annotations

import re
from typing import Any, Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
MAX_NAME: Final = 253
"""The longest name of a Kubernetes object, in characters."""

_CONTROLS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
"""All of category Cc but tab and line feed: escape sequences begin here, and a carriage return overwrites its line."""
_SEPARATORS: Final = "\u2028\u2029"
_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They change the order in which the characters around them are shown."""
_SURROGATES: Final = "\ud800-\udfff"
"""In a Python string every one of them is alone, and no encoding has it."""

UNSAFE: Final = re.compile(f"[{_CONTROLS}{_SEPARATORS}{_BIDI}{_SURROGATES}]")
_NAME: Final = re.compile(rf"[!-~]{{1,{MAX_NAME}}}")


def counted(number: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def is_clean(text: str) -> bool:
    """Whether the text can be encoded and does nothing to the terminal that shows it."""
    return UNSAFE.search(text) is None


def clean(text: str) -> str:
    """The text with U+FFFD for each unsafe character; tabs and line ends stay, CR LF as LF."""
    return text if is_clean(text) else UNSAFE.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """The same on one line, each run of white space as one space."""
    return " ".join(clean(text).split())


def clean_all(value: Any) -> Any:
    """A value as `json.loads` makes it, with every text and every key in it clean; what is clean is not copied.

    Raises RecursionError if it is nested deeper than Python's stack allows.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_all(each) for each in value]
    if isinstance(value, dict):
        return {clean(key): clean_all(each) for key, each in value.items()}
    return value


def is_name(value: object) -> bool:
    """Whether the value can be a name, uid or version of a Kubernetes object: printable ASCII without spaces."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
