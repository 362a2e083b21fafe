"""Judges one epoch as an outsider: what its manifest says against what the chain shows; values in, verdicts out.

Nothing of the operator is asked. The manifest may come from anybody: its hash stands on the chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from eth_utils.crypto import keccak

from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.domain.settlement import ChainSnapshot, EpochPlan, EpochState
from fedgpu_operator.domain.transactions import PostedEpoch
from fedgpu_operator.settlement.epochs import parse_manifest

NAMED = 3
"""Differences that a verdict names; it counts the others."""


@dataclass(frozen=True, slots=True)
class EpochCheck:
    """One comparison: `what` was compared, and both sides in words; `holds` is None if it could not be made."""

    what: str
    holds: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class EpochOnChain:
    """What the chain shows of an epoch: the post, the contract's own record, and the books right after the post.

    `books` holds the accounts and pairs of the manifest at the block of the post; None if the endpoint does not
    keep state that old.
    """

    chain_id: int
    escrow: str
    posted: PostedEpoch
    state: EpochState
    books: ChainSnapshot | None = None


def judge(manifest: bytes, shown: EpochOnChain) -> tuple[EpochCheck, ...]:
    """Compare a manifest with the chain; where the manifest cannot be read, only it and its hash are judged."""
    try:
        plan = _read(manifest)
    except ValueError as error:
        return EpochCheck("manifest", False, str(error)), _hash(manifest, shown.posted)
    return (
        _own_words(plan),
        _hash(manifest, shown.posted),
        _place(plan, shown),
        _root(plan, shown),
        _same("seq", plan.seq, shown.posted.seq),
        _same("previous root", plan.prev_root, shown.posted.prev_root),
        _period(plan, shown),
        _debits(plan, shown.posted),
        _total(plan, shown),
        _backing(plan, shown),
    )


def sound(verdicts: tuple[EpochCheck, ...]) -> bool:
    """Whether nothing was found to differ."""
    return all(verdict.holds is not False for verdict in verdicts)


def _read(manifest: bytes) -> EpochPlan:
    """As parse_manifest, for bytes that a stranger wrote: ValueError is all that they can cause."""
    try:
        plan = parse_manifest(manifest)
    except RecursionError as error:
        raise ValueError("not a settlement manifest: nested too deeply") from error
    for name, number in (("chainId", plan.chain_id), ("seq", plan.seq), ("periodEnd", plan.period_end)):
        if type(number) is not int:
            raise ValueError(f"not a settlement manifest: {name} is not a whole number")
    return plan


def _own_words(plan: EpochPlan) -> EpochCheck:
    lines = sum(len(leaf.lines) for leaf in plan.leaves)
    counted = f"{len(plan.leaves)} leaves, {lines} lines, {len(plan.debits)} debits"
    return EpochCheck("manifest", True, f"canonical, and follows from its own lines: {counted}")


def _hash(manifest: bytes, posted: PostedEpoch) -> EpochCheck:
    return _same("manifest hash", "0x" + keccak(manifest).hex(), posted.manifest_hash)


def _place(plan: EpochPlan, shown: EpochOnChain) -> EpochCheck:
    both = (plan.escrow, plan.chain_id), (shown.escrow, shown.chain_id)
    said, found = (f"escrow {escrow} on chain {chain}" for escrow, chain in both)
    return _same("place", said, found)


def _root(plan: EpochPlan, shown: EpochOnChain) -> EpochCheck:
    kept, posted = shown.state.root, shown.posted.root
    if kept != posted:
        return EpochCheck("root", False, f"the contract keeps {kept}, the event of the post says {posted}")
    return _same("root", plan.root, kept, "rebuilt from the lines")


def _period(plan: EpochPlan, shown: EpochOnChain) -> EpochCheck:
    if shown.state.period_end != shown.posted.period_end:
        both = f"{_instant(shown.state.period_end)}, the event of the post says {_instant(shown.posted.period_end)}"
        return EpochCheck("period end", False, f"the contract keeps {both}")
    return _same("period end", _instant(plan.period_end), _instant(shown.state.period_end))


def _debits(plan: EpochPlan, posted: PostedEpoch) -> EpochCheck:
    if posted.debits is None:
        return EpochCheck(
            "debits", None, f"{posted.tx_hash} went through another contract: its input does not show them"
        )
    said, found = _lower(plan.debits), _lower(posted.debits)
    wrong = sorted(tenant for tenant in said.keys() | found.keys() if said.get(tenant) != found.get(tenant))
    if wrong:
        return EpochCheck("debits", False, _listed(f"{tenant}: {_differ(said, found, tenant)}" for tenant in wrong))
    total = format_usd(sum(said.values()))
    return EpochCheck("debits", True, f"{len(said)}, {total} USD together, as asked for by {posted.tx_hash}")


def _total(plan: EpochPlan, shown: EpochOnChain) -> EpochCheck:
    """What the contract took is the sum of the debits without those that it skipped."""
    skipped = {tenant.lower() for tenant in shown.posted.skipped}
    expected = sum(amount for tenant, amount in plan.debits.items() if tenant.lower() not in skipped)
    taken = shown.state.total
    if not expected == taken == shown.posted.total:
        return EpochCheck("taken", False, f"{format_usd(taken)} USD, the manifest gives {format_usd(expected)} USD")
    passed_over = f"; {len(skipped)} debits did not fit any more and were skipped" if skipped else ""
    return EpochCheck("taken", True, f"{format_usd(taken)} USD{passed_over}")


def _backing(plan: EpochPlan, shown: EpochOnChain) -> EpochCheck:
    """An honest root promises no more of a tenant's money than is set aside for it, counted right after the post.

    Where a debit was skipped, the root promises more than was taken: nobody is paid from other money, and the next
    epoch asks again.
    """
    books, skipped = shown.books, {tenant.lower() for tenant in shown.posted.skipped}
    if books is None:
        return EpochCheck("backing", None, f"the endpoint does not keep the state of block {shown.posted.block_number}")
    promised: dict[str, int] = defaultdict(int)
    for (tenant, provider), total in plan.pairs.items():
        promised[tenant] += max(0, total - books.books[tenant, provider].base)
    short = []
    for tenant, amount in promised.items():
        account = books.accounts[tenant]
        aside = account.allocated + account.pending + account.held
        if amount > aside and tenant.lower() not in skipped:
            short.append(f"{tenant}: {format_usd(amount)} USD promised, {format_usd(aside)} USD set aside")
    if short:
        return EpochCheck("backing", False, _listed(sorted(short)))
    sum_of_all = format_usd(sum(promised.values()))
    return EpochCheck("backing", True, f"{sum_of_all} USD promised, no tenant's part above what is set aside for it")


def _same(what: str, said: object, found: object, beside: str = "") -> EpochCheck:
    if said == found:
        return EpochCheck(what, True, f"{said}, {beside}" if beside else str(said))
    return EpochCheck(what, False, f"the manifest gives {said}, the chain shows {found}")


def _differ(said: Mapping[str, MicroUSD], found: Mapping[str, MicroUSD], tenant: str) -> str:
    sides = (f"{format_usd(side[tenant])} USD" if tenant in side else "none" for side in (said, found))
    return "the manifest gives {}, the post asked for {}".format(*sides)


def _lower(debits: Mapping[str, MicroUSD]) -> dict[str, MicroUSD]:
    return {tenant.lower(): amount for tenant, amount in debits.items()}


def _listed(texts: Iterator[str] | list[str]) -> str:
    """The first few, and how many more there are."""
    given = list(texts)
    more = f"; and {len(given) - NAMED} more" if len(given) > NAMED else ""
    return "; ".join(given[:NAMED]) + more


def _instant(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):
        return f"second {seconds}"
