"""Wallets of namespaces and providers: which may be used, whether they are proven, and what they owe; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.attempts import PairTotal
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.metering import receipt_cumulative


@lru_cache(maxsize=65_536)
def checksummed(address: str) -> str:
    """The address as EIP-55 spells it; it takes a hash, and the same few thousand are asked for in every pass."""
    return str(to_checksum_address(address))


@dataclass(frozen=True, slots=True)
class Wallets:
    """The wallets that may be used (EIP-55): `tenants` by namespace, `payouts` by provider; others are none."""

    tenants: Mapping[str, str]
    payouts: Mapping[str, str]


def tenant_wallets(proven: Iterable[ComputeAccount]) -> dict[str, str]:
    """Wallet (EIP-55) by namespace, of accounts whose proofs hold.

    A wallet that agreed to two accounts is spent by the older one alone, so that its funds are summed in one place.
    """
    wallets: dict[str, str] = {}
    taken: set[str] = set()
    ordered = sorted(proven, key=lambda a: (str(a.metadata.creation_timestamp), a.metadata.namespace))
    for account in ordered:
        wallet = checksummed(account.spec.wallet)
        if wallet not in taken:
            taken.add(wallet)
            wallets[account.metadata.namespace] = wallet
    return wallets


def payout_wallets(proven: Iterable[GPUProvider]) -> dict[str, str]:
    """Payout wallet (EIP-55) by provider, of providers whose proofs hold; only where it is the one accepted."""
    return {
        provider.metadata.name: checksummed(provider.spec.payout.address)
        for provider in proven
        if provider.spec.payout is not None and provider.accepted
    }


def cumulative_pairs(totals: Iterable[PairTotal]) -> dict[Pair, MicroUSD]:
    """What each tenant wallet owes each provider wallet since the beginning (µUSD), rounded down once per pair.

    The wallets are those that each attempt was opened under. What was opened without one is never settled on chain.
    """
    owed: dict[Pair, int] = defaultdict(int)
    for total in totals:
        if total.tenant_wallet and total.provider_wallet:
            owed[total.tenant_wallet, total.provider_wallet] += total.numerator
    return {pair: receipt_cumulative([numerator]) for pair, numerator in owed.items()}


@dataclass(frozen=True, slots=True)
class ProofVerdict:
    """Whether a wallet is proven, as a condition's status, and what to do where it is not.

    ``Unknown`` is a contract wallet while the chain does not answer: nothing new is done with it, nothing is undone.
    """

    status: Literal["True", "False", "Unknown"]
    message: str = ""
    passing: bool = False
    """Whether it can become another one by time alone: the chain was silent, or a clock is ahead."""

    @property
    def proven(self) -> bool:
        """Whether the wallet itself agreed."""
        return self.status == "True"
