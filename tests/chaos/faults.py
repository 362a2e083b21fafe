"""Ports that die: every write is a named point, before or after which the process ends, or whose reply gets lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from fedgpu_operator.errors import ChainUnreachableError, LedgerError, UnreachableError

Call = Callable[..., Coroutine[Any, Any, Any]]


class Mode(StrEnum):
    """How a point fails. Lost: the effect is there, and what comes back is what a broken connection gives. Pause: the
    process stops before it, as a machine that is suspended, and goes on when it is told to."""

    BEFORE = "before"
    AFTER = "after"
    LOST = "lost"
    PAUSE = "pause"


SWEPT = (Mode.BEFORE, Mode.AFTER, Mode.LOST)


@dataclass(frozen=True, slots=True)
class Fault:
    """Fail the `nth` time (from 1) that `point` is reached."""

    point: str
    mode: Mode
    nth: int = 1


LEDGER = ("store_epoch", "open_intent", "store_tx", "mark_tx", "close_intent", "mark_epoch", "post")
KUBE = ("create", "patch_status")
ESCROW = ("sign", "broadcast", "receipt")
LOST = {
    "ledger": LedgerError("the ledger refused: the connection was lost"),
    "kube": UnreachableError("no answer"),
    "escrow": ChainUnreachableError("no answer"),
}


@dataclass
class Trap:
    """Counts the points as they are reached, and springs the faults that are set for them."""

    faults: tuple[Fault, ...] = ()
    reached: dict[str, int] = field(default_factory=dict)

    def spring(self, point: str) -> Mode | None:
        self.reached[point] = self.reached.get(point, 0) + 1
        return next((f.mode for f in self.faults if (f.point, f.nth) == (point, self.reached[point])), None)


class Wired:
    """A port whose named methods are points; everything else is the port itself."""

    def __init__(self, port: object, name: str, methods: tuple[str, ...], trap: Trap) -> None:
        self._port, self._name, self._methods, self._trap = port, name, methods, trap

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._port, method)
        return self._wire(method, real) if method in self._methods else real

    def _wire(self, method: str, real: Call) -> Call:
        async def call(*args: object, **kwargs: object) -> object:
            mode = self._trap.spring(f"{self._name}.{method}{_label(method, args, kwargs)}")
            if mode is Mode.BEFORE:
                die()
            if mode is Mode.PAUSE:
                os.kill(os.getpid(), signal.SIGSTOP)
            try:
                result = await real(*args, **kwargs)
            finally:
                # An answer that is an error came back all the same.
                if mode is Mode.AFTER:
                    die()
            if mode is Mode.LOST:
                raise LOST[self._name]
            return result

        return call


def die() -> NoReturn:
    """End this very process as the kernel would: nothing is flushed, closed or told to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _label(method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """What tells two uses of one method apart: the stage, the state, the kind, or the object that is written."""
    named: dict[str, Callable[[], object]] = {
        "open_intent": lambda: args[1],
        "store_tx": lambda: getattr(args[0], "kind", ""),
        "mark_tx": lambda: args[1],
        "close_intent": lambda: args[1],
        "mark_epoch": lambda: args[1],
        "create": lambda: getattr(args[0], "kind", ""),
        "patch_status": lambda: _state(args),
        "sign": lambda: getattr(args[0], "what", ""),
    }
    label = named[method]() if method in named else ""
    return f":{label}" if label else ""


def _state(args: tuple[object, ...]) -> object:
    patch = args[3]
    status = patch.get("status", {}) if isinstance(patch, dict) else {}
    return status.get("state", "")
