"""What a run costs beyond its price, and how attempts ended lately by offer: from the ledger and the chain."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Protocol

from fedgpu_operator.domain.attempts import Attempt
from fedgpu_operator.domain.faults import COOLING, INTERRUPTIONS, SUCCEEDED, Ending, cooling, memory_of
from fedgpu_operator.domain.market import ProviderRecord
from fedgpu_operator.domain.money import NOTHING, SECONDS_PER_HOUR, MicroUSD
from fedgpu_operator.domain.settlement import Epoch, EpochStage
from fedgpu_operator.domain.transactions import FeeView
from fedgpu_operator.errors import ChainError
from fedgpu_operator.placement.plugins.rerun import HOURS_PER_MH, PRIOR_PER_MH
from fedgpu_operator.ports import AttemptBook, Clock, Ledger
from fedgpu_operator.settlement.fees import Extent, share_of_run

log = logging.getLogger(__name__)


def ending_of(attempt: Attempt) -> Ending | None:
    """How the attempt ended, None while it is open."""
    terms = attempt.terms
    if attempt.ended_at is None:
        return None
    offer = f"{terms.provider}/{terms.product}"
    return Ending(offer, terms.tenant, attempt.outcome, attempt.created_at, attempt.ended_at)


class FaultBook:
    """Which offers cool down for whom; `base` is the first cool-down."""

    def __init__(self, ledger: AttemptBook, clock: Clock, base: timedelta) -> None:
        self._ledger = ledger
        self._clock = clock
        self._base = base
        self._faults: set[Ending] = set()
        self._worked: dict[str, Ending] = {}
        self._read = False
        self._cooling: tuple[datetime | None, dict[str, Mapping[str, str]]] = (None, {})

    async def look(self) -> None:
        """Read the ledger, the first time; raises LedgerError."""
        oldest = self._clock.now() - memory_of(self._base)
        if not self._read:
            for ending in await self._ledger.endings(oldest, COOLING):
                self._keep(ending)
            self._read = True
        self._faults = {each for each in self._faults if each.ended > oldest}
        self._worked = {offer: each for offer, each in self._worked.items() if each.ended > oldest}
        self._cooling = (None, {})

    def note(self, attempt: Attempt) -> None:
        """That attempt is as the ledger holds it now; one that was noted before changes nothing."""
        ending = ending_of(attempt)
        if ending is not None:
            self._keep(ending)

    def cooling(self, tenant: str, now: datetime) -> Mapping[str, str]:
        """Offers at which no job of that tenant is placed now, and why; the same object for each job of a pass."""
        at, known = self._cooling
        if at != now:
            self._cooling = (now, known := {})
        if tenant not in known:
            found = cooling((*self._faults, *self._worked.values()), tenant, now, self._base) if self._faults else {}
            known[tenant] = MappingProxyType(found)
        return known[tenant]

    def _keep(self, ending: Ending) -> None:
        if ending.outcome in COOLING:
            self._faults.add(ending)
        elif ending.outcome == SUCCEEDED:
            known = self._worked.get(ending.offer)
            if known is None or known.began < ending.began:
                self._worked[ending.offer] = ending


WINDOW: Final = timedelta(days=180)
"""What is older no longer speaks for or against an owner."""
REFRESH: Final = timedelta(minutes=10)
EPOCHS: Final = 20
"""So many of the newest epochs say how many runs share one."""

PRIOR_HOURS: Final = HOURS_PER_MH // PRIOR_PER_MH
"""An owner begins with one interruption in so many hours, which what is seen outweighs. With interruptions that come
independently at a constant rate and a Gamma prior of shape 1, this is the mean of the rate."""


class FeeSource(Protocol):
    """The part of the chain that gas prices come from."""

    async def suggest_fees(self) -> FeeView:
        """What the chain asks now."""
        ...


@dataclass(frozen=True, slots=True)
class RunCosts:
    """Interruptions per million hours by provider, and the gas that settling one run is expected to cost (µUSD)."""

    interruptions_per_mh: Mapping[str, int] = field(default_factory=dict)
    gas_share: MicroUSD = NOTHING


UNKNOWN: Final = RunCosts()


class CostBook:
    """Reads the ledger and the chain anew every ten minutes; between that it answers from memory.

    Without `fees` or `native_usd` (µUSD per whole native coin) gas costs nothing.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, fees: FeeSource | None = None, native_usd: MicroUSD | None = None
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._fees = fees
        self._native_usd = native_usd
        self._known = UNKNOWN
        self._read_at: datetime | None = None

    async def look(self) -> RunCosts:
        """What is known now. A chain that does not answer leaves its last figure; raises LedgerError."""
        now = self._clock.now()
        if self._read_at is None or now - self._read_at >= REFRESH:
            seen = interruptions(await self._ledger.provider_records(now - WINDOW))
            self._known = RunCosts(seen, await self._gas_share())
            self._read_at = now
        return self._known

    async def _gas_share(self) -> MicroUSD:
        if self._fees is None or self._native_usd is None:
            return NOTHING
        try:
            view = await self._fees.suggest_fees()
        except ChainError as error:
            log.warning("the chain does not say what gas costs, the last figure stays: %s", error)
            return self._known.gas_share
        extent = extent_of(await self._ledger.epochs(EPOCHS))
        return share_of_run(extent, view.base_fee + view.tip, self._native_usd)


def interruptions(records: Iterable[ProviderRecord]) -> dict[str, int]:
    """Expected interruptions per million hours by provider: (seen + 1) / (hours seen + PRIOR_HOURS), half up.

    Only work that ran and was taken away counts: what failed may have failed by itself, and what never started has lost
    nothing.
    """
    cut: dict[str, int] = defaultdict(int)
    seconds: dict[str, int] = defaultdict(int)
    for record in records:
        seconds[record.provider] += record.seconds
        cut[record.provider] += record.attempts if record.outcome in INTERRUPTIONS else 0
    return {name: _per_mh(cut[name] + 1, seconds[name] + PRIOR_HOURS * SECONDS_PER_HOUR) for name in seconds}


def _per_mh(count: int, seconds: int) -> int:
    return (2 * count * HOURS_PER_MH * SECONDS_PER_HOUR + seconds) // (2 * seconds)


def extent_of(epochs: Iterable[Epoch]) -> Extent:
    """How large these epochs were together, and how many runs they covered; those that never stood do not count."""
    stood = [each.draft for each in epochs if each.stage not in (EpochStage.CANCELLED, EpochStage.ABANDONED)]
    return Extent(
        epochs=len(stood),
        tenants=sum(len({line.tenant for line in draft.lines}) for draft in stood),
        providers=sum(len({line.provider for line in draft.lines}) for draft in stood),
        lines=sum(len(draft.lines) for draft in stood),
        runs=sum(len(draft.covers) for draft in stood),
    )
