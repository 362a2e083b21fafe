"""Settlement as values: what the chain holds, an epoch and how far it got, what a claim paid; no hashing and no IO.

Addresses are EIP-55 strings, hashes and roots lower-case ``0x…`` strings of 32 bytes, amounts µUSD, times Unix
seconds of the chain's clock. A pair is always (tenant, provider).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fedgpu_operator.domain.attempts import PairTotal, UncoveredLease
from fedgpu_operator.domain.money import NOTHING, MicroUSD

ZERO_HASH = "0x" + "00" * 32
"""The root of "no epoch yet"."""


Pair = tuple[str, str]
"""(tenant address, provider address)."""


@dataclass(frozen=True, slots=True)
class PairState:
    """The contract's books of one pair.

    `paid` went to the provider, `deducted` was refunded by closed disputes, `reserved` is held by open disputes and
    exits. What a root shows beyond the sum of the three is payable, but not by roots up to epoch `dead`: they were
    made while a dispute held money of the pair.
    """

    paid: MicroUSD = NOTHING
    deducted: MicroUSD = NOTHING
    reserved: MicroUSD = NOTHING
    dead: int = 0

    @property
    def base(self) -> MicroUSD:
        """What a cumulative line must exceed to be payable."""
        return MicroUSD(self.paid + self.deducted + self.reserved)


NO_BOOKS = PairState()
"""A pair that the contract has never seen."""


@dataclass(frozen=True, slots=True)
class AccountState:
    """A tenant's account, with the outcome of its last epoch already applied.

    `balance` is free, `allocated` only providers can receive, `pending` is the debit of the epoch in its window,
    `held` is disputed without naming a provider, `limit` the most one epoch may debit. From `withdraw_at` on (0: never)
    up to `withdraw_units` may leave, and from `limit_at` on (0: never) the limit may become `new_limit`: subtract both
    when deciding on *new* work, not when debiting work that is done.
    """

    balance: MicroUSD
    allocated: MicroUSD
    pending: MicroUSD
    limit: MicroUSD
    withdraw_units: MicroUSD = NOTHING
    withdraw_at: int = 0
    new_limit: MicroUSD = NOTHING
    limit_at: int = 0
    held: MicroUSD = NOTHING

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
    `active_at` is a time of the settlement clock, which stands still while the contract is paused; `clock` is that
    clock at the block, `timestamp` the block's own. `accounts` and `books` hold exactly what was asked for.
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
    books: Mapping[Pair, PairState]
    clock: int = 0
    paused: bool = False

    @property
    def head_is_active(self) -> bool:
        """Whether a new epoch may be posted; true when there is no epoch yet."""
        return self.head_epoch == self.active_epoch


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider has earned from a tenant since the beginning, as both sides sign it; `period_end` Unix seconds.

    `usage_root` is a hash over the leases it counts.
    """

    tenant: str
    provider: str
    cumulative: MicroUSD
    period_end: int
    usage_root: str


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
class DisputeState:
    """One open dispute; `provider` is the zero address where the tenant disputes a debit that no line explains.

    `amount` is held, `shown` of it is backed by receipts so far: what a receipt says beyond `floor`, which is the
    line's cumulative less the amount. Until `deadline` (settlement clock) it can be `ruled` on once.
    """

    epoch: int
    tenant: str
    provider: str
    amount: MicroUSD
    bond: MicroUSD
    shown: MicroUSD
    deadline: int
    ruled: bool
    floor: MicroUSD = NOTHING


@dataclass(frozen=True, slots=True)
class ExitState:
    """A provider that takes its money without a settler: `amount` is reserved and paid after `active_at`."""

    tenant: str
    provider: str
    amount: MicroUSD
    active_at: int
    disputed: bool
    ruled: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What backs a disputed line: the leaf with its proof, the line's index in it, and the receipt of both sides."""

    provider: str
    lines: tuple[Line, ...]
    index: int
    proof: tuple[str, ...]
    receipt: Receipt
    meter: str
    meter_signature: bytes
    provider_signature: bytes


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
    """A signed transaction that can be kept before it is sent, and sent again byte for byte.

    `max_fee` and `tip` are what it offers, in wei per gas.
    """

    tx_hash: str
    raw: bytes
    sender: str
    nonce: int
    max_fee: int = 0
    tip: int = 0


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction; `epoch` is the number it posted, if it did, `payments` what it paid.

    `skipped` are the tenants whose debit did not fit any more when it was posted: nothing was taken from them.
    `gas_price` is what a unit of gas cost in the end, `data_fee` what a rollup took besides for publishing it, in wei.
    """

    tx_hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    epoch: int | None = None
    payments: tuple[Payment, ...] = ()
    skipped: tuple[str, ...] = ()
    gas_price: int = 0
    data_fee: int = 0

    @property
    def fee(self) -> int:
        """What its sender paid for it, in wei."""
        return self.gas_used * self.gas_price + self.data_fee


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where an escrow, its token, the providers' stake and the timelock that administers both live.

    `batch` is the contract that bundles calls, of the deployment or the chain's own. `block` is one in which the escrow
    did not exist yet: nothing of it is to be looked for before.
    """

    chain_id: int
    token: str
    escrow: str
    stake: str = ""
    timelock: str = ""
    batch: str = ""
    block: int = 0


@dataclass(frozen=True, slots=True)
class SettlementSnapshot:
    """One consistent read: every pair that owes something, and the leases no live epoch covers to the end."""

    pairs: tuple[PairTotal, ...]
    uncovered: tuple[UncoveredLease, ...]


@dataclass(frozen=True, slots=True)
class LeaseCover:
    """An epoch pays for this lease up to `gpu_seconds`, cumulative."""

    lease_name: str
    gpu_seconds: int


class EpochStage(StrEnum):
    """Where an epoch stands. Cancelled, Abandoned and Superseded epochs cover nothing; the others are live."""

    PREPARED = "Prepared"
    POSTED = "Posted"
    FINALIZED = "Finalized"
    PAID = "Paid"
    CANCELLED = "Cancelled"
    """Was on chain and the guardian took it back before it became active."""
    ABANDONED = "Abandoned"
    """Never reached the chain: the intent was stale or the contract refused it."""
    SUPERSEDED = "Superseded"
    """Stood on chain, but another settler's root became active before all of it was paid: the rest is settled again."""


@dataclass(frozen=True, slots=True)
class EpochLine:
    """One line of a root: the wallets are kept as they were given for this epoch."""

    tenant: str
    provider: str
    tenant_wallet: str
    provider_wallet: str
    cumulative: MicroUSD


@dataclass(frozen=True, slots=True)
class EpochDraft:
    """An epoch before it is on chain; hashes and roots are ``0x…`` strings, `total` is the sum of debits in µUSD.

    `ledger_head` is the text of the ledger's hash chains at that moment (LedgerHead): every later audit is held to it.
    """

    seq: int
    prev_root: str
    root: str
    manifest: bytes
    manifest_hash: str
    period_end: datetime
    total: MicroUSD
    lines: tuple[EpochLine, ...]
    covers: tuple[LeaseCover, ...]
    ledger_head: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stored epoch: `number` is the ledger's own rising number, `chain_epoch` the contract's, once known."""

    number: int
    draft: EpochDraft
    stage: EpochStage
    created_at: datetime
    chain_epoch: int | None = None
    post_tx: str | None = None


@dataclass(frozen=True, slots=True)
class EpochHeader:
    """An epoch without its manifest, lines and covers; fields as those of Epoch and EpochDraft."""

    number: int
    seq: int
    root: str
    manifest_hash: str
    stage: EpochStage
    created_at: datetime
    chain_epoch: int | None = None
    post_tx: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far one lease is settled: `epoch` and `stage` are those of the newest live epoch that covers it."""

    lease_name: str
    gpu_seconds: int
    covered_gpu_seconds: int
    epoch: int | None
    stage: EpochStage | None

    @property
    def complete(self) -> bool:
        """Whether all that is billed so far lies in a live epoch; true for a lease that used nothing."""
        return self.covered_gpu_seconds >= self.gpu_seconds
