"""Whether this process may act: asked before whatever changes something outside of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

LeaderCheck: TypeAlias = Callable[[], None]
"""Raises NotLeaderError unless this process leads by its own clock, without asking anybody."""


def always() -> None:
    """The check of a process that takes part in no election."""
