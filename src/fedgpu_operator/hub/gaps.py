"""What the hub and the chain show and the ledger does not hold: while there is such a gap, nothing opens.

Gaps show after an old backup was restored, or after a standby that was behind took over. A ledger that is *newer* than
the hub has none: leases that are missing are made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.books import LeaseUsage, lease_name
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.hub.render import provider_namespace
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.hub.wallets import cumulative_pairs
from fedgpu_operator.ports import CONFIG_MAPS, Escrow, Kube, Ledger

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


class Place(NamedTuple):
    """Where a hub settles: the chain's id and the escrow's address."""

    chain_id: int
    escrow: str

    def is_of(self, epoch: SettlementEpoch) -> bool:
        """Whether that epoch was settled there."""
        return (epoch.spec.chain_id, epoch.spec.contract.lower()) == (self.chain_id, self.escrow.lower())


@dataclass(frozen=True, slots=True)
class Shown:
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

    attempts: Mapping[str, tuple[LeaseUsage, ...]]
    newest_epoch: int = 0
    owed: Mapping[Pair, MicroUSD] | None = None
    place: Place | None = None
    roots: Collection[str] = ()


def find_gaps(shown: Shown, books: Books) -> tuple[Gap, ...]:
    """Every gap once, in a stable order; pure."""
    # A lease says more than the status of its job.
    gaps = (*_jobs(shown, books), *_leases(shown, books), *_settled(shown, books), *_head(shown, books))
    found = {gap.id: gap for gap in gaps}
    return tuple(found[key] for key in sorted(found))


def _leases(shown: Shown, books: Books) -> Iterator[Gap]:
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


def _jobs(shown: Shown, books: Books) -> Iterator[Gap]:
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


def _settled(shown: Shown, books: Books) -> Iterator[Gap]:
    if (place := books.place) is None:
        return
    owed = books.owed or {}
    for epoch in shown.epochs:
        number, counts = epoch.spec.sequence, place.is_of(epoch) and epoch.status.state != "Cancelled"
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


def _head(shown: Shown, books: Books) -> Iterator[Gap]:
    """The newest root on chain, by its root: a later one of somebody else has to be accepted as well."""
    number, root = shown.head or (0, "")
    if number and root not in books.roots:
        yield Gap(GapKind.EPOCH, f"root-{root}", f"root {root} is the newest on chain, and in no epoch of the ledger")


def _newest(entries: Iterable[LeaseUsage]) -> str:
    newest = max((each.attempt.attempt for each in entries), default=0)
    return f"the ledger's newest is {newest}" if newest else "the ledger has none"


def _owes(owed: Mapping[Pair, MicroUSD], pair: Pair) -> str:
    return f"by the ledger wallet {pair[0]} owes {pair[1]} {format_usd(owed.get(pair, MicroUSD(0)))} USD"


def _name(pair: Pair) -> str:
    return ".".join(pair)


async def compare(kube: Kube, ledger: Ledger, namespace: str, place: Place | None) -> tuple[Gap, ...]:
    """Read the hub and the ledger; all gaps but those that were accepted.

    `place` is where this hub settles, None if it does not. Raises the KubeError tree, LedgerError.
    """
    # The world first: what is opened meanwhile is in the ledger by then.
    shown = Shown(
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
    books = Books({}, 0, owed, Place(escrow.chain_id, str(escrow.escrow)), roots)
    return find_gaps(Shown((), (), paid=paid, head=(chain.head_epoch, chain.head_root)), books)


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
