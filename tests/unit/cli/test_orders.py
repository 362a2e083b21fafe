"""What repeating a command does, on a chain that is a dictionary: one transaction an order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fedgpu_operator.adapters.chain import Wallet
from fedgpu_operator.cli.journal import Journal, Lock, TxOutcome
from fedgpu_operator.cli.orders import AGAIN_WITHIN_S, RAISE_AFTER_S, Order, Orders, Outgoing
from fedgpu_operator.domain.settlement import SignedTx, TxReceipt
from fedgpu_operator.domain.transactions import Call, Nonces
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    ConfigurationError,
    NotTakenError,
    PendingError,
    Refusal,
)

ME = "0x" + "a1" * 20
DAY = 86_400


@dataclass
class FakeChain:
    """Takes transactions into a pool; `mine` puts them into a block, `finalize` makes all blocks final."""

    pool: dict[str, int] = field(default_factory=dict)
    mined: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    """Nonce, block and success by hash."""
    head: int = 1
    final: int = 1
    refusal: ChainError | None = None
    sent: list[str] = field(default_factory=list)
    dear: bool = False
    """Whether blocks ask more than transactions offer."""

    def mine(self, *, succeed: bool = True) -> None:
        self.head += 1
        self.mined |= {tx: (nonce, self.head, succeed) for tx, nonce in self.pool.items()}
        self.pool.clear()

    def finalize(self) -> None:
        self.final = self.head

    def next_nonce(self, block: int) -> int:
        return max((nonce + 1 for nonce, at, _ in self.mined.values() if at <= block), default=0)


class FakeWallet:
    """The parts of a wallet that orders use."""

    address = ME

    def __init__(self, chain: FakeChain, outbox: Outgoing) -> None:
        self.chain, self.outbox = chain, outbox

    async def nonces(self) -> Nonces:
        latest = self.chain.next_nonce(self.chain.head)
        pending = max([latest, *(nonce + 1 for nonce in self.chain.pool.values())])
        return Nonces(self.chain.next_nonce(self.chain.final), latest, pending)

    async def finalized(self) -> int:
        return self.chain.final

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        if tx_hash not in self.chain.mined:
            return None
        _, block, succeeded = self.chain.mined[tx_hash]
        return TxReceipt(tx_hash, block, "0x", succeeded, 1)

    async def replaced(self, signed: SignedTx) -> bool:
        return (await self.nonces()).finalized > signed.nonce and signed.tx_hash not in self.chain.mined

    async def nudge(self, signed: SignedTx) -> None:
        self.chain.sent.append(signed.tx_hash)
        if self.chain.refusal is not None:
            raise self.chain.refusal
        self.chain.pool[signed.tx_hash] = signed.nonce

    async def deliver(self, signed: SignedTx) -> None:
        try:
            await self.nudge(signed)
        except ChainUnreachableError as error:
            raise PendingError(f"{signed.tx_hash} may be on its way") from error
        self.outbox.taken(signed)

    def most_it_costs(self, signed: SignedTx) -> int:
        return 25 * 10**14

    async def raised(self, signed: SignedTx) -> SignedTx | None:
        if not self.chain.dear:
            return None
        more = SignedTx(signed.tx_hash + "ff", signed.raw, ME, signed.nonce)
        await self.outbox.keep(Call(ME, "0x"), more)
        return more

    async def send(self, name: str) -> str:
        nonce = max((await self.nonces()).pending, self.outbox.least_nonce())
        made = len(self.outbox.journal.entries)
        signed = SignedTx("0x" + f"{name}{made}".encode().hex(), name.encode(), ME, nonce)
        await self.outbox.keep(Call(ME, "0x", what=name), signed)
        await self.deliver(signed)
        return signed.tx_hash


@dataclass
class Machine:
    """One user's machine: each `run` is a command of its own, with nothing but the record to remember by."""

    chain: FakeChain
    clock: float = 1_700_000_000.0
    genesis: str = "0x01"
    answers: bool | None = None
    said: list[str] = field(default_factory=list)

    def run(self, order: Order, *, again: bool = False) -> str:
        return self._do(self._once(order, again=again))

    async def _once(self, order: Order, *, again: bool) -> str:
        outgoing = Outgoing(self.journal(), self.said.append)
        wallet = FakeWallet(self.chain, outgoing)
        confirm = None if self.answers is None else lambda _: bool(self.answers)
        orders = Orders(cast("Wallet", wallet), outgoing, confirm)
        await orders.look_back()
        entry = await orders.once(order, lambda: wallet.send(order.what), again=again)
        return entry.tx_hash

    def journal(self) -> Journal:
        made = Journal(1, ME, lambda: self.clock)
        made.open(self.genesis)
        return made

    @staticmethod
    def _do(work: Coroutine[Any, Any, str]) -> str:
        return asyncio.run(work)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Machine(FakeChain())


def deposit(amount: int = 10) -> Order:
    return Order("account deposit", {"amount": amount}, "deposit", pays=True)


def limit(amount: int) -> Order:
    return Order("account limits set", {"limit": amount}, f"limit {amount}", state="limit")


def test_a_payment_is_gone_on_with_until_it_is_final_and_then_asked_about(machine: Machine) -> None:
    first = machine.run(deposit())
    assert any(first in line and "nonce 0" in line for line in machine.said), "the hash is shown"
    assert machine.run(deposit()) == first, "in the pool"
    machine.chain.mine()
    assert machine.run(deposit(), again=True) == first, "in a block that may be undone, --again or not"
    machine.chain.finalize()
    assert machine.run(deposit()) == first, "the command that learns it tells it"
    with pytest.raises(ConfigurationError, match=f"{first} did just that on 2023-11-14T22:13:20Z.*--again"):
        machine.run(deposit())
    assert machine.run(deposit(11)) != first, "another amount is another order"
    assert machine.run(deposit(), again=True) != first


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked_and_decides(machine: Machine, answer: bool) -> None:
    first = machine.run(deposit())
    machine.chain.mine()
    machine.chain.finalize()
    machine.run(limit(1))
    machine.answers = answer
    if answer:
        assert machine.run(deposit()) != first
    else:
        with pytest.raises(ConfigurationError, match="nothing was sent"):
            machine.run(deposit())


def test_after_a_day_a_payment_is_a_new_one(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.mine()
    machine.chain.finalize()
    machine.run(limit(1))
    machine.clock += AGAIN_WITHIN_S + 1
    assert machine.run(deposit()) != first


def test_what_no_endpoint_confirmed_is_sent_again_byte_for_byte(machine: Machine) -> None:
    machine.chain.refusal = ChainUnreachableError("HTTP 429")
    with pytest.raises(PendingError, match="run the same command again"):
        machine.run(deposit())
    machine.chain.refusal = None
    found = machine.run(deposit())
    assert set(machine.chain.sent) == {found}
    machine.chain.mine()
    assert machine.run(deposit()) == found


def test_another_command_sends_what_was_dropped_again_and_takes_the_next_nonce(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.pool.clear()
    machine.run(limit(5))
    assert machine.chain.pool[first] == 0
    assert sorted(machine.chain.pool.values()) == [0, 1]


def test_what_was_refused_is_signed_again_at_the_same_nonce_and_never_at_another(machine: Machine) -> None:
    machine.chain.refusal = NotTakenError("insufficient funds", Refusal.POOR)
    with pytest.raises(NotTakenError, match=f"{ME} needs up to 0.002500 coins of chain 1 for gas"):
        machine.run(deposit())
    machine.chain.refusal = None
    second = machine.run(deposit())
    assert machine.chain.pool == {second: 0}, "at most one of the two can ever count"


def test_what_was_refused_and_whose_nonce_is_in_use_is_not_paid_beside(machine: Machine) -> None:
    machine.chain.refusal = NotTakenError("replacement transaction underpriced", Refusal.UNDERPRICED)
    with pytest.raises(NotTakenError):
        machine.run(deposit())
    machine.chain.pool = {"0xother": 0}
    for _ in range(2):
        with pytest.raises(NotTakenError):
            machine.run(deposit(), again=True)
    assert len(set(machine.chain.sent)) == 1, "a pool has another of its nonce: no second one is signed"


def test_what_is_refused_while_looking_back_is_not_paid_at_a_higher_nonce(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.refusal = NotTakenError("internal error", Refusal.OTHER)
    with pytest.raises(PendingError, match=f"{first} was refused, but its nonce 0 is in use"):
        machine.run(deposit(), again=True)
    machine.chain.refusal = None
    assert machine.run(deposit()) == first, "it was in the pool all the time"


def test_a_nonce_that_went_elsewhere_frees_the_order(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.pool = {"0xstranger": 0}
    machine.chain.mine()
    machine.chain.refusal = NotTakenError("nonce too low", Refusal.NONCE_USED)
    with pytest.raises(PendingError, match=r"nonce 0 .* is used, by .* run the same command again"):
        machine.run(deposit())
    machine.chain.finalize()
    machine.chain.refusal = None
    second = machine.run(deposit())
    assert second != first
    assert machine.journal().entries[first].outcome is TxOutcome.REPLACED
    assert any("never counts" in line for line in machine.said)


def test_a_payment_that_failed_in_a_final_block_is_made_again(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.mine(succeed=False)
    machine.chain.finalize()
    assert machine.run(deposit()) != first
    assert machine.journal().entries[first].outcome is TxOutcome.FAILED


def test_a_payment_that_offers_too_little_is_raised_at_its_nonce_and_counts_in_either_version(machine: Machine) -> None:
    order = deposit()
    order.details["before"] = "as it was"
    first = machine.run(order)
    machine.chain.dear = True
    assert machine.run(deposit()) == first, "it has not waited for long"
    machine.clock += RAISE_AFTER_S + 1
    second = machine.run(deposit())
    assert second != first
    record = machine.journal().entries
    assert record[second].nonce == record[first].nonce == 0
    assert record[second].details["before"] == "as it was"
    machine.chain.pool = {first: 0}
    machine.chain.mine()
    machine.chain.finalize()
    assert machine.run(deposit()) == first, "a miner took the first"
    assert machine.journal().entries[second].outcome is TxOutcome.REPLACED


def test_of_what_sets_the_same_thing_only_the_newest_is_gone_on_with(machine: Machine) -> None:
    high, low = machine.run(limit(50)), machine.run(limit(20))
    assert machine.run(limit(20)) == low
    assert machine.run(limit(50)) not in (high, low), "the first was undone by the second"


def test_an_old_transaction_that_nobody_looked_at_since_is_no_answer_to_a_new_command(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.mine()
    machine.chain.finalize()
    machine.clock += AGAIN_WITHIN_S + 1
    assert machine.run(deposit()) != first


def test_what_is_used_up_in_its_block_is_sent_anew(machine: Machine) -> None:
    approve = Order("approve", {"amount": 1}, "approve", state="allowance", used_up=True)
    first = machine.run(approve)
    assert machine.run(approve) == first
    machine.chain.mine()
    assert machine.run(approve) != first


def test_what_waits_and_was_not_sent_from_here_stops_a_payment_and_nothing_else(machine: Machine) -> None:
    machine.chain.pool = {"0xother": 0, "0xanother": 1}
    machine.run(limit(5))
    with pytest.raises(ConfigurationError, match=f"2 transactions of {ME} not sent from here .nonce 0."):
        machine.run(deposit())
    assert machine.run(deposit(), again=True)


def test_what_another_chain_of_the_same_id_saw_is_not_taken_up(machine: Machine) -> None:
    machine.run(deposit())
    machine.genesis, machine.chain, machine.said = "0x02", FakeChain(), []
    assert machine.journal().entries == {}
    machine.run(deposit())
    assert "signed as" in machine.said[0]
    machine.genesis = ""
    assert len(machine.journal().entries) == 1, "the fake gives both the same hash; an unknown chain sees all"


def test_a_line_that_a_crash_cut_off_was_never_sent_and_spoils_no_other(machine: Machine) -> None:
    first = machine.run(deposit())
    path = machine.journal().path
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("a") as file:
        file.write('{"type": "signed", "hash": "0x')
    other = machine.run(limit(5))
    assert list(machine.journal().entries) == [first, other]
    assert json.loads(path.read_text().splitlines()[0])["raw"] == "0x" + b"deposit".hex()


def test_only_one_holds_the_lock_and_who_ends_gives_it_back(machine: Machine) -> None:
    path = machine.journal().path.with_suffix(".lock")
    one, other = Lock(path), Lock(path)
    assert one.take()
    assert not other.take()
    one.release()
    assert other.take()
    other.release()
