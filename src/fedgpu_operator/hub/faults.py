"""How attempts ended lately, by offer: kept in memory, read from the ledger once, so that a restart forgets nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from fedgpu_operator.domain.books import Attempt
from fedgpu_operator.domain.faults import COOLING, SUCCEEDED, Ending, cooling, memory_of
from fedgpu_operator.ports import Clock, Ledger


def ending_of(attempt: Attempt) -> Ending | None:
    """How the attempt ended, None while it is open."""
    terms = attempt.terms
    if attempt.ended_at is None:
        return None
    offer = f"{terms.provider}/{terms.product}"
    return Ending(offer, terms.tenant, attempt.outcome, attempt.created_at, attempt.ended_at)


class FaultBook:
    """Which offers cool down for whom; `base` is the first cool-down."""

    def __init__(self, ledger: Ledger, clock: Clock, base: timedelta) -> None:
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
