"""What repeating a command does, on a chain that is a dictionary: one transaction an order."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fedgpu_operator.adapters.chain import Wallet
from fedgpu_operator.cli.journal import AGAIN_WITHIN_S, Journal, Lock, TxOutcome
from fedgpu_operator.cli.orders import RAISE_AFTER_S, Order, Orders, Outgoing
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
    refused: set[str] = field(default_factory=set)
    """Hashes that alone are refused."""
    said: int | None = None
    """What an endpoint says instead of the nonce that comes after what waits."""
    name: str = "main"
    forked: int = 0
    """The last block that this chain has from `main`."""
    blind: bool = False
    """Whether blocks cannot be read."""

    def mine(self, *, succeed: bool = True) -> None:
        """As real chains do, nothing beyond a nonce that nobody has used."""
        nonce, self.head = self.next_nonce(self.head), self.head + 1
        while found := next((tx for tx, at in self.pool.items() if at == nonce), None):
            self.mined[found] = (self.pool.pop(found), self.head, succeed)
            nonce += 1
        self.pool = {tx: at for tx, at in self.pool.items() if at > nonce}

    def block_hash(self, number: int) -> str:
        return f"{'main' if number <= self.forked else self.name}-{number}"

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
        pending = latest
        while pending in self.chain.pool.values():
            pending += 1
        pending = pending if self.chain.said is None else self.chain.said
        return Nonces(self.chain.next_nonce(self.chain.final), latest, pending)

    async def finalized(self) -> int:
        return self.chain.final

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        if tx_hash not in self.chain.mined:
            return None
        _, block, succeeded = self.chain.mined[tx_hash]
        return TxReceipt(tx_hash, block, self.chain.block_hash(block), succeeded, 1)

    async def block_hash(self, number: int) -> str | None:
        if self.chain.blind:
            raise ChainUnreachableError("header not found")
        return self.chain.block_hash(number) if number <= self.chain.head else None

    async def replaced(self, signed: SignedTx) -> bool:
        return (await self.nonces()).finalized > signed.nonce and signed.tx_hash not in self.chain.mined

    async def nudge(self, signed: SignedTx) -> None:
        self.chain.sent.append(signed.tx_hash)
        if self.chain.refusal is not None:
            raise self.chain.refusal
        if signed.tx_hash in self.chain.refused:
            raise NotTakenError("max fee per gas less than block base fee", Refusal.UNDERPRICED)
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
        await self._keep(Call(ME, "0x"), more)
        return more

    async def send(self, name: str) -> str:
        nonce = self.outbox.next_nonce(await self.nonces(), "node.example")
        made = len(self.outbox.journal.entries)
        signed = SignedTx("0x" + f"{name}{made}".encode().hex(), name.encode(), ME, nonce)
        await self._keep(Call(ME, "0x", what=name), signed)
        await self.deliver(signed)
        return signed.tx_hash

    async def _keep(self, call: Call, signed: SignedTx) -> None:
        await self.outbox.keep(call, signed, self.chain.head, self.chain.block_hash(self.chain.head))


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
    with pytest.raises(ConfigurationError, match=f"already done by {first} of 2023-11-14T22:13:20Z.*--again"):
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
    with pytest.raises(PendingError, match=f"{first} was rejected, but its nonce 0 is in use"):
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
    assert any("was replaced" in line for line in machine.said)


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


def test_a_payment_that_turns_out_final_days_later_is_told_and_not_made_again(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.clock += 3 * DAY
    machine.chain.mine()
    machine.chain.finalize()
    assert machine.run(deposit()) == first, "nobody was told before"
    machine.clock += AGAIN_WITHIN_S - 1
    with pytest.raises(ConfigurationError, match=f"already done by {first}"):
        machine.run(deposit())
    machine.clock += 2
    assert machine.run(deposit()) != first


def test_the_day_in_which_a_payment_is_asked_about_begins_when_the_record_learns_of_its_end(machine: Machine) -> None:
    machine.run(deposit())
    machine.clock += 3 * DAY
    machine.chain.mine()
    machine.chain.finalize()
    machine.run(limit(1))
    with pytest.raises(ConfigurationError, match="--again"):
        machine.run(deposit())


def test_what_moves_no_money_and_was_signed_long_ago_is_no_answer_to_a_new_command(machine: Machine) -> None:
    first = machine.run(limit(5))
    machine.chain.mine()
    machine.chain.finalize()
    machine.clock += AGAIN_WITHIN_S + 1
    assert machine.run(limit(5)) != first


def test_a_payment_refused_at_a_higher_nonce_is_not_signed_at_a_lower_one(machine: Machine) -> None:
    low, high = machine.run(limit(5)), machine.run(deposit())
    machine.chain.pool.clear()
    machine.chain.refused = {low, high}
    with pytest.raises(
        PendingError, match=f"{high} may still take effect with nonce 1, but nonce 0 .*`account limits set`"
    ):
        machine.run(deposit(), again=True)
    machine.chain.pool = {machine.run(limit(5)): 0}
    second = machine.run(deposit())
    assert {each.nonce for each in machine.journal().entries.values() if each.verb == "account deposit"} == {1}
    machine.chain.mine()
    assert second in machine.chain.mined


def test_what_was_refused_holds_up_nothing_behind_it(machine: Machine) -> None:
    first, behind = machine.run(deposit()), machine.run(limit(5))
    machine.chain.pool.clear()
    machine.chain.refused = {first}
    assert machine.run(limit(5)) == behind
    assert machine.journal().entries[first].refused
    machine.chain.refused.clear()
    assert machine.run(limit(5)) == behind
    assert machine.chain.pool == {first: 0, behind: 1}, "it is sent again, because its nonce is the next"
    machine.chain.mine()
    assert {first, behind} <= set(machine.chain.mined)


def test_another_order_takes_the_nonce_that_was_refused_and_frees_what_waits_behind(machine: Machine) -> None:
    first, behind = machine.run(deposit()), machine.run(limit(5))
    machine.chain.pool = {behind: 1}
    machine.chain.refused = {first}
    other = machine.run(limit(6))
    assert machine.chain.pool == {other: 0, behind: 1}
    with pytest.raises(PendingError, match=f"{first} was rejected, but its nonce 0 is in use"):
        machine.run(deposit())
    machine.chain.mine()
    machine.chain.finalize()
    assert machine.run(deposit()) != first, "it can never count now"


def test_what_was_refused_and_has_nothing_behind_it_is_not_sent_for_another_order(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.chain.pool.clear()
    machine.chain.refused = {first}
    machine.run(limit(5))
    machine.chain.mine()
    assert first not in machine.chain.mined


def test_a_nonce_far_beyond_the_chain_is_not_believed_and_a_gap_is_filled(machine: Machine) -> None:
    machine.chain.said = 1000
    with pytest.raises(ChainUnreachableError, match=r"node\.example: reports 1000 pending transactions, nonces 0 to"):
        machine.run(limit(5))
    assert machine.chain.sent == []
    machine.chain.said = 1
    lonely = machine.run(limit(5))
    machine.chain.said = None
    other = machine.run(limit(6))
    assert (machine.chain.pool[lonely], machine.chain.pool[other]) == (1, 0)


def test_a_rehearsal_on_a_copy_of_the_chain_is_not_sent_to_the_chain(machine: Machine) -> None:
    machine.chain = FakeChain(name="copy", forked=1, head=3)
    rehearsed = machine.run(deposit())
    machine.chain = FakeChain(head=2)
    machine.run(limit(5))
    machine.chain.head = 9
    machine.run(limit(6))
    assert rehearsed not in machine.chain.sent
    assert any(f"{rehearsed} with nonce 0 is not resent" in line for line in machine.said)
    assert sorted(machine.chain.pool.values()) == [0, 1], "it holds no nonce here"
    machine.chain.mine()
    machine.run(deposit())
    assert sorted(machine.chain.pool.values()) == [2], "and is no answer to a deposit here"


def test_the_first_rehearsal_on_a_copy_is_known_by_the_block_it_was_seen_in(machine: Machine) -> None:
    machine.chain = FakeChain(name="copy", forked=1)
    rehearsed = machine.run(deposit())
    machine.chain.mine()
    assert machine.run(deposit()) == rehearsed
    machine.chain = FakeChain(head=9)
    machine.run(limit(5))
    assert rehearsed not in machine.chain.sent


def test_a_rehearsed_payment_that_could_count_beside_another_is_asked_about(machine: Machine) -> None:
    machine.chain = FakeChain(name="copy", forked=1, head=3)
    machine.run(limit(5))
    rehearsed = machine.run(deposit())
    machine.chain = FakeChain(head=9)
    with pytest.raises(
        ConfigurationError, match=f"{rehearsed} was signed for the same and may be of this chain.*--again"
    ):
        machine.run(deposit())
    machine.run(deposit(), again=True)
    assert set(machine.chain.pool.values()) == {0}


@pytest.mark.parametrize("genesis", ["0x01", ""])
def test_where_blocks_cannot_be_read_nothing_of_before_is_sent(machine: Machine, genesis: str) -> None:
    first = machine.run(deposit())
    machine.chain.pool.clear()
    machine.genesis, machine.chain.blind = genesis, True
    machine.run(limit(5))
    assert machine.chain.sent.count(first) == 1
    assert any("block 1 cannot be read" in line for line in machine.said)
    machine.chain.blind = False
    machine.chain.pool.clear()
    machine.run(limit(5))
    assert machine.chain.sent.count(first) == 2


def test_with_the_first_block_unknown_lines_of_other_chains_are_not_sent(machine: Machine) -> None:
    first = machine.run(deposit())
    machine.genesis, machine.chain = "", FakeChain(name="another")
    machine.run(limit(5))
    assert first not in machine.chain.sent


@pytest.mark.parametrize("room", [0, 1, 150])
def test_a_disk_that_takes_only_the_beginning_of_a_line_stops_the_command_before_it_sends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    first = machine.run(limit(5))
    path, write, left = machine.journal().path, os.write, [room]
    before = path.read_bytes()

    def short(file: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(file, data[: left[0]])
        left[0] -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(ConfigurationError, match=f"{path} cannot be accessed .No space left.*, so nothing is sent"):
            machine.run(deposit())
    assert set(machine.chain.sent) == {first}
    assert path.read_bytes() == before, "half a line is taken back"


def test_a_line_that_is_written_in_pieces_is_whole(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:7]))
        first = machine.run(deposit())
    assert list(machine.journal().entries) == [first]


@pytest.mark.parametrize(
    "line", [b'{"type": "sig\x01ed"}', b"\xff\xfe", b"[1]", b'"a"', b"null", b"{}", b'{"type": "later"}']
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_cannot_be_read_stops_every_command(machine: Machine, line: bytes, last: bool) -> None:
    machine.run(deposit())
    machine.run(limit(5))
    path, sent = machine.journal().path, list(machine.chain.sent)
    one, two = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([one, two, line] if last else [one, line, two]) + b"\n")
    with pytest.raises(
        ConfigurationError, match=rf"line {3 if last else 2} of the record of transactions {path} cannot"
    ):
        machine.run(deposit())
    assert machine.chain.sent == sent


def test_what_is_used_up_in_its_block_is_sent_anew(machine: Machine) -> None:
    approve = Order("approve", {"amount": 1}, "approve", state="allowance", used_up=True)
    first = machine.run(approve)
    assert machine.run(approve) == first
    machine.chain.mine()
    assert machine.run(approve) != first


def test_what_waits_and_was_not_sent_from_here_stops_a_payment_and_nothing_else(machine: Machine) -> None:
    machine.chain.pool = {"0xother": 0, "0xanother": 1}
    machine.run(limit(5))
    with pytest.raises(ConfigurationError, match=f"2 transactions of {ME} sent from elsewhere .nonce 0."):
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


def test_a_last_line_without_its_line_feed_is_kept_if_it_is_whole(machine: Machine) -> None:
    first = machine.run(deposit())
    path = machine.journal().path
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert machine.run(deposit()) == first
    other = machine.run(limit(5))
    assert list(machine.journal().entries) == [first, other]


def test_only_one_holds_the_lock_and_who_ends_gives_it_back(machine: Machine) -> None:
    path = machine.journal().path.with_suffix(".lock")
    one, other = Lock(path), Lock(path)
    assert one.take()
    assert not other.take()
    one.release()
    assert other.take()
    other.release()
