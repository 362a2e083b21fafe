"""``fedgpu demo`` in an installation that has the operator alone."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_without_the_lab_the_demo_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fedgpu_lab.demo", None)
    code, out, err = run("demo")
    assert (code, out) == (2, "")
    assert err == (
        "error: the demo needs fedgpu_lab.demo: not installed; in a checkout of fedgpu, pip install -e lab\n"
    )
