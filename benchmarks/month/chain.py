"""A chain that never changes: every epoch of the month is on it and paid, and tenants have money enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.month.history import CHAIN_ID, ESCROW, SETTLER, Month
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, AccountState, ChainSnapshot, EpochState, PairState
from fedgpu_operator.domain.terms import EscrowPeriods
from fedgpu_operator.domain.transactions import FeeView, Nonces

BALANCE: Final = MicroUSD(10**15)
BLOCK: Final = 20_000


class StillChain:
    """As much of `ports.Escrow` as passes read in which nothing is posted and nothing claimed.

    `paid` is by (tenant wallet, provider wallet) in µUSD, `head` the root of the newest epoch, set once it is known.
    """

    def __init__(self, month: Month, paid: Mapping[tuple[str, str], int]) -> None:
        self.escrow: ChecksumAddress = to_checksum_address(ESCROW)
        self.chain_id = CHAIN_ID
        self.address = SETTLER
        self._month, self._paid = month, dict(paid)
        self.head = ZERO_HASH

    async def verify(self) -> None:
        return

    async def check_state(self) -> None:
        return

    async def periods(self) -> EscrowPeriods:
        return EscrowPeriods(challenge=600, notice=10**7, ruling=600, exit_after=600, longest_epoch=7 * 86_400)

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[tuple[str, str]]) -> ChainSnapshot:
        epochs, at = self._month.size.epochs, int(self._month.now.timestamp())
        account = AccountState(balance=BALANCE, allocated=NOTHING, pending=NOTHING, limit=BALANCE)
        return ChainSnapshot(
            chain_id=self.chain_id,
            escrow=self.escrow,
            block_number=BLOCK,
            block_hash="0x" + "b1" * 32,
            timestamp=at,
            seq=epochs,
            last_epoch=epochs,
            head_epoch=epochs,
            head_root=self.head,
            active_epoch=epochs,
            active_at=at - 600,
            accounts=dict.fromkeys(tenants, account),
            books={pair: PairState(MicroUSD(self._paid.get(pair, 0))) for pair in pairs},
            clock=at,
        )

    async def finalized_epoch(self, number: int) -> EpochState:
        at = int(self._month.now.timestamp())
        return EpochState(number, self.head, at - 600, at - 1200, NOTHING, number - 1, cancelled=False)

    async def holds_role(self, role: str, account: str) -> bool:
        return True

    async def signer_of(self, provider: str) -> str:
        return provider

    async def disputes(self) -> tuple[()]:
        return ()

    async def exits(self) -> tuple[()]:
        return ()

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        return True

    async def has_code(self, account: str) -> bool:
        return True

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        return True

    async def batch(self) -> None:
        return None

    async def gas_cap(self) -> int:
        return 2**24

    async def height(self) -> int:
        return BLOCK + 10

    async def nonces(self, account: str) -> Nonces:
        return Nonces(*[2 * self._month.size.epochs] * 3)

    async def balance(self, account: str) -> int:
        return 10**20

    async def suggest_fees(self) -> FeeView:
        return FeeView(base_fee=10**9, tip=10**6)

    async def receipt(self, tx_hash: str) -> None:
        return None

    async def aclose(self) -> None:
        return
