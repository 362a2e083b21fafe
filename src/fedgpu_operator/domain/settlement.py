"""Settlement as values: what the chain holds, what an epoch says, what a claim paid; no hashing and no IO.

Addresses are EIP-55 strings, hashes and roots lower-case ``0x…`` strings of 32 bytes, amounts µUSD, times Unix
seconds of the chain's clock. A pair is always (tenant, provider).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedgpu_operator.domain.money import MicroUSD

ZERO_HASH = "0x" + "00" * 32
"""The root of "no epoch yet"."""

NOTHING = MicroUSD(0)

Pair = tuple[str, str]
"""(tenant address, provider address)."""


@dataclass(frozen=True, slots=True)
class AccountState:
    """A tenant's account, with the outcome of its last epoch already applied.

    `balance` is free, `allocated` only providers can receive, `pending` is the debit of the epoch in its window,
    `limit` the most one epoch may debit. From `withdraw_at` on (0: never) up to `withdraw_units` may leave, and from
    `limit_at` on (0: never) the limit may become `new_limit`: subtract both when deciding on *new* work, not when
    debiting work that is done.
    """

    balance: MicroUSD
    allocated: MicroUSD
    pending: MicroUSD
    limit: MicroUSD
    withdraw_units: MicroUSD = NOTHING
    withdraw_at: int = 0
    new_limit: MicroUSD = NOTHING
    limit_at: int = 0

    @property
    def free(self) -> MicroUSD:
        """What new work may count on: the balance less an announced withdrawal."""
        leaving = self.withdraw_units if self.withdraw_at else 0
        return MicroUSD(max(0, self.balance - leaving))


@dataclass(frozen=True, slots=True)
class EpochState:
    """One epoch as the contract keeps it; `prev` is the epoch it was built on, 0 for the first."""

    number: int
    root: str
    active_at: int
    period_end: int
    total: MicroUSD
    prev: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class ChainSnapshot:
    """The escrow at one block: every figure was read at the same block number.

    `seq` and `head_root` are what the next epoch must be built on. `head_epoch` is the newest epoch not cancelled
    (0: none), `active_at` when it becomes active, `active_epoch` the one that claims go against (0: none).
    `accounts` and `paid` hold exactly what was asked for.
    """

    chain_id: int
    escrow: str
    block_number: int
    block_hash: str
    timestamp: int
    seq: int
    last_epoch: int
    head_epoch: int
    head_root: str
    active_epoch: int
    active_at: int
    accounts: Mapping[str, AccountState]
    paid: Mapping[Pair, MicroUSD]

    @property
    def head_is_active(self) -> bool:
        """Whether a new epoch may be posted; true when there is no epoch yet."""
        return self.head_epoch == self.active_epoch


@dataclass(frozen=True, slots=True)
class Line:
    """What a tenant owes the leaf's provider in all, since the beginning."""

    tenant: str
    cumulative: MicroUSD


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of an epoch's tree: at most 64 lines of one provider, by rising tenant address."""

    provider: str
    lines: tuple[Line, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A leaf with its proof, as the contract takes it."""

    provider: str
    lines: tuple[Line, ...]
    proof: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Funding:
    """How much of what is owed the chain can carry now.

    `debits` by tenant, `payable` the cumulative per pair for the next root (pairs paid in full are left out),
    `unfunded` by tenant what stays owed beyond it.
    """

    debits: Mapping[str, MicroUSD]
    payable: Mapping[Pair, MicroUSD]
    unfunded: Mapping[str, MicroUSD]


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """An epoch ready to be posted; `manifest` is canonical JSON from which all the rest can be rebuilt."""

    chain_id: int
    escrow: str
    seq: int
    prev_root: str
    root: str
    period_end: int
    leaves: tuple[Leaf, ...]
    debits: Mapping[str, MicroUSD]
    manifest: bytes
    manifest_hash: str

    @property
    def total(self) -> MicroUSD:
        """Sum of the debits."""
        return MicroUSD(sum(self.debits.values()))

    @property
    def pairs(self) -> Mapping[Pair, MicroUSD]:
        """The root's cumulative per pair."""
        return {(line.tenant, leaf.provider): line.cumulative for leaf in self.leaves for line in leaf.lines}


@dataclass(frozen=True, slots=True)
class Payment:
    """One line that a claim paid; `paid` is the pair's new total."""

    epoch: int
    provider: str
    tenant: str
    amount: MicroUSD
    paid: MicroUSD


@dataclass(frozen=True, slots=True)
class SignedTx:
    """A signed transaction that can be kept before it is sent, and sent again byte for byte."""

    tx_hash: str
    raw: bytes
    sender: str
    nonce: int


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction; `epoch` is the number it posted, if it did, `payments` what it paid.

    `skipped` are the tenants whose debit did not fit any more when it was posted: nothing was taken from them.
    """

    tx_hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    epoch: int | None = None
    payments: tuple[Payment, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where an escrow and its token live."""

    chain_id: int
    token: str
    escrow: str
