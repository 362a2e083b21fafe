"""What must happen to running leases because of their tenant's money: nothing, a checkpoint, or the end; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.books import LeaseUsage, PairTotal
from fedgpu_operator.hub.funds import Outlook, outlook, standing
from fedgpu_operator.settlement import Stage, Thresholds, stage_of

REACTION: Final = 15.0
"""Seconds that the hub allows itself between the instant at which a lease must stop and its tombstone."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """By lease name: `stop` why it must end now, `save` when its money ends, where a checkpoint is to be asked for.

    `due` is in how many seconds the next of these things happens; None where nothing is in sight.
    """

    stop: Mapping[str, str] = field(default_factory=dict)
    save: Mapping[str, datetime] = field(default_factory=dict)
    due: float | None = None


def upkeep(
    accounts: Mapping[str, ComputeAccount],
    leases: Mapping[str, ComputeLease],
    pairs: Iterable[PairTotal],
    open_attempts: Iterable[LeaseUsage],
    thresholds: Thresholds,
    now: datetime,
) -> Upkeep:
    """The upkeep of all open attempts that are settled on chain; `accounts` are by namespace.

    An account that was never read says nothing: its leases go on. Attempts of namespaces that `accounts` lacks, or
    whose account is of another wallet, are left to `unpaid`.
    """
    totals = list(pairs)
    by_wallet: dict[str, list[LeaseUsage]] = defaultdict(list)
    owners: dict[str, ComputeAccount] = {}
    for entry in open_attempts:
        terms = entry.attempt.terms
        account = accounts.get(terms.tenant)
        if terms.tenant_wallet and account is not None and _pays(account, terms.tenant_wallet):
            by_wallet[terms.tenant_wallet].append(entry)
            owners.setdefault(terms.tenant_wallet, account)
    found = []
    for wallet, entries in by_wallet.items():
        stands = standing(owners[wallet], now)
        if stands is not None:
            mine = [pair for pair in totals if pair.tenant_wallet == wallet]
            seen = outlook(stands, mine, entries, now, _ends(entries, leases, now))
            found.append(_judge(seen, leases, thresholds, now))
    return Upkeep(
        stop={name: why for each in found for name, why in each.stop.items()},
        save={name: at for each in found for name, at in each.save.items()},
        due=min((each.due for each in found if each.due is not None), default=None),
    )


def unpaid(accounts: Mapping[str, ComputeAccount], open_attempts: Iterable[LeaseUsage]) -> dict[str, str]:
    """By lease name, the namespace of each open attempt whose wallet no account there names any more.

    Nobody watches that wallet then, so its money could leave unseen.
    """
    return {
        entry.attempt.lease_name: terms.tenant
        for entry in open_attempts
        if (terms := entry.attempt.terms).tenant_wallet
        and not ((account := accounts.get(terms.tenant)) and _pays(account, terms.tenant_wallet))
    }


def _pays(account: ComputeAccount, wallet: str) -> bool:
    return str(to_checksum_address(account.spec.wallet)) == wallet


def _ends(entries: Iterable[LeaseUsage], leases: Mapping[str, ComputeLease], now: datetime) -> dict[str, datetime]:
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
    if at is Stage.EXHAUSTED:
        why = f"its account pays for it until {end:%Y-%m-%dT%H:%M:%SZ} only"
        return Upkeep(stop={lease.metadata.name: why for lease in short})
    ahead = seen.lasts - margin
    if at is not Stage.CHECKPOINT:
        return Upkeep(due=ahead - thresholds.checkpoint)
    since = end - timedelta(seconds=2 * thresholds.checkpoint + margin)
    return Upkeep(save={lease.metadata.name: end for lease in short if not _was_asked(lease, since)}, due=ahead)


def _was_asked(lease: ComputeLease, since: datetime) -> bool:
    """Whether this very shortage was announced to the workload; one that a deposit ended was another."""
    asked = lease.spec.checkpoint_requested_at
    return asked is not None and asked >= since
