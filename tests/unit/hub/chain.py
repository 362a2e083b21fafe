"""An escrow in memory: blocks are mined and made final by the test, transactions can be dropped, blocks undone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import (
    ZERO_HASH,
    AccountState,
    Answer,
    ChainSnapshot,
    Claim,
    DisputeState,
    EpochPlan,
    EpochState,
    ExitState,
    Pair,
    PairState,
    SignedTx,
    TxReceipt,
)
from fedgpu_operator.domain.terms import EscrowPeriods, Role
from fedgpu_operator.domain.transactions import Call, Fees, FeeView, Nonces, PostedEpoch
from fedgpu_operator.errors import ChainUnreachableError, NotTakenError, Refusal, RevertedError
from fedgpu_operator.ports import Escrow
from fedgpu_operator.settlement import gas_cap
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, signed_by

WINDOW = 600
CALL_GAS = 100_000
TRANSFER_GAS = 26_250
Case = tuple[int, str, str]
"""(epoch, tenant, provider) of a dispute."""
Effect = Callable[["Books"], int | None]
"""What a transaction does to the books; the number of the epoch that it posts, if it does."""


def stamp(address: str, digest: bytes) -> bytes:
    """What the contract wallets of these tests accept as their owners' signature."""
    return sha256(address.lower().encode() + digest).digest()


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
    posted: dict[int, PostedEpoch] = field(default_factory=dict)
    nonce: int = 0
    closed: set[Case] = field(default_factory=set)
    shown: dict[Case, int] = field(default_factory=dict)
    answered: list[Sequence[Answer]] = field(default_factory=list)

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
    """`silent` answers nothing, `refuses` is what a simulation of a post says, `loses` forgets what is sent.

    Nothing is mined that offers less than `base_fee`; `disputed` is what was ever disputed.
    A call needs `gas`, each line of a claim `line_gas`, each debit of a post `debit_gas`; blocks hold `block_gas`,
    and nodes take no transaction whose limit is above `most_gas`, that costs more than `most_cost` wei, or which
    `purse` wei cannot pay for, none with less gas than `least_gas` or a lower tip than `least_tip`; `tip` is what they
    suggest.
    `signers` are the keys that providers named, `stripped` who lost which role; everybody else holds all of them.
    `coded` are accounts with code, of which those in `deaf` accept no signature; `moody` only not at the newest block.
    `batch_at` is the contract that bundles, `sent_by` how many transactions an account sent.
    """

    def __init__(self) -> None:
        self.escrow: ChecksumAddress = to_checksum_address("0x" + "e5" * 20)
        self.chain_id = 31337
        self.latest, self.final = Books(), Books()
        self.sent: list[bytes] = []
        self.address = str(self.escrow)
        self.base_fee = 10
        self.coins, self.data_fee = 10**18, 0
        self.silent, self.loses, self.refuses = False, False, ""
        self.line_gas, self.debit_gas, self.block_gas, self.most_gas = 0, 0, 60_000_000, 2**24
        self.most_cost, self.purse = 10**30, 10**30
        self.least_gas, self.least_tip, self.tip = 0, 0, 1
        self.disputed: list[DisputeState] = []
        self.signers: dict[str, str] = {}
        self.stripped: set[tuple[Role, str]] = set()
        self.coded: set[str] = set()
        self.deaf: set[str] = set()
        self.moody: set[str] = set()
        self.batch_at: str | None = None
        self.sent_by: dict[str, int] = {}
        self.gas = CALL_GAS
        self.bundled: dict[str, list[Call]] = {}
        self.words: dict[str, str] = {}
        """What each call is, by its data."""
        self._calls: dict[str, Effect] = {"0x": lambda _books: None}
        self._signed: dict[str, tuple[Effect, Fees, int]] = {}
        self._debits: dict[str, int] = {}
        self._claims: dict[str, tuple[int, list[Claim]]] = {}
        self._pool: dict[int, str] = {}

    @property
    def answered(self) -> list[Sequence[Answer]]:
        """What answers in blocks showed, oldest first."""
        return self.latest.answered

    # ---- what the test does

    def fund(self, tenant: str, usd: int, limit: int | None = None) -> None:
        amount = MicroUSD(usd * 1_000_000)
        state = AccountState(amount, NOTHING, NOTHING, amount if limit is None else MicroUSD(limit * 1_000_000))
        self.latest.accounts[tenant] = self.final.accounts[tenant] = state

    def mine(self) -> None:
        books = self.latest
        books.block += 1
        while (tx_hash := self._pool.get(books.nonce)) is not None:
            effect, fees, _ = self._signed[tx_hash]
            if fees.max_fee < self.base_fee:
                break
            del self._pool[books.nonce]
            attempt = copy.deepcopy(books)
            try:
                number = effect(attempt)
            except RevertedError:
                books.receipts[tx_hash] = TxReceipt(tx_hash, books.block, "0x", False, 21_000)
            else:
                skipped = attempt.skipped.get(number or 0, ())
                made = TxReceipt(
                    tx_hash,
                    books.block,
                    "0x",
                    True,
                    90_000,
                    number,
                    skipped=skipped,
                    gas_price=self.base_fee,
                    data_fee=self.data_fee,
                )
                attempt.receipts[tx_hash] = made
                books = attempt
            books.nonce += 1
        self.latest = books

    def drop(self) -> None:
        """The nodes forget what waits in their pools."""
        self._pool.clear()

    def take_nonce(self) -> None:
        """Somebody else with the same key gets a transaction into a block."""
        self._pool.pop(self.latest.nonce, None)
        self.latest.nonce += 1

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

    def post_as_another(self, plan: EpochPlan) -> None:
        """Another settler posts an epoch."""
        _post(self.latest, plan)
        self.finalize()

    # ---- ports.Escrow

    async def verify(self) -> None:
        self._answer()

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
            books={pair: PairState(MicroUSD(books.paid.get(pair, 0))) for pair in pairs},
            clock=books.timestamp,
        )

    async def finalized_epoch(self, number: int) -> EpochState:
        self._answer()
        if number <= len(self.final.epochs):
            return self.final.epochs[number - 1]
        return EpochState(number, ZERO_HASH, 0, 0, NOTHING, 0, False)

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        """Every address is a contract here whose owner signs by `stamp`; nobody has to know a key."""
        self._answer()
        return signature == stamp(address, digest)

    async def check_state(self) -> None:
        self._answer()

    async def has_code(self, account: str) -> bool:
        self._answer()
        return account in self.coded | self.deaf

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Keys sign as keys do, and owners of accounts that nobody has the key of by `stamp`."""
        self._answer()
        by_owner = signed_by(account, digest, signature) or signature == stamp(account, digest)
        return account not in self.deaf and by_owner

    async def holds_role(self, role: Role, account: str) -> bool:
        self._answer()
        return (role, account) not in self.stripped

    async def signer_of(self, provider: str) -> str:
        self._answer()
        return self.signers.get(provider, provider)

    async def posted(self, number: int) -> PostedEpoch | None:
        self._answer()
        return self.final.posted.get(number)

    async def disputes(self) -> tuple[DisputeState, ...]:
        self._answer()
        books = self.final
        return tuple(
            replace(each, shown=MicroUSD(max(each.shown, books.shown.get(_case(each), 0))))
            for each in self.disputed
            if _case(each) not in books.closed
        )

    async def exits(self) -> tuple[ExitState, ...]:
        self._answer()
        return ()

    async def periods(self) -> EscrowPeriods:
        self._answer()
        return EscrowPeriods(WINDOW, 10 * WINDOW, WINDOW, WINDOW, WINDOW)

    def call_post(self, plan: EpochPlan) -> Call:
        def effect(books: Books) -> int:
            if self.refuses:
                raise RevertedError(self.refuses)
            return _post(books, plan)

        call = self._call(f"post {plan.manifest_hash}", effect)
        self._debits[call.data] = len(plan.debits)
        return call

    def call_claim(self, epoch: int, claims: Sequence[Claim]) -> Call:
        call = self._call(f"claim {epoch} {claims}", lambda books: _claim(books, claims))
        self._claims[call.data] = epoch, list(claims)
        return call

    def claimed(self, call: Call) -> tuple[int, list[Claim]]:
        return self._claims[call.data]

    def call_close(self, epoch: int, tenant: str, provider: str) -> Call:
        def effect(books: Books) -> None:
            books.closed.add(self._open(books, epoch, tenant, provider))

        return self._call(f"close {epoch} {tenant} {provider}", effect)

    def call_answer(self, epoch: int, tenant: str, provider: str, answers: Sequence[Answer]) -> Call:
        def effect(books: Books) -> None:
            key = self._open(books, epoch, tenant, provider)
            for answer in answers:
                signer = self.signers.get(answer.provider, answer.provider)
                if signer in self.deaf | self.moody:
                    raise RevertedError(f"BadSignature(signer={signer})")
            case = next(each for each in self.disputed if _case(each) == key)
            books.shown[key] = max(books.shown.get(key, 0), min(case.amount, self._backs(books, case, answers)))
            books.answered.append(answers)

        shown = " ".join(f"{each.provider} {each.receipt.cumulative}" for each in answers)
        return self._call(f"answer {epoch} {tenant} {provider} {shown}", effect)

    def _open(self, books: Books, epoch: int, tenant: str, provider: str) -> Case:
        key = epoch, tenant, provider
        if key in books.closed or key not in map(_case, self.disputed):
            raise RevertedError("NoDispute()")
        return key

    def _backs(self, books: Books, case: DisputeState, answers: Sequence[Answer]) -> int:
        if case.provider != NO_ADDRESS:
            return max(0, answers[0].receipt.cumulative - case.floor)
        account, head = books.accounts[case.tenant], books.head
        there = account.allocated + (account.pending if head is not None and head.number == case.epoch else 0)
        unpaid = sum(
            max(0, min(each.lines[each.index].cumulative, each.receipt.cumulative) - books.paid.get(pair, 0))
            for each in answers
            for pair in [(case.tenant, each.provider)]
        )
        return max(0, unpaid - there)

    async def batch(self) -> str | None:
        self._answer()
        return self.batch_at

    def call_bundle(self, batch: str, bundled: Sequence[Call]) -> Call:
        assert batch == self.batch_at

        def effect(books: Books) -> None:
            for call in bundled:
                attempt = copy.deepcopy(books)
                try:
                    self._calls[call.data](attempt)
                except RevertedError:
                    continue
                books.__dict__.update(attempt.__dict__)

        made = self._call(" | ".join(["bundle", *(self.words[call.data] for call in bundled)]), effect)
        self.bundled[made.data] = list(bundled)
        return replace(made, to=batch)

    def call_bundled(self, call: Call) -> tuple[Call, ...]:
        return tuple(self.bundled.get(call.data, ()))

    async def simulate(self, call: Call) -> int:
        self._answer()
        bundled = self.bundled.get(call.data, [call])
        for alone in bundled:
            try:
                self._calls[alone.data](copy.deepcopy(self.latest))
            except RevertedError as error:
                refused = error
            else:
                return sum(map(self._gas_of, bundled))
        raise refused

    def _gas_of(self, call: Call) -> int:
        if call.data == "0x":
            return TRANSFER_GAS
        _, leaves = self._claims.get(call.data, (0, []))
        lines = sum(len(leaf.lines) for leaf in leaves)
        return self.gas + self.line_gas * lines + self.debit_gas * self._debits.get(call.data, 0)

    async def gas_cap(self) -> int:
        self._answer()
        return gas_cap(self.block_gas)

    async def height(self) -> int:
        self._answer()
        return self.latest.block

    async def balance(self, account: str) -> int:
        self._answer()
        assert account == self.address
        return self.coins

    async def suggest_fees(self) -> FeeView:
        self._answer()
        return FeeView(base_fee=self.base_fee, tip=self.tip)

    async def nonces(self, sender: str) -> Nonces:
        self._answer()
        if sender != self.address:
            return Nonces(*[self.sent_by.get(sender, 0)] * 3)
        return Nonces(self.final.nonce, self.latest.nonce, self.latest.nonce + len(self._pool))

    async def sign(self, call: Call, nonce: int, fees: Fees) -> SignedTx:
        raw = f"{call.what} {call.data} #{nonce} {fees} {call.gas}".encode()
        tx_hash = "0x" + sha256(raw).hexdigest()
        self._signed[tx_hash] = self._calls[call.data], fees, call.gas
        return SignedTx(tx_hash, raw, self.address, nonce, fees.max_fee, fees.tip)

    async def broadcast(self, signed: SignedTx) -> str:
        self._answer()
        _, fees, gas = self._signed[signed.tx_hash]
        if signed.nonce < self.latest.nonce:
            raise NotTakenError("nonce too low", Refusal.NONCE_USED)
        if gas < self.least_gas:
            raise NotTakenError(f"intrinsic gas too low: {gas}", Refusal.GAS_TOO_LOW)
        if fees.tip < self.least_tip:
            raise NotTakenError("transaction underpriced", Refusal.UNDERPRICED)
        if gas > self.most_gas:
            raise NotTakenError(f"gas limit too high ({self.most_gas})", Refusal.TOO_LARGE)
        if gas * fees.max_fee > self.most_cost:
            raise NotTakenError("exceeds the configured cap", Refusal.FEE_CAPPED)
        if gas * fees.max_fee > self.purse:
            raise NotTakenError("insufficient funds", Refusal.POOR)
        waiting = self._pool.get(signed.nonce, signed.tx_hash)
        if waiting != signed.tx_hash and fees.max_fee * 10 < self._signed[waiting][1].max_fee * 11:
            raise NotTakenError("replacement transaction underpriced", Refusal.UNDERPRICED)
        self.sent.append(signed.raw)
        if not self.loses:
            self._pool[signed.nonce] = signed.tx_hash
        return signed.tx_hash

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        self._answer()
        return self.latest.receipts.get(tx_hash)

    async def aclose(self) -> None:
        return

    def _answer(self) -> None:
        if self.silent:
            raise ChainUnreachableError("no answer")

    def _call(self, what: str, effect: Effect) -> Call:
        data = "0x" + sha256(what.encode()).hexdigest()
        self._calls[data] = effect
        self.words[data] = what
        return Call(str(self.escrow), data, what=what.split()[0])


def _case(dispute: DisputeState) -> Case:
    return dispute.epoch, dispute.tenant, dispute.provider


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
    books.posted[number] = PostedEpoch(
        number=number,
        root=plan.root,
        manifest_hash=plan.manifest_hash,
        seq=plan.seq,
        prev_root=plan.prev_root,
        period_end=plan.period_end,
        active_at=made.active_at,
        total=made.total,
        debits=dict(plan.debits),
        skipped=tuple(tenant for tenant in plan.debits if tenant not in taken),
        tx_hash="0x",
        block_number=books.block,
    )
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
