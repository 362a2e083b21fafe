"""Addresses and chain states for the settlement tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from eth_utils.address import to_checksum_address

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, AccountState, ChainSnapshot, Pair, PairState

Address = Callable[[int], str]
Snapshot = Callable[..., ChainSnapshot]
ESCROW = "0x" + "ee" * 20


@pytest.fixture(scope="session")
def address() -> Address:
    def make(number: int) -> str:
        return str(to_checksum_address((number + 1).to_bytes(20, "big")))

    return make


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    def make(accounts: Mapping[str, AccountState], paid: Mapping[Pair, MicroUSD]) -> ChainSnapshot:
        return ChainSnapshot(
            chain_id=31337,
            escrow=str(to_checksum_address(ESCROW)),
            block_number=7,
            block_hash=ZERO_HASH,
            timestamp=1_700_000_000,
            seq=0,
            last_epoch=0,
            head_epoch=0,
            head_root=ZERO_HASH,
            active_epoch=0,
            active_at=0,
            accounts=accounts,
            books={pair: PairState(total) for pair, total in paid.items()},
        )

    return make
