"""From namespaces and provider names to wallets on the chain, and what they owe each other by wallet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.books import PairTotal
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.metering import receipt_cumulative


def tenant_wallets(accounts: Iterable[ComputeAccount]) -> dict[str, str]:
    """Wallet (EIP-55) by namespace. A wallet named by two accounts belongs to the older one alone."""
    wallets: dict[str, str] = {}
    ordered = sorted(accounts, key=lambda a: (str(a.metadata.creation_timestamp), a.metadata.namespace))
    for account in ordered:
        wallet = str(to_checksum_address(account.spec.wallet))
        if wallet not in wallets.values():
            wallets[account.metadata.namespace] = wallet
    return wallets


def payout_wallet(provider: GPUProvider) -> str:
    """The provider's payout wallet (EIP-55) as it was accepted; empty where none was named or accepted."""
    accepted = provider.status.acceptance
    if provider.spec.payout is None or accepted is None or accepted.hash != provider.spec.acceptance_hash():
        return ""
    return str(to_checksum_address(provider.spec.payout.address))


def cumulative_pairs(totals: Iterable[PairTotal]) -> dict[Pair, MicroUSD]:
    """What each tenant wallet owes each provider wallet since the beginning (µUSD), rounded down once per pair.

    The wallets are those that each attempt was opened under. What was opened without one is never settled on chain.
    """
    owed: dict[Pair, int] = defaultdict(int)
    for total in totals:
        if total.tenant_wallet and total.provider_wallet:
            owed[total.tenant_wallet, total.provider_wallet] += total.numerator
    return {pair: receipt_cumulative([numerator]) for pair, numerator in owed.items()}
