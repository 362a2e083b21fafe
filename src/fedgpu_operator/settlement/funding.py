"""The settler's equation: how much of what is owed the chain can carry now; values in, a value out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, Funding, Pair

MAX_DEBITS = 500
"""Debits that the contract takes in one epoch."""

MAX_DEBIT = 2**48 - 1
"""The largest single debit (uint48), about 281 million USD."""


def fund(
    cumulatives: Mapping[Pair, MicroUSD],
    chain: ChainSnapshot,
    committed: Mapping[Pair, MicroUSD] | None = None,
    *,
    min_payout: MicroUSD = NOTHING,
    most: int = MAX_DEBITS,
) -> Funding:
    """Decide debits and payable totals from what is owed and what finalized chain state shows.

    `cumulatives` is all that each tenant ever owed each provider, `committed` the pairs of the newest root on the
    chain. Per tenant, debit = Σ max(0, cumulative − deducted − paid − reserved) − (allocated + pending + held), never
    below zero: an equation over state, so a cancelled epoch is billed again, a refund and an exit are accounted for,
    and nothing is billed twice.

    A debit is clipped to min(limit, balance): work is done already, so an announced withdrawal does not reduce it.
    What cannot be debited stays `unfunded` and comes back by itself in the next epoch. Its money is *not* promised
    in the root: a tenant's money is shared pro rata among its providers, what an earlier root already promised
    first. So Σ payable ≤ allocated + pending + debit, and no provider is paid less for claiming later than another.

    A pair that is owed less than `min_payout` waits until it is worth a transfer, unless a root promises it already or
    its tenant has announced to take money out or to lower its limit.

    At most `most` tenants are debited, those that owe most; the others wait for the next epoch.

    Raises ValueError when the snapshot was not taken for these tenants and pairs.
    """
    missing = [pair for pair in cumulatives if pair[0] not in chain.accounts or pair not in chain.books]
    if missing:
        raise ValueError(f"the snapshot lacks {len(missing)} of the pairs, such as {missing[0]}")
    dues: dict[str, dict[Pair, int]] = defaultdict(dict)
    for pair in sorted(cumulatives, key=_order):
        due = max(0, cumulatives[pair] - chain.books[pair].base)
        promised = (committed or {}).get(pair, NOTHING) > chain.books[pair].base
        account = chain.accounts[pair[0]]
        waits = due < min_payout and not promised and not (account.withdraw_at or account.limit_at)
        dues[pair[0]][pair] = 0 if waits else due
    debits = _debits({tenant: sum(owed.values()) for tenant, owed in dues.items()}, chain.accounts, most)
    payable: dict[Pair, MicroUSD] = {}
    unfunded: dict[str, MicroUSD] = {}
    for tenant, owed in dues.items():
        account = chain.accounts[tenant]
        available = account.allocated + account.pending + debits.get(tenant, 0)
        shares = _shares(available, owed, _promised(owed, chain, committed or {}))
        payable |= {pair: MicroUSD(chain.books[pair].base + share) for pair, share in shares.items() if share}
        short = sum(owed.values()) - sum(shares.values())
        if short:
            unfunded[tenant] = MicroUSD(short)
    return Funding(debits=debits, payable=payable, unfunded=unfunded)


def advances(funding: Funding, committed: Mapping[Pair, MicroUSD]) -> bool:
    """Whether an epoch of this funding would change anything against the newest root's pairs."""
    return bool(funding.debits) or any(total > committed.get(pair, NOTHING) for pair, total in funding.payable.items())


def _debits(owed: Mapping[str, int], accounts: Mapping[str, AccountState], most: int) -> dict[str, MicroUSD]:
    """What to take from each tenant; beyond `most` tenants the smallest wait for the next epoch."""
    wanted = {}
    for tenant, due in owed.items():
        account = accounts[tenant]
        lacking = due - account.allocated - account.pending - account.held
        amount = min(lacking, account.limit, account.balance, MAX_DEBIT)
        if amount > 0:
            wanted[tenant] = MicroUSD(amount)
    chosen = sorted(wanted, key=lambda tenant: (-wanted[tenant], tenant.lower()))[: min(most, MAX_DEBITS)]
    return {tenant: wanted[tenant] for tenant in sorted(chosen, key=str.lower)}


def _promised(owed: Mapping[Pair, int], chain: ChainSnapshot, committed: Mapping[Pair, MicroUSD]) -> dict[Pair, int]:
    """The part of each due that the newest root shows already."""
    return {pair: min(due, max(0, committed.get(pair, NOTHING) - chain.books[pair].base)) for pair, due in owed.items()}


def _shares(available: int, owed: Mapping[Pair, int], promised: Mapping[Pair, int]) -> dict[Pair, int]:
    """Split `available` over the dues, the promised part first."""
    first = _split(available, promised)
    rest = _split(available - sum(first.values()), {pair: owed[pair] - first[pair] for pair in owed})
    return {pair: first[pair] + rest[pair] for pair in owed}


def _split(amount: int, wants: Mapping[Pair, int]) -> dict[Pair, int]:
    """All wants where they fit, else pro rata rounded down, the odd units to the first in order."""
    total = sum(wants.values())
    if total <= amount:
        return dict(wants)
    split = {pair: amount * want // total for pair, want in wants.items()}
    odd = amount - sum(split.values())
    for pair in _first(odd, (pair for pair, want in wants.items() if want)):
        split[pair] += 1
    return split


def _first(count: int, pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=_order)[:count]


def _order(pair: Pair) -> tuple[str, str]:
    return pair[0].lower(), pair[1].lower()
