"""Running work against its tenant's money: what it costs, and its end, a checkpoint before that, or nothing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from types import MappingProxyType
from typing import Final, TypeVar

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.money import NOTHING
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.hub.services.changes import ChangeDetector
from fedgpu_operator.hub.services.hubstate import HubState
from fedgpu_operator.hub.services.writes import Writers, one_of_many
from fedgpu_operator.hub.views.accounts import Exposure, Outlook, account_funds, checksummed, exposure, outlook
from fedgpu_operator.ports import AttemptBook, Clock, Kube, ResourceType
from fedgpu_operator.settlement import FundingStage, Thresholds, stage_of

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


log = logging.getLogger(__name__)

REACTION: Final = 15.0
"""Seconds that the hub allows itself between the instant at which a lease must stop and its tombstone."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """By lease name: `stop` why it must end now, `save` when its money ends, where a checkpoint is to be asked for.

    `due` is in how many seconds the next of these things happens; None where nothing is in sight. `tight` is whether
    some wallet cannot pay for all of its work to the very end: only then does it matter what was billed of it so far.
    """

    stop: Mapping[str, str] = field(default_factory=dict)
    save: Mapping[str, datetime] = field(default_factory=dict)
    due: float | None = None
    tight: bool = False


@dataclass(frozen=True, slots=True)
class Payer:
    """A wallet with the account that answers for it, and the open attempts that it pays for."""

    account: ComputeAccount
    entries: tuple[AttemptUsage, ...]


def payers_of(accounts: Mapping[str, ComputeAccount], owed: Obligations) -> dict[str, Payer]:
    """By wallet, who pays for the open attempts; `accounts` are by namespace.

    Attempts of namespaces that `accounts` lacks, or whose account is of another wallet, are left to `unpaid`.
    """
    found = {}
    for wallet, entries in owed.open_of.items():
        spaces = {entry.attempt.terms.tenant for entry in entries} if wallet else set()
        paying = {space: known for space in spaces if (known := accounts.get(space)) and _pays(known, wallet)}
        mine = tuple(entry for entry in entries if entry.attempt.terms.tenant in paying)
        if mine:
            # Of several that name the wallet, any would do: all show the same escrow.
            found[wallet] = Payer(paying[min(paying)], mine)
    return found


def upkeep(
    payers: Mapping[str, Payer],
    leases: Mapping[str, ComputeLease],
    owed: Obligations,
    thresholds: Thresholds,
    now: datetime,
) -> Upkeep:
    """The upkeep of all open attempts that are settled on chain.

    An account that was never read says nothing: its leases go on. A wallet that can pay for everything at its limit is
    not looked into further: nothing of it can end for want of money.
    """
    found = []
    for wallet, payer in payers.items():
        stands = account_funds(payer.account, now)
        if stands is not None and not stands.pays_all(owed.exposure(wallet)):
            ends = _ends(payer.entries, leases, now)
            seen = outlook(stands, owed.pairs_of.get(wallet, ()), payer.entries, now, ends)
            found.append(_judge(seen, leases, thresholds, now))
    return Upkeep(
        stop={name: why for each in found for name, why in each.stop.items()},
        save={name: at for each in found for name, at in each.save.items()},
        due=min((each.due for each in found if each.due is not None), default=None),
        tight=bool(found),
    )


def unpaid(accounts: Mapping[str, ComputeAccount], owed: Obligations) -> dict[str, str]:
    """By lease name, the namespace of each open attempt whose wallet no account there names any more.

    Nobody watches that wallet then, so its money could leave unseen.
    """
    found: dict[str, str] = {}
    for wallet, entries in owed.open_of.items():
        spaces = {entry.attempt.terms.tenant for entry in entries} if wallet else set()
        bare = {space for space in spaces if not ((known := accounts.get(space)) and _pays(known, wallet))}
        found |= {e.attempt.lease_name: e.attempt.terms.tenant for e in entries if e.attempt.terms.tenant in bare}
    return found


def _pays(account: ComputeAccount, wallet: str) -> bool:
    return checksummed(account.spec.wallet) == wallet


def _ends(entries: Iterable[AttemptUsage], leases: Mapping[str, ComputeLease], now: datetime) -> dict[str, datetime]:
    """When the leases are over that have ended or were told to stop, grace included."""
    ends = {}
    for entry in entries:
        lease = leases.get(entry.attempt.lease_name)
        if lease is None:
            continue
        if lease.status.ended:
            ends[lease.metadata.name] = now
        elif lease.spec.desired == "Stop" and lease.spec.stop_requested_at is not None:
            ends[lease.metadata.name] = lease.spec.stop_requested_at + timedelta(seconds=lease.spec.grace_seconds)
    return ends


def _judge(seen: Outlook, leases: Mapping[str, ComputeLease], thresholds: Thresholds, now: datetime) -> Upkeep:
    """What to do about the leases of one wallet that it cannot pay to their end."""
    short = [leases[run.lease] for run in seen.running if run.lease not in seen.secured and run.lease in leases]
    if seen.lasts is None or not short:
        return Upkeep()
    margin = REACTION + max(lease.spec.grace_seconds for lease in short)
    at, end = stage_of(seen.lasts, thresholds, margin=margin), now + timedelta(seconds=seen.lasts)
    if at is FundingStage.EXHAUSTED:
        why = f"its account pays for it until {end:%Y-%m-%dT%H:%M:%SZ} only"
        return Upkeep(stop={lease.metadata.name: why for lease in short})
    ahead = seen.lasts - margin
    if at is not FundingStage.CHECKPOINT:
        return Upkeep(due=ahead - thresholds.checkpoint)
    since = end - timedelta(seconds=2 * thresholds.checkpoint + margin)
    return Upkeep(save={lease.metadata.name: end for lease in short if not _was_asked(lease, since)}, due=ahead)


def _was_asked(lease: ComputeLease, since: datetime) -> bool:
    """Whether this very shortage was announced to the workload; one that a deposit ended was another."""
    asked = lease.spec.checkpoint_requested_at
    return asked is not None and asked >= since


ACCOUNTS = ResourceType.of(ComputeAccount.info)


class MoneyWatch:
    """Looks once per pass. It stops nothing itself: that is the attempts' keeper's."""

    def __init__(
        self, kube: Kube, writers: Writers, owed: ObligationBook, clock: Clock, thresholds: Callable[[], Thresholds]
    ) -> None:
        self._kube = kube
        self._jobs, self._leases = writers.jobs, writers.leases
        self._owed = owed
        self._clock = clock
        self._thresholds = thresholds
        self._watched = ChangeDetector()
        self._payers: dict[str, Payer] = {}
        self._missing: dict[str, str] = {}
        self._tight = False

    async def look(self, state: HubState) -> Upkeep:
        """The upkeep of all open attempts; empty where nothing is settled on chain."""
        if state.wallets is None:
            return Upkeep()
        found = await self._upkeep(state, exact=self._tight)
        if found.tight and not self._tight:
            found = await self._upkeep(state, exact=True)
        self._tight = found.tight
        if not self._missing:
            return found
        return replace(found, stop={**found.stop, **await self._without_account(state, self._missing)})

    async def _upkeep(self, state: HubState, *, exact: bool) -> Upkeep:
        owed = await self._owed.look(exact=exact)
        if self._watched.changed((owed, *state.accounts.values())):
            self._payers, self._missing = payers_of(state.accounts, owed), unpaid(state.accounts, owed)
        return upkeep(self._payers, state.leases, owed, self._thresholds(), self._clock.now())

    async def ask(self, state: HubState, wanted: Mapping[str, datetime]) -> None:
        """Ask these leases' workloads to save their work, each once, and tell their jobs; put what is written back."""
        jobs = {job.metadata.uid: job for job in state.jobs} if wanted else {}
        for name, end in wanted.items():
            lease = state.leases[name]
            with one_of_many(lease):
                # First the word, which may be repeated: what is asked already is not told again.
                job = jobs.get(lease.spec.job.uid)
                if job is not None:
                    await self._tell(job, end)
                state.took(await self._leases.request_checkpoint(lease))

    async def _tell(self, job: ComputeJob, end: datetime) -> None:
        text = (
            f"the account's money for what runs ends at {end:%Y-%m-%dT%H:%M:%SZ}: the workload was asked to save its "
            "work and is stopped shortly before, unless the account is funded again"
        )
        await self._jobs.event(job, "Warning", ConditionReason.CHECKPOINT_REQUESTED, text)

    async def _without_account(self, state: HubState, missing: Mapping[str, str]) -> dict[str, str]:
        """Leases to stop because no account of their namespace names their wallet any more; why, by lease name."""
        gone = {}
        for namespace in sorted(set(missing.values())):
            if namespace in state.accounts or await self._is_gone(namespace):
                gone[namespace] = f"the account of namespace {namespace} that paid for it is gone"
        return {lease: gone[namespace] for lease, namespace in missing.items() if namespace in gone}

    async def _is_gone(self, namespace: str) -> bool:
        """Asked by name: an account that merely could not be read must not look like one that is gone."""
        try:
            await self._kube.get(ACCOUNTS, "default", namespace)
        except NotFoundError:
            return True
        return False
