"""From namespaces and provider names to wallets on the chain, and what they owe each other by wallet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.books import PairTotal
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.ports import Kube


def tenant_wallets(accounts: Iterable[ComputeAccount]) -> dict[str, str]:
    """Wallet (EIP-55) by namespace. A wallet named by two accounts belongs to the older one alone."""
    wallets: dict[str, str] = {}
    ordered = sorted(accounts, key=lambda a: (str(a.metadata.creation_timestamp), a.metadata.namespace))
    for account in ordered:
        wallet = str(to_checksum_address(account.spec.wallet))
        if wallet not in wallets.values():
            wallets[account.metadata.namespace] = wallet
    return wallets


async def payout_wallets(kube: Kube) -> dict[str, str]:
    """Payout wallet (EIP-55) by provider, for those that named one and whose naming was accepted."""
    return {
        provider.metadata.name: str(to_checksum_address(provider.spec.payout.address))
        for provider in await load_all(kube, GPUProvider)
        if provider.spec.payout is not None
        and provider.status.acceptance is not None
        and provider.status.acceptance.hash == provider.spec.acceptance_hash()
    }


def cumulative_pairs(
    totals: Iterable[PairTotal], tenants: Mapping[str, str], providers: Mapping[str, str]
) -> dict[Pair, MicroUSD]:
    """What each tenant wallet owes each provider wallet since the beginning (µUSD).

    Pairs without a wallet on either side are left out: they stay in the ledger until there is one.
    """
    owed: dict[Pair, int] = defaultdict(int)
    for total in totals:
        if total.tenant in tenants and total.provider in providers:
            owed[tenants[total.tenant], providers[total.provider]] += total.cumulative
    return {pair: MicroUSD(amount) for pair, amount in owed.items()}
