"""What the work of each wallet costs, read from the ledger when it may have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import chain
from types import MappingProxyType
from typing import Final, TypeVar

from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.money import NOTHING
from fedgpu_operator.hub.views.funds import (
    Exposure,
    exposure,
)
from fedgpu_operator.ports import AttemptBook, Clock

T = TypeVar("T")
REREAD: Final = timedelta(seconds=30)
"""Only this process opens and ends attempts, and it reads after each; this is the net under that."""
MOST_APART: Final = 16
"""Namespaces that are read one by one; of more, everything is read at once."""
NO_EXPOSURE: Final = Exposure(NOTHING, NOTHING)


class Obligations:
    """One reading of the pairs and of the open attempts; each table by wallet is made once.

    `before` is an earlier reading: what wallets owe whose pairs and attempts are equal there is taken over.
    """

    def __init__(
        self,
        pairs: Iterable[PairTotal] = (),
        open_attempts: Iterable[AttemptUsage] = (),
        before: Obligations | None = None,
    ) -> None:
        self.pairs_of = _by(pairs, lambda pair: pair.tenant_wallet)
        """The pairs by tenant wallet; the empty name is that of work that nobody pays on chain."""
        self.open_of = _by(open_attempts, lambda entry: entry.attempt.terms.tenant_wallet)
        """The open attempts by tenant wallet, named as `pairs_of` names them."""
        self._exposures: dict[str, Exposure] = {}
        if before is not None:
            self._exposures |= before.known_where(self)

    def exposure(self, wallet: str) -> Exposure:
        """What the wallet's work costs, and what it can come to."""
        known = self._exposures.get(wallet) if wallet else NO_EXPOSURE
        if known is None:
            known = exposure(self.pairs_of.get(wallet, ()), self.open_of.get(wallet, ()))
            self._exposures[wallet] = known
        return known

    def known_where(self, now: Obligations) -> dict[str, Exposure]:
        """What was worked out here of wallets whose pairs and open attempts are equal `now`."""
        return {
            wallet: known
            for wallet, known in self._exposures.items()
            if self.pairs_of.get(wallet, ()) == now.pairs_of.get(wallet, ())
            and self.open_of.get(wallet, ()) == now.open_of.get(wallet, ())
        }


class ObligationBook:
    """Reads the ledger when what an attempt can come to may have changed, and answers from memory otherwise.

    A reading moves money from what an open attempt may still cost to what it has cost and leaves their sum, and so
    `Exposure.worst`, as it was. So only an attempt that is opened or ended asks for another look, at its namespace;
    whoever needs the accrued part to the last reading says `exact`.
    """

    def __init__(self, ledger: AttemptBook, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._pairs: dict[str, tuple[PairTotal, ...]] = {}
        self._open: dict[str, tuple[AttemptUsage, ...]] = {}
        self._answers: tuple[object, object] | None = None
        """The ledger's last answers about all namespaces, as long as no namespace was read apart since."""
        self._known = Obligations()
        self._moved: set[str] = set()
        self._read_at: datetime | None = None

    def moved(self, namespace: str) -> None:
        """An attempt of that namespace was opened or ended."""
        self._moved.add(namespace)

    async def look(self, *, exact: bool = False) -> Obligations:
        """The obligations; the very same object as long as the ledger was not read again. Raises LedgerError."""
        now = self._clock.now()
        if exact or self._read_at is None or not timedelta() <= now - self._read_at < REREAD:
            if exact or self._read_at is None:
                await self._read_all()
            else:
                await self._look_for_moved()
            self._read_at = now
        if self._moved:
            await self._read_moved()
        return self._known

    async def _read_all(self) -> None:
        moved = set(self._moved)
        pairs, entries = await self._ledger.pair_totals(), await self._ledger.open_attempts()
        if self._answers is None or self._answers[0] is not pairs or self._answers[1] is not entries:
            # The ledger answers with the same objects as long as nobody wrote what they were read from.
            self._answers = pairs, entries
            self._pairs = dict(_by(pairs, lambda pair: pair.tenant))
            self._open = dict(_by(entries, lambda entry: entry.attempt.terms.tenant))
            self._rebuild()
        self._moved -= moved

    async def _look_for_moved(self) -> None:
        """Read the namespaces whose totals moved; what an attempt that has ended bills late is seen only here."""
        found = _by(await self._ledger.pair_totals(), lambda pair: pair.tenant)
        moved = {name for name in found.keys() | self._pairs.keys() if found.get(name, ()) != self._pairs.get(name, ())}
        if len(moved) > MOST_APART:
            await self._read_all()
        else:
            self._moved |= moved

    async def _read_moved(self) -> None:
        moved = set(self._moved)
        self._answers = None
        for namespace in sorted(moved):
            self._pairs[namespace] = await self._ledger.pair_totals(namespace)
            self._open[namespace] = await self._ledger.open_attempts(namespace)
        self._rebuild()
        # Only what was read by this look: more may have moved meanwhile.
        self._moved -= moved

    def _rebuild(self) -> None:
        pairs, entries = chain.from_iterable(self._pairs.values()), chain.from_iterable(self._open.values())
        self._known = Obligations(pairs, entries, self._known)


def _by(items: Iterable[T], name: Callable[[T], str]) -> Mapping[str, tuple[T, ...]]:
    found: defaultdict[str, list[T]] = defaultdict(list)
    for item in items:
        found[name(item)].append(item)
    return MappingProxyType({key: tuple(those) for key, those in found.items()})
