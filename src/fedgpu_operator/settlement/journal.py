"""Double-entry bookkeeping of settlement: positions from the books and the chain, and the entries between two of them.

Every entry has two legs that sum to zero. What is positive is due or held, what is negative is owed:

    tenant/<wallet>     what the tenant still has to set aside for work that was done
    escrow/<wallet>     what the escrow holds of that tenant for providers
    provider/<wallet>   what the provider has still to receive, as a negative number
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from fedgpu_operator.domain.ledger import Position, PositionKey, Posting, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ChainSnapshot, Pair

RISING = frozenset({PostingKind.CHARGED, PostingKind.PAID, PostingKind.REFUNDED})
"""Positions that never fall. What is set aside does, whenever money flows back into a balance."""


def positions(cumulatives: Mapping[Pair, MicroUSD], chain: ChainSnapshot) -> tuple[Position, ...]:
    """Where the books stand: `cumulatives` is all that was ever metered per pair, `chain` the finalized state.

    The snapshot must hold every pair that its tenants ever had, or what is set aside comes out too small. Raises
    ValueError if it lacks the account of a pair's tenant.
    """
    lacking = {tenant for tenant, _ in chain.books} - set(chain.accounts)
    if lacking:
        raise ValueError(f"the snapshot lacks {len(lacking)} of the tenants, such as {min(lacking)}")
    found = [Position(PostingKind.CHARGED, *pair, total) for pair, total in cumulatives.items()]
    aside: dict[str, int] = defaultdict(int)
    for tenant, account in chain.accounts.items():
        aside[tenant] = account.allocated + account.pending + account.held
    for (tenant, provider), books in chain.books.items():
        aside[tenant] += books.paid + books.reserved
        found.append(Position(PostingKind.PAID, tenant, provider, books.paid))
        found.append(Position(PostingKind.REFUNDED, tenant, provider, books.deducted))
    found += [Position(PostingKind.SET_ASIDE, tenant, "", MicroUSD(total)) for tenant, total in aside.items()]
    return tuple(sorted(found, key=_order))


def entries(
    before: Mapping[PositionKey, MicroUSD], after: Iterable[Position], at: datetime, *, first: int
) -> tuple[Posting, ...]:
    """The entries that lead from one set of positions to another, two postings each, numbered from `first`.

    A position that is not named stays. Raises ValueError if one that can only rise falls, or is named twice.
    """
    made: list[Posting] = []
    seen: set[PositionKey] = set()
    for position in sorted(after, key=_order):
        if position.key in seen:
            raise ValueError(f"the position {position.key} is given twice")
        seen.add(position.key)
        delta = position.total - before.get(position.key, MicroUSD(0))
        if delta < 0 and position.kind in RISING:
            raise ValueError(
                f"{position.kind} of tenant {position.tenant} and provider {position.provider} fell by {-delta} µUSD"
            )
        if delta:
            made += _entry(first + len(made) // 2, position, delta, at)
    return tuple(made)


def _entry(number: int, position: Position, delta: int, at: datetime) -> list[Posting]:
    legs = zip(_accounts(position), (delta, -delta), strict=True)
    return [
        Posting(number, position.kind, position.tenant, position.provider, account, amount, at)
        for account, amount in legs
    ]


def _accounts(position: Position) -> tuple[str, str]:
    """The account that a rise adds to, and the one that it takes from."""
    tenant, escrow = f"tenant/{position.tenant}", f"escrow/{position.tenant}"
    provider = f"provider/{position.provider}"
    match position.kind:
        case PostingKind.CHARGED:
            return tenant, provider
        case PostingKind.SET_ASIDE:
            return escrow, tenant
        case PostingKind.PAID:
            return provider, escrow
        case PostingKind.REFUNDED:
            return provider, tenant


def _order(position: Position) -> PositionKey:
    return position.key
