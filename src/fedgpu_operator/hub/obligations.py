"""What work that was agreed on costs by wallet, and when the ledger has to be read for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Final

from fedgpu_operator.domain.books import LeaseUsage, PairTotal
from fedgpu_operator.domain.money import NOTHING
from fedgpu_operator.hub.funds import Exposure, exposure
from fedgpu_operator.ports import Clock, Ledger

REREAD: Final = timedelta(seconds=30)
"""Only this process opens and ends attempts, and it reads after each; this is the net under that."""
NO_EXPOSURE: Final = Exposure(NOTHING, NOTHING)


@dataclass(frozen=True)
class Obligations:
    """One reading of the pairs and of the open attempts; each table by wallet is made once."""

    pairs: tuple[PairTotal, ...] = ()
    open: tuple[LeaseUsage, ...] = ()

    def exposure(self, wallet: str) -> Exposure:
        """What the wallet's work costs, and what it can come to."""
        return self._exposures.get(wallet, NO_EXPOSURE)

    @cached_property
    def pairs_of(self) -> Mapping[str, tuple[PairTotal, ...]]:
        """The pairs by tenant wallet; the empty name is that of work that nobody pays on chain."""
        found: defaultdict[str, list[PairTotal]] = defaultdict(list)
        for pair in self.pairs:
            found[pair.tenant_wallet].append(pair)
        return MappingProxyType({wallet: tuple(pairs) for wallet, pairs in found.items()})

    @cached_property
    def open_of(self) -> Mapping[str, tuple[LeaseUsage, ...]]:
        """The open attempts by tenant wallet, named as `pairs_of` names them."""
        found: defaultdict[str, list[LeaseUsage]] = defaultdict(list)
        for entry in self.open:
            found[entry.attempt.terms.tenant_wallet].append(entry)
        return MappingProxyType({wallet: tuple(entries) for wallet, entries in found.items()})

    @cached_property
    def _exposures(self) -> Mapping[str, Exposure]:
        wallets = self.pairs_of.keys() | self.open_of.keys()
        return {
            wallet: exposure(self.pairs_of.get(wallet, ()), self.open_of.get(wallet, ()))
            for wallet in wallets
            if wallet
        }


class ObligationBook:
    """Reads the ledger when what an attempt can come to may have changed, and answers from memory otherwise.

    A reading moves money from what an open attempt may still cost to what it has cost and leaves their sum, and so
    `Exposure.worst`, as it was. So only an attempt that is opened or ended asks for another look; whoever needs the
    accrued part to the last reading says `exact`.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known = Obligations()
        self._read_at: datetime | None = None

    def moved(self) -> None:
        """An attempt was opened or ended."""
        self._read_at = None

    async def look(self, *, exact: bool = False) -> Obligations:
        """The obligations; the very same object as long as the ledger was not read again. Raises LedgerError."""
        now = self._clock.now()
        if exact or self._read_at is None or not timedelta() <= now - self._read_at < REREAD:
            pairs, entries = await self._ledger.pair_totals(), await self._ledger.open_attempts()
            if pairs != self._known.pairs or entries != self._known.open:
                self._known = Obligations(pairs, entries)
            self._read_at = now
        return self._known
