"""The operator of one build, assembled by its own composition root, over a hub, a clock and a chain of ours.

What differs between builds is here and nowhere else: which one is imported is decided by PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from benchmarks.month.chain import StillChain
from benchmarks.month.history import CHAIN_ID, ESCROW, SETTLER
from benchmarks.month.hub import MemoryHub

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.schema import SCHEMA_VERSION
from fedgpu_operator.bootstrap import system as system_module
from fedgpu_operator.settings import Settings

IS_BEFORE: Final = SCHEMA_VERSION == 3
"""Whether this is commit 32e03ab, which the figures are held against; by its ledger's schema."""
HUB_UID: Final = "11111111-2222-3333-4444-555555555555"
Pass = Callable[[], Awaitable[float | None]]


class StepClock:
    """Time that only the benchmark moves."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def forward(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@dataclass
class Assembled:
    """One operator that nobody but us runs: `passes` are those of its loops."""

    system: Any
    ledger: SqlLedger
    passes: dict[str, Pass]
    watching: asyncio.Task[None]

    async def close(self) -> None:
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        await self.ledger.close()


async def assemble(location: str, hub: MemoryHub, clock: StepClock, chain: StillChain | None) -> Assembled:
    """The operator over these, its watches under way; settlement is off without a chain."""
    settings = Settings.from_env(_environment(location, settles=chain is not None))
    ledger = await SqlLedger.open(location)
    if chain is not None:
        (newest,) = await ledger.epochs(1)
        chain.head = newest.draft.root
    system = await (_before if IS_BEFORE else _now)(settings, hub, clock, ledger, chain)
    watching = asyncio.create_task(system.kube.run())
    passes = {name: loop._pass_once for name, loop in system.loops.items()}  # noqa: SLF001  # one pass, when we say so
    return Assembled(system, ledger, passes, watching)


def _environment(location: str, *, settles: bool) -> dict[str, str]:
    chain = {
        "CHAIN_RPC_URL": "http://127.0.0.1:1",
        "CHAIN_ID": str(CHAIN_ID),
        "ESCROW_ADDRESS": ESCROW,
        "SETTLER_SIGNER_URL": "http://127.0.0.1:1",
        "SETTLER_ADDRESS": SETTLER,
        "NATIVE_USD": "3000",
    }
    return {f"FEDGPU_{name}": value for name, value in {"LEDGER": location, **(chain if settles else {})}.items()}


async def _now(settings: Settings, hub: Any, clock: StepClock, ledger: SqlLedger, chain: StillChain | None) -> Any:
    from fedgpu_operator.adapters.kube.holding import HoldingKube
    from fedgpu_operator.api.registry import KINDS
    from fedgpu_operator.bootstrap.factory import Factory
    from fedgpu_operator.bootstrap.settlement import EscrowAccess
    from fedgpu_operator.hub.services.escrow import TermsSource

    kube: Any = HoldingKube(hub, KINDS, lambda *_: None)
    access = None
    if chain is not None and settings.chain is not None:
        escrow: Any = chain
        terms = TermsSource(escrow, clock, every=3600.0, at_most=7 * 86_400.0, holders={"SETTLER": SETTLER})
        await terms.read()
        access = EscrowAccess(settings.chain, escrow, None, terms)
    factory = Factory(settings, kube, ledger, hub_uid=HUB_UID, access=access, clock=clock)
    return system_module.System.of(factory, kube, ledger)


async def _before(
    settings: Settings, hub: MemoryHub, clock: StepClock, ledger: SqlLedger, chain: StillChain | None
) -> Any:
    """What `build` of that commit does after it dialled; it makes its own clock: ours is in its place before that."""
    module: Any = system_module
    module.SystemClock = lambda: clock
    made: Any = importlib.import_module("fedgpu_operator.bootstrap.settling")
    settling = None if chain is None else made.Settling(settings.chain, chain, None, 7 * 86_400.0, 7 * 86_400.0 + 600.0)
    return module._assemble(settings, hub, HUB_UID, ledger, settling)  # noqa: SLF001  # it has no public way in
