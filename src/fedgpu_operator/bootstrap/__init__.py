"""The composition root: the only place where loops, agents and adapters are put together."""

from __future__ import annotations

from fedgpu_operator.bootstrap.election import REQUEST_SECONDS, Elector
from fedgpu_operator.bootstrap.system import System, build

__all__ = ["REQUEST_SECONDS", "Elector", "System", "build"]
