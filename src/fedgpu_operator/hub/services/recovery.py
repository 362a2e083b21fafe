"""A ledger older than the world: finds what it lacks, holds back what would open, restores what is proven."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from fedgpu_operator.api.base import READY, Finding, JSONObject, merge, standing
from fedgpu_operator.api.computejob import ComputeJob, job_state
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage, lease_name
from fedgpu_operator.domain.money import MicroUSD, format_usd, parse_usd
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import ChainError, LedgerUnreachableError, NotFoundError
from fedgpu_operator.hub.services.billing import UsageBiller
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.hub.services.writes import Writers, for_each, one_of_many
from fedgpu_operator.hub.views.accounts import cumulative_pairs
from fedgpu_operator.hub.views.jobfacts import SUPERSEDED, outcome_of
from fedgpu_operator.ports import CONFIG_MAPS, Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.pulse import Pass

log = logging.getLogger(__name__)

ACCEPTED: Final = "fedgpu-ledger-losses"
"""ConfigMap in the operator's namespace: the gaps that a person accepted, by id with their words."""
ALL_EPOCHS: Final = 2**31 - 1


class GapKind(StrEnum):
    """What the ledger has forgotten."""

    ATTEMPT = "attempt"
    """An attempt that a lease, or a job's status, names."""
    USAGE = "usage"
    """Usage that was in the ledger when a job's status, or a lease that was made again, was written."""
    EPOCH = "epoch"
    """A settlement epoch that was published, or the newest one on chain."""
    RECEIPT = "receipt"
    """What a proposed receipt says that a pair owes."""
    PAID = "paid"
    """What the escrow has paid for a pair."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One difference: `name` is that of the lease, job, epoch or pair that shows it."""

    kind: GapKind
    name: str
    text: str

    @property
    def id(self) -> str:
        """Unique among all gaps, and a key of a ConfigMap."""
        return f"{self.kind}.{self.name}"


class EscrowAddress(NamedTuple):
    """Where a hub settles: the chain's id and the escrow's address."""

    chain_id: int
    escrow: str

    def is_of(self, epoch: SettlementEpoch) -> bool:
        """Whether that epoch was settled there."""
        return (epoch.spec.chain_id, epoch.spec.contract.lower()) == (self.chain_id, self.escrow.lower())


@dataclass(frozen=True, slots=True)
class HubView:
    """What the hub shows, and what the escrow has paid at the finalized block (µUSD); None where that is not known."""

    leases: tuple[ComputeLease, ...]
    jobs: tuple[ComputeJob, ...]
    epochs: tuple[SettlementEpoch, ...] = ()
    reports: tuple[ProviderReport, ...] = ()
    paid: Mapping[Pair, MicroUSD] | None = None
    head: tuple[int, str] | None = None
    """The contract's number and the root of its newest epoch that was not cancelled; number 0 for none."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger holds of all that: attempts by job uid, its newest epoch's number (0: none), and what pairs owe.

    `place` is where this hub settles; None where nothing is settled. `roots` are those of all its epochs.
    """

    attempts: Mapping[str, tuple[AttemptUsage, ...]]
    newest_epoch: int = 0
    owed: Mapping[Pair, MicroUSD] | None = None
    place: EscrowAddress | None = None
    roots: Collection[str] = ()


def find_gaps(shown: HubView, books: Books) -> tuple[Gap, ...]:
    """Every gap once, in a stable order; pure."""
    # A lease says more than the status of its job.
    gaps = (*_jobs(shown, books), *_leases(shown, books), *_settled(shown, books), *_head(shown, books))
    found = {gap.id: gap for gap in gaps}
    return tuple(found[key] for key in sorted(found))


def _leases(shown: HubView, books: Books) -> Iterator[Gap]:
    for lease in shown.leases:
        job, number, name = lease.spec.job, lease.spec.attempt, lease.metadata.name
        if name != lease_name(job.uid, number):
            # Made by hand: no attempt was ever called so.
            continue
        entries = books.attempts.get(job.uid, ())
        entry = next((each for each in entries if each.attempt.attempt == number), None)
        if entry is None:
            text = f"lease {name} is attempt {number} of job {job.namespace}/{job.name}, {_newest(entries)}"
            yield Gap(GapKind.ATTEMPT, name, text)
        elif lease.spec.sequence_base > entry.sequence:
            text = f"lease {name} was made again at reading {lease.spec.sequence_base}, the ledger has {entry.sequence}"
            yield Gap(GapKind.USAGE, name, text)


def _jobs(shown: HubView, books: Books) -> Iterator[Gap]:
    for job in shown.jobs:
        uid, placement, usage = job.metadata.uid, job.status.placement, job.status.usage
        if placement is None or placement.lease != lease_name(uid, placement.attempt):
            # Never placed, or made again by a tool that copied the status of another object.
            continue
        entries = books.attempts.get(uid, ())
        newest = max((each.attempt.attempt for each in entries), default=0)
        if placement.attempt > newest:
            text = f"job {job.key} shows attempt {placement.attempt} at {placement.provider}, {_newest(entries)}"
            yield Gap(GapKind.ATTEMPT, placement.lease, text)
            continue
        billed = sum(each.gpu_seconds for each in entries)
        if usage is not None and usage.gpu_seconds > billed:
            text = f"job {job.key} shows {usage.gpu_seconds} billed GPU-seconds, the ledger has {billed}"
            yield Gap(GapKind.USAGE, uid, text)


def _settled(shown: HubView, books: Books) -> Iterator[Gap]:
    if (place := books.place) is None:
        return
    owed = books.owed or {}
    for epoch in shown.epochs:
        number, counts = epoch.spec.sequence, place.is_of(epoch) and not epoch.status.cancelled
        if counts and number > books.newest_epoch:
            newest = f"the ledger's newest is {books.newest_epoch}" if books.newest_epoch else "the ledger has none"
            yield Gap(GapKind.EPOCH, epoch.metadata.name, f"epoch {number} was published, {newest}")
    for report in shown.reports:
        if report.metadata.namespace != provider_namespace(report.spec.provider):
            continue
        for proposal in report.spec.receipts:
            said = proposal.to_domain()
            pair = said.tenant, said.provider
            if said.cumulative > owed.get(pair, 0):
                text = f"{format_usd(said.cumulative)} USD were proposed as a receipt, {_owes(owed, pair)}"
                yield Gap(GapKind.RECEIPT, _name(pair), text)
    for pair, paid in (shown.paid or {}).items():
        if paid > owed.get(pair, 0):
            yield Gap(GapKind.PAID, _name(pair), f"the escrow has paid {format_usd(paid)} USD, {_owes(owed, pair)}")


def _head(shown: HubView, books: Books) -> Iterator[Gap]:
    """The newest root on chain, by its root: a later one of somebody else has to be accepted as well."""
    number, root = shown.head or (0, "")
    if number and root not in books.roots:
        yield Gap(GapKind.EPOCH, f"root-{root}", f"root {root} is the newest on chain, and in no epoch of the ledger")


def _newest(entries: Iterable[AttemptUsage]) -> str:
    newest = max((each.attempt.attempt for each in entries), default=0)
    return f"the ledger's newest is {newest}" if newest else "the ledger has none"


def _owes(owed: Mapping[Pair, MicroUSD], pair: Pair) -> str:
    return f"by the ledger wallet {pair[0]} owes {pair[1]} {format_usd(owed.get(pair, MicroUSD(0)))} USD"


def _name(pair: Pair) -> str:
    return ".".join(pair)


async def compare(kube: Kube, ledger: Ledger, namespace: str, place: EscrowAddress | None) -> tuple[Gap, ...]:
    """Read the hub and the ledger; all gaps but those that were accepted.

    `place` is where this hub settles, None if it does not. Raises the KubeError tree, LedgerError.
    """
    # The world first: what is opened meanwhile is in the ledger by then.
    shown = HubView(
        tuple(await load_all(kube, ComputeLease)),
        tuple(await load_all(kube, ComputeJob)),
        tuple(await load_all(kube, SettlementEpoch)),
        tuple(await load_all(kube, ProviderReport)),
    )
    uids = {lease.spec.job.uid for lease in shown.leases} | {job.metadata.uid for job in shown.jobs}
    attempts = await ledger.histories(sorted(uids))
    if place is None:
        gaps = find_gaps(shown, Books(attempts))
    else:
        newest = next((each.number for each in await ledger.epochs(limit=1)), 0)
        gaps = find_gaps(shown, Books(attempts, newest, cumulative_pairs(await ledger.pair_totals()), place))
    return await without_accepted(kube, namespace, gaps)


async def compare_chain(ledger: Ledger, escrow: Escrow) -> tuple[Gap, ...]:
    """What the finalized chain shows and the ledger lacks: its newest root, and what it has paid for pairs.

    An epoch is in the ledger, as Prepared, before it is sent: in normal operation the newest root on chain is always
    one of the ledger's, whatever has become of that epoch meanwhile. Raises ChainError, LedgerError.
    """
    owed = cumulative_pairs(await ledger.pair_totals())
    chain = await escrow.snapshot(sorted({tenant for tenant, _ in owed}), sorted(owed))
    paid = {pair: MicroUSD(books.paid + books.deducted) for pair, books in chain.books.items()}
    roots = {header.root for header in await ledger.epoch_headers(limit=ALL_EPOCHS)} if chain.head_epoch else set()
    books = Books({}, 0, owed, EscrowAddress(escrow.chain_id, str(escrow.escrow)), roots)
    return find_gaps(HubView((), (), paid=paid, head=(chain.head_epoch, chain.head_root)), books)


async def without_accepted(kube: Kube, namespace: str, gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """Those of them that nobody has accepted."""
    known = await accepted(kube, namespace) if gaps else {}
    return tuple(gap for gap in gaps if known.get(gap.id) != gap.text)


async def accepted(kube: Kube, namespace: str) -> dict[str, str]:
    """The losses that a person accepted: their words by id. What is worse by now has other words: it is a gap again."""
    try:
        found = await kube.get(CONFIG_MAPS, ACCEPTED, namespace)
    except NotFoundError:
        return {}
    return {str(key): str(text) for key, text in (found.get("data") or {}).items()}


async def accept(kube: Kube, namespace: str, gaps: Iterable[Gap]) -> None:
    """Keep these losses with their words in the operator's namespace: they hold nothing back any more."""
    new = {gap.id: gap.text for gap in gaps}
    if not new:
        return
    data = await accepted(kube, namespace) | new
    meta: JSONObject = {"name": ACCEPTED, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "fedgpu"}}
    await kube.apply(CONFIG_MAPS, {"metadata": meta, "data": data})


AGAIN: Final = timedelta(seconds=10)
"""Between two comparisons while there are gaps, or while the chain does not answer."""
FIX: Final = "an older backup? `fedgpu ledger check` lists what it lacks, docs/ledger.md says what to do"


class LedgerCheck:
    """Compares at the start, and after the connection that writes was made again; `gaps` are what was found last."""

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        *,
        namespace: str,
        escrow: Escrow | None,
    ) -> None:
        self._kube, self._ledger, self._clock, self._metrics = kube, ledger, clock, metrics
        self._namespace, self._escrow = namespace, escrow
        self._jobs = writers.jobs
        self._lock = asyncio.Lock()
        self._compared: int | None = None
        """The ledger's session that was compared with the hub."""
        self._chain_compared: int | None = None
        self._again: datetime | None = None
        self._unpaid: tuple[Gap, ...] = ()
        self.gaps: tuple[Gap, ...] = ()

    @property
    def behind(self) -> bool:
        """Whether nothing may be opened: there are gaps, or it is not known whether there are."""
        return bool(self.gaps) or self._compared != self._ledger.session

    @property
    def settles(self) -> bool:
        """Whether an epoch may be begun or sent: the chain was compared as well."""
        return not self.behind and (self._escrow is None or self._chain_compared == self._ledger.session)

    async def look(self) -> None:
        """Compare if that is due; costs nothing otherwise. Raises the KubeError tree and LedgerError.

        A ledger that does not answer ends the pass here, and not for each of its objects.
        """
        if self._ledger.silent:
            raise LedgerUnreachableError("the ledger does not answer")
        async with self._lock:
            if self._is_due():
                await self._compare()

    def held_back(self, pass_once: Pass) -> Pass:
        """That pass once the ledger is not behind; before that it is left out."""

        async def held() -> float | None:
            await self.look()
            return AGAIN.total_seconds() if self.behind else await pass_once()

        return held

    def jobs_held_back(self, pass_once: Pass) -> Pass:
        """As `held_back`, and jobs that wait say why. What runs is left alone: its readings wait on the leases."""

        async def held() -> float | None:
            await self.look()
            if not self.behind:
                return await pass_once()
            await self._tell_jobs()
            return AGAIN.total_seconds()

        return held

    def looked_at(self, pass_once: Pass) -> Pass:
        """That pass in any case, after a look: for one that asks `settles` before it begins anything."""

        async def looked() -> float | None:
            await self.look()
            return await pass_once()

        return looked

    def trouble(self) -> str:
        """What readiness reports; empty if the ledger is as new as the world."""
        if self._compared is None:
            return "the ledger was not compared with the hub yet"
        return (
            f"{ConditionReason.LEDGER_BEHIND}: {len(self.gaps)} gaps, the first: {self.gaps[0].text}"
            if self.gaps
            else ""
        )

    def _is_due(self) -> bool:
        session = self._ledger.session
        if self._compared != session:
            return True
        waits = bool(self.gaps) or (self._escrow is not None and self._chain_compared != session)
        return waits and (self._again is None or self._clock.now() >= self._again)

    async def _compare(self) -> None:
        session = self._ledger.session
        escrow = self._escrow
        place = EscrowAddress(escrow.chain_id, str(escrow.escrow)) if escrow is not None else None
        found = await compare(self._kube, self._ledger, self._namespace, place)
        found += await self._compare_chain(session)
        if found != self.gaps:
            self._report(found)
        self.gaps, self._compared, self._again = found, session, self._clock.now() + AGAIN
        self._metrics.ledger_gaps(len(found))
        self._ledger.compared(session)

    async def _compare_chain(self, session: int) -> tuple[Gap, ...]:
        """What the chain shows; what it showed last, while it does not answer: computing does not wait for it."""
        if self._escrow is None:
            return ()
        try:
            found = await compare_chain(self._ledger, self._escrow)
        except ChainError as error:
            log.info("the ledger cannot be compared with the chain now: %s", error)
            return self._unpaid
        self._unpaid = await without_accepted(self._kube, self._namespace, found)
        self._chain_compared = session
        return self._unpaid

    def _report(self, found: tuple[Gap, ...]) -> None:
        if not found:
            log.warning("the ledger holds what hub and chain show again: attempts, epochs and receipts are opened")
            return
        log.error("the ledger is older than the world (%d gaps): nothing is opened; %s", len(found), FIX)
        for gap in found:
            log.error("ledger gap %s: %s", gap.id, gap.text)

    async def _tell_jobs(self) -> None:
        """Every job that waits for a place says that it waits for the ledger."""
        text = f"the ledger is older than this hub: nothing is placed before it is reconciled; {FIX}"
        placed = Finding("Placed", "False", ConditionReason.LEDGER_BEHIND, text)
        found = (placed, *standing(Finding(READY, "False", ConditionReason.LEDGER_BEHIND), text))

        async def tell(job: ComputeJob) -> None:
            generation = job.metadata.generation
            conditions = merge(job.status.conditions, found, generation=generation, now=self._clock.now())
            update = {"conditions": conditions, "reason": ConditionReason.LEDGER_BEHIND, "state": job_state(conditions)}
            with one_of_many(job):
                await self._jobs.write_status(job, job.status.model_copy(update=update))

        jobs = [job for job in await load_all(self._kube, ComputeJob) if not job.metadata.deletion_timestamp]
        await for_each(tell, [job for job in jobs if job.status.waits])


FROM_LEASE: Final = "reconciled-from-lease"
FROM_STATUS: Final = "reconciled-from-status"
"""How `request_id` of an attempt that was put back begins: it is hashed into the ledger's chain with its terms."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done, a line for each attempt that was put back."""

    lines: tuple[str, ...]


class Reconciler:
    """Works on a ledger that no operator has open. Every step may be repeated after a crash."""

    def __init__(self, kube: Kube, ledger: Ledger, clock: Clock, biller: UsageBiller) -> None:
        self._kube, self._ledger, self._clock, self._biller = kube, ledger, clock, biller
        self._lines: list[str] = []
        self._providers: dict[str, GPUProvider] = {}
        """Whose signatures their leases' readings need."""

    async def repair(self, gaps: Collection[Gap], losses: Collection[str]) -> Repair:
        """Put back the attempts of these gaps, and bill what their leases read.

        An attempt that only a job's status names has no wallets and no reading: it is put back without usage, so that
        its number is not given out again, if the id of its gap is in `losses`. Raises KubeError, LedgerError.
        """
        self._providers = {each.metadata.name: each for each in await load_all(self._kube, GPUProvider)}
        wanted = {gap.name: gap for gap in gaps if gap.kind is GapKind.ATTEMPT}
        short = {gap.name for gap in gaps if gap.kind is GapKind.USAGE}
        by_job: defaultdict[str, list[ComputeLease]] = defaultdict(list)
        for lease in await load_all(self._kube, ComputeLease):
            if lease.metadata.name == lease_name(lease.spec.job.uid, lease.spec.attempt):
                by_job[lease.spec.job.uid].append(lease)
        jobs = {job.metadata.uid: job for job in await load_all(self._kube, ComputeJob)}
        for uid in sorted(by_job.keys() | jobs.keys()):
            leases = sorted(by_job[uid], key=lambda each: each.spec.attempt)
            names = {lease.metadata.name for lease in leases}
            if not (short & {uid, *names}) and not (wanted.keys() & names) and not _names(jobs.get(uid), wanted):
                continue
            await self._repair_job(leases, jobs.get(uid), wanted, losses)
        return Repair(tuple(self._lines))

    async def _repair_job(
        self, leases: Iterable[ComputeLease], job: ComputeJob | None, wanted: dict[str, Gap], losses: Collection[str]
    ) -> None:
        seen: dict[str, ComputeLease] = {}
        for lease in leases:
            seen[lease.metadata.name] = lease
            if lease.metadata.name in wanted:
                await self._end_open(lease.spec.job.uid, seen)
                request = _request(lease, f"{FROM_LEASE}-{lease.spec.attempt}")
                at = lease.metadata.creation_timestamp or self._clock.now()
                await self._put_back(request, lease.spec.attempt, f"lease {lease.metadata.name}", at=at)
            entry = await self._ledger.lease_usage(lease.metadata.name)
            if entry is not None:
                await self._biller.bill(entry.attempt, lease, self._providers.get(lease.spec.provider), job)
        gap = _names(job, wanted)
        if job is not None and gap is not None and gap.name not in seen and gap.id in losses:
            placement = job.status.placement
            if placement is None:
                return
            await self._end_open(job.metadata.uid, seen)
            request = _request_of_status(job, f"{FROM_STATUS}-{placement.attempt}")
            at = placement.placed_at or self._clock.now()
            attempt = await self._put_back(request, placement.attempt, f"the status of job {job.key}", at=at)
            await self._ledger.end_attempt(attempt.lease_name, SUPERSEDED, self._clock.now())

    async def _put_back(self, request: AttemptRequest, number: int, source: str, *, at: datetime) -> Attempt:
        attempt = await self._ledger.reenter_attempt(request, number, at)
        self._lines.append(f"attempt {attempt.lease_name} put back from {source}")
        log.warning("attempt %s is put back into the ledger from %s", attempt.lease_name, source)
        return attempt

    async def _end_open(self, uid: str, seen: dict[str, ComputeLease]) -> None:
        """End the attempt that the ledger holds open though a later one began: as its lease ended, if that is there."""
        entries = (await self._ledger.histories([uid])).get(uid, ())
        newest = entries[-1].attempt if entries else None
        if newest is None or not newest.is_open:
            return
        lease = seen.get(newest.lease_name)
        outcome = outcome_of(lease) if lease is not None and lease.status.ended else SUPERSEDED
        await self._ledger.end_attempt(newest.lease_name, outcome, self._clock.now())


def _names(job: ComputeJob | None, wanted: dict[str, Gap]) -> Gap | None:
    """The gap of the attempt that a job's status shows."""
    placement = job.status.placement if job is not None else None
    return wanted.get(placement.lease) if placement is not None else None


def _request(lease: ComputeLease, request_id: str) -> AttemptRequest:
    """The terms that a lease froze."""
    spec = lease.spec
    return AttemptRequest(
        job_uid=spec.job.uid,
        request_id=request_id,
        tenant=spec.job.namespace,
        job_name=spec.job.name,
        provider=spec.provider,
        product=spec.product,
        price=parse_usd(spec.price_per_gpu_hour),
        gpus=spec.gpus,
        run_limit=spec.run_limit_seconds + spec.grace_seconds,
        tenant_wallet=spec.tenant_wallet,
        provider_wallet=spec.provider_wallet,
    )


def _request_of_status(job: ComputeJob, request_id: str) -> AttemptRequest:
    """What a job's status shows of its attempt; the wallets are not in it, so nothing can be billed."""
    placement = job.status.placement
    if placement is None:
        raise ValueError(f"job {job.key} shows no placement")
    return AttemptRequest(
        job_uid=job.metadata.uid,
        request_id=request_id,
        tenant=job.metadata.namespace,
        job_name=job.metadata.name,
        provider=placement.provider,
        product=placement.product,
        price=parse_usd(placement.price),
        gpus=job.gpus,
        run_limit=job.billable_limit,
    )
