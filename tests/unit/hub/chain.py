"""An escrow in memory: blocks are mined and made final by the test, transactions can be dropped, blocks undone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    NOTHING,
    ZERO_HASH,
    AccountState,
    ChainSnapshot,
    Claim,
    EpochPlan,
    EpochState,
    Pair,
    SignedTx,
    TxReceipt,
)
from fedgpu_operator.errors import ChainError, ChainUnreachableError, RevertedError
from fedgpu_operator.ports import Escrow

WINDOW = 600


@dataclass
class Books:
    """The contract's storage at one block."""

    block: int = 100
    timestamp: int = 1_767_268_800
    seq: int = 0
    accounts: dict[str, AccountState] = field(default_factory=dict)
    paid: dict[Pair, int] = field(default_factory=dict)
    epochs: list[EpochState] = field(default_factory=list)
    debits: dict[int, dict[str, MicroUSD]] = field(default_factory=dict)
    receipts: dict[str, TxReceipt] = field(default_factory=dict)
    skipped: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def head(self) -> EpochState | None:
        return next((epoch for epoch in reversed(self.epochs) if not epoch.cancelled), None)

    def settle_head(self) -> None:
        """What was pending becomes allocated once the head is active."""
        head = self.head
        if head is None or self.timestamp < head.active_at:
            return
        for tenant in self.debits.pop(head.number, {}):
            account = self.accounts[tenant]
            moved = MicroUSD(account.allocated + account.pending)
            self.accounts[tenant] = replace(account, allocated=moved, pending=NOTHING)


class FakeEscrow:
    """`silent` answers nothing, `refuses` is what a simulation of a post says, `loses` forgets what is sent."""

    def __init__(self) -> None:
        self.escrow: ChecksumAddress = to_checksum_address("0x" + "e5" * 20)
        self.chain_id = 31337
        self.latest, self.final = Books(), Books()
        self.sent: list[bytes] = []
        self.prepared = 0
        self.spent_nonces = 0
        self.silent, self.loses, self.refuses = False, False, ""
        self._pool: dict[str, Callable[[Books], int | None]] = {}
        self._signed: dict[str, Callable[[Books], int | None]] = {}

    # ---- what the test does

    def fund(self, tenant: str, usd: int, limit: int | None = None) -> None:
        amount = MicroUSD(usd * 1_000_000)
        state = AccountState(amount, NOTHING, NOTHING, amount if limit is None else MicroUSD(limit * 1_000_000))
        self.latest.accounts[tenant] = self.final.accounts[tenant] = state

    def mine(self) -> None:
        books = self.latest
        books.block += 1
        for tx_hash, effect in self._pool.items():
            if tx_hash in books.receipts:
                continue
            attempt = copy.deepcopy(books)
            try:
                number = effect(attempt)
            except RevertedError:
                books.receipts[tx_hash] = TxReceipt(tx_hash, books.block, "0x", False, 21_000)
            else:
                skipped = attempt.skipped.get(number or 0, ())
                made = TxReceipt(tx_hash, books.block, "0x", True, 90_000, number, skipped=skipped)
                attempt.receipts[tx_hash] = made
                books = attempt
        self._pool.clear()
        self.latest = books

    def finalize(self) -> None:
        self.final = copy.deepcopy(self.latest)

    def reorg(self) -> None:
        """Back to the finalized block; anvil, too, does not return such transactions to the pool."""
        self.latest = copy.deepcopy(self.final)

    def jump(self, seconds: int) -> None:
        self.latest.timestamp += seconds
        self.latest.block += 1
        self.latest.settle_head()
        self.finalize()

    def cancel(self, number: int) -> None:
        """The guardian takes an epoch back."""
        books = self.latest
        books.epochs[number - 1] = replace(books.epochs[number - 1], cancelled=True)
        for tenant, amount in books.debits.pop(number, {}).items():
            account = books.accounts[tenant]
            back = MicroUSD(account.balance + amount)
            books.accounts[tenant] = replace(account, balance=back, pending=MicroUSD(account.pending - amount))
        books.seq += 1
        self.finalize()

    # ---- ports.Escrow

    async def verify(self) -> None:
        return

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[Pair]) -> ChainSnapshot:
        self._answer()
        books, head = self.final, self.final.head
        active = head is not None and books.timestamp >= head.active_at
        before = head.prev if head is not None else 0
        return ChainSnapshot(
            chain_id=self.chain_id,
            escrow=self.escrow,
            block_number=books.block,
            block_hash="0x",
            timestamp=books.timestamp,
            seq=books.seq,
            last_epoch=len(books.epochs),
            head_epoch=head.number if head else 0,
            head_root=head.root if head else ZERO_HASH,
            active_epoch=head.number if head is not None and active else before,
            active_at=head.active_at if head else 0,
            accounts={one: books.accounts.get(one, AccountState(*[NOTHING] * 4)) for one in tenants},
            paid={pair: MicroUSD(books.paid.get(pair, 0)) for pair in pairs},
        )

    async def finalized_epoch(self, number: int) -> EpochState:
        self._answer()
        if number <= len(self.final.epochs):
            return self.final.epochs[number - 1]
        return EpochState(number, ZERO_HASH, 0, 0, NOTHING, 0, False)

    async def prepare_post(self, plan: EpochPlan) -> SignedTx:
        self._answer()
        if self.refuses:
            raise RevertedError(self.refuses)
        return self._sign(plan.root, lambda books: _post(books, plan))

    async def prepare_claim(self, epoch: int, claims: Sequence[Claim]) -> SignedTx:
        self._answer()
        return self._sign(f"claim {epoch}", lambda books: _claim(books, claims))

    async def broadcast(self, signed: SignedTx) -> str:
        self._answer()
        if signed.tx_hash in self.latest.receipts:
            raise ChainError("sending a transaction: nonce too low")
        self.sent.append(signed.raw)
        if not self.loses:
            self._pool[signed.tx_hash] = self._signed[signed.tx_hash]
        return signed.tx_hash

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        self._answer()
        return self.latest.receipts.get(tx_hash)

    async def finalized_nonce(self, sender: str) -> int:
        self._answer()
        assert sender == self.escrow
        return self.spent_nonces

    async def aclose(self) -> None:
        return

    def _answer(self) -> None:
        if self.silent:
            raise ChainUnreachableError("no answer")

    def _sign(self, what: str, effect: Callable[[Books], int | None]) -> SignedTx:
        self.prepared += 1
        raw = f"{what} #{self.prepared}".encode()
        tx_hash = "0x" + sha256(raw).hexdigest()
        self._signed[tx_hash] = effect
        return SignedTx(tx_hash, raw, self.escrow, self.prepared)


def _post(books: Books, plan: EpochPlan) -> int:
    head = books.head
    prev_root = head.root if head else ZERO_HASH
    if (plan.seq, plan.prev_root) != (books.seq, prev_root):
        raise RevertedError("StaleState")
    taken: dict[str, MicroUSD] = {}
    for tenant, amount in plan.debits.items():
        account = books.accounts[tenant]
        if amount > min(account.balance, account.limit):
            continue
        taken[tenant] = amount
        left, pending = MicroUSD(account.balance - amount), MicroUSD(account.pending + amount)
        books.accounts[tenant] = replace(account, balance=left, pending=pending)
    number = len(books.epochs) + 1
    made = EpochState(
        number=number,
        root=plan.root,
        active_at=books.timestamp + WINDOW,
        period_end=plan.period_end,
        total=MicroUSD(sum(taken.values())),
        prev=head.number if head else 0,
        cancelled=False,
    )
    books.epochs.append(made)
    books.debits[number] = taken
    books.skipped[number] = tuple(tenant for tenant in plan.debits if tenant not in taken)
    books.seq += 1
    return number


def _claim(books: Books, claims: Sequence[Claim]) -> None:
    for claim in claims:
        for line in claim.lines:
            pair, account = (line.tenant, claim.provider), books.accounts[line.tenant]
            due = min(max(0, line.cumulative - books.paid.get(pair, 0)), account.allocated)
            books.accounts[line.tenant] = replace(account, allocated=MicroUSD(account.allocated - due))
            books.paid[pair] = books.paid.get(pair, 0) + due


def as_port(escrow: FakeEscrow) -> Escrow:
    """Type-checked only."""
    return escrow
