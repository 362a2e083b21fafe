"""The audit against a chain made of logs and getters: it must notice a single unit too much or too little."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from fedgpu_lab import audit as module
from fedgpu_lab import rawchain
from fedgpu_lab.audit import Audit, AuditError, audit

TOKEN, ESCROW, RESERVE, NOBODY = ("0x" + digits * 20 for digits in ("aa", "bb", "cc", "00"))
ALICE, BOB, OWNER, OTHER = ("0x" + f"{n:040x}" for n in (0xA11CE, 0xB0B, 0x0E4, 0x07E4))
FINALIZED = 90


def topic(text: str) -> str:
    return "0x" + keccak(text=text).hex()


def word(address: str) -> str:
    return "0x" + address[2:].rjust(64, "0")


def selector(text: str) -> str:
    return "0x" + keccak(text=text)[:4].hex()


TRANSFER = topic("Transfer(address,address,uint256)")


@dataclass
class FakeChain:
    """Events and balances that a test may bend; answers only for the finalized block."""

    decimals: int = 6
    held: int | None = None
    accounts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    owed: dict[str, int] = field(default_factory=dict)
    logs: list[dict[str, object]] = field(default_factory=list)
    getters: dict[str, tuple[list[str], list[object]]] = field(default_factory=dict)
    count: int = 0
    in_units: int = 0
    out_units: int = 0

    @property
    def scale(self) -> int:
        return int(10 ** (self.decimals - 6))

    def deposit(self, tenant: str, units: int, *, by: str = "") -> None:
        self._transfer(by or tenant, ESCROW, units * self.scale)
        self._event("Deposited(address,address,uint64)", [tenant, by or tenant], units)
        self.in_units += units * self.scale

    def send(self, source: str, token_units: int) -> None:
        """A transfer past the contract: the token shows it, no account does."""
        self._transfer(source, ESCROW, token_units)
        self.in_units += token_units

    def pay(self, owner: str, units: int, *, event: bool = True) -> None:
        self._transfer(ESCROW, owner, units * self.scale)
        if event:
            number = "0x" + "00" * 19 + "01"
            self._event("CreditPaid(uint32,address,address,uint64)", [number, owner, owner], units)
        self.out_units += units * self.scale

    def withdraw(self, tenant: str, units: int) -> None:
        self._transfer(ESCROW, tenant, units * self.scale)
        self._event("Withdrawn(address,address,uint64)", [tenant, tenant], units)
        self.out_units += units * self.scale

    def dispute(self, tenant: str, provider: str, amount: int, bond: int) -> None:
        """A dispute of epoch 1: its bond comes in, and the getters show both."""
        self._transfer(tenant, ESCROW, bond * self.scale)
        signature = "Disputed(uint32,address,address,uint64,uint64,uint64,uint40,bytes32)"
        self._event(signature, ["0x" + "00" * 19 + "01", tenant, provider], amount, bond)
        self.in_units += bond * self.scale
        named = provider != NOBODY
        self.getters = {
            "disputeOf(uint32,address,address)": (["uint256"] * 7, [amount, bond, 0, 0, 0, 0, 0]),
            "pairsOf(address[],address[])": (["uint256[]"], [[0, 0, amount if named else 0]]),
            "heldOf(address[])": (["uint64[]"], [[0 if named else amount]]),
        }

    def exit(self, tenant: str, provider: str, amount: int) -> None:
        """An exit that waits."""
        self.count += 1
        signature = "ExitStarted(address,address,uint64,uint64,uint40,uint40,bytes32)"
        self._event(signature, [tenant, provider], amount, 0)
        self.getters = {
            "exitOf(address,address)": (["uint256"] * 6, [amount, 0, 0, 0, 0, 0]),
            "pairsOf(address[],address[])": (["uint256[]"], [[0, 0, amount]]),
        }

    def refuse(self, owner: str, units: int) -> None:
        self.count += 1
        self._event("CreditOwed(uint32,address,address,uint64)", ["0x" + "00" * 19 + "01", owner, owner], units)
        self.owed[owner] = self.owed.get(owner, 0) + units

    def audit(self) -> Audit:
        return audit("http://chain.test", TOKEN, ESCROW, transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        call = json.loads(request.content)
        method: Callable[..., object] = getattr(self, call["method"])
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": call["id"], "result": method(*call["params"])})

    def eth_getBlockByNumber(self, tag: str, full: bool) -> dict[str, str]:  # noqa: N802 (the RPC's own name)
        assert tag == "finalized"
        return {"number": hex(FINALIZED)}

    def eth_getLogs(self, query: dict[str, object]) -> list[dict[str, object]]:  # noqa: N802 (the RPC's own name)
        assert query["toBlock"] == hex(FINALIZED)
        wanted = query["topics"]
        assert isinstance(wanted, list)
        return [log for log in self.logs if log["address"] == query["address"] and _matches(log["topics"], wanted)]

    def eth_call(self, call: dict[str, str], block: str) -> str:
        assert block == hex(FINALIZED), "getters must be read at the finalized block"
        data, argument = call["data"], "0x" + call["data"][-40:]
        if data.startswith(selector("decimals()")):
            return "0x" + encode(["uint256"], [self.decimals]).hex()
        if data.startswith(selector("balanceOf(address)")):
            held = self.in_units - self.out_units if self.held is None else self.held
            return "0x" + encode(["uint256"], [held]).hex()
        if data.startswith(selector("owed(address)")):
            return "0x" + encode(["uint64"], [self.owed.get(argument, 0)]).hex()
        if data.startswith(selector("RESERVE()")):
            return "0x" + encode(["address"], [RESERVE]).hex()
        for signature, answers in self.getters.items():
            if data.startswith(selector(signature)):
                return "0x" + encode(*answers).hex()
        assert data.startswith(selector("accountOf(address)"))
        types = ["uint64", "uint64", "uint48", "uint48", "uint32"]
        return "0x" + encode(types, [*self.accounts[argument], 0, 0]).hex()

    def _transfer(self, source: str, target: str, units: int) -> None:
        self.count += 1
        self._event("Transfer(address,address,uint256)", [source, target], units, address=TOKEN)

    def _event(self, signature: str, indexed: list[str], *values: int, address: str = ESCROW) -> None:
        self.logs.append(
            {
                "address": address,
                "transactionHash": f"0x{self.count:064x}",
                "topics": [topic(signature), *(word(each) for each in indexed)],
                "data": "0x" + encode(["uint256"] * len(values), values).hex(),
            }
        )


def _matches(topics: object, wanted: Sequence[str | None]) -> bool:
    assert isinstance(topics, list)
    return all(each is None or topics[i] == each for i, each in enumerate(wanted))


@pytest.fixture
def chain() -> FakeChain:
    """Two tenants put in 150; 30 were paid, 20 withdrawn; the rest lies in all three pots."""
    chain = FakeChain()
    chain.deposit(ALICE, 100)
    chain.deposit(BOB, 50)
    chain.pay(OWNER, 30)
    chain.withdraw(BOB, 20)
    chain.accounts = {ALICE: (60, 7, 3), BOB: (30, 0, 0)}
    return chain


def test_a_sound_escrow_is_conserved_and_told_apart_by_use(chain: FakeChain) -> None:
    seen = chain.audit()
    assert seen.problems == ()
    assert seen.conserved
    assert (seen.deposited, seen.paid, seen.withdrawn, seen.held) == (150, 30, 20, 100)
    assert (seen.balances, seen.allocated, seen.pending) == (90, 7, 3)
    assert seen.paid_to == {OWNER: 30}
    assert seen.block == FINALIZED


@pytest.mark.parametrize("units", [99, 101])
def test_one_unit_off_in_the_balance_is_noticed(chain: FakeChain, units: int) -> None:
    chain.held = units
    seen = chain.audit()
    assert not seen.conserved
    assert "transfers leave 100" in seen.problems[0]


@pytest.mark.parametrize("pot", [0, 1, 2])
def test_one_unit_off_in_any_pot_of_any_tenant_is_noticed(chain: FakeChain, pot: int) -> None:
    balance, allocated, pending = (value + (index == pot) for index, value in enumerate(chain.accounts[ALICE]))
    chain.accounts[ALICE] = (balance, allocated, pending)
    seen = chain.audit()
    assert [problem for problem in seen.problems if "add up to 101" in problem]


def test_money_that_left_without_an_event_is_noticed_even_if_the_sums_agree(chain: FakeChain) -> None:
    chain.pay(OTHER, 10, event=False)
    chain.accounts[ALICE] = (50, 7, 3)
    seen = chain.audit()
    assert not seen.conserved
    assert OTHER in seen.problems[0]


def test_a_refused_transfer_waits_as_owed(chain: FakeChain) -> None:
    chain.refuse(OTHER, 5)
    chain.accounts[ALICE] = (60, 2, 3)
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert seen.owed == 5


def test_a_token_with_eighteen_decimals_loses_no_dust() -> None:
    chain = FakeChain(decimals=18)
    chain.deposit(ALICE, 100)
    chain.accounts = {ALICE: (100, 0, 0)}
    assert chain.audit().held == 100
    assert chain.audit().conserved
    chain.held = 100 * chain.scale - 1
    assert not chain.audit().conserved
    chain.held = 100 * chain.scale + 1
    assert not chain.audit().conserved


@pytest.mark.parametrize("decimals", [6, 18])
def test_money_sent_unasked_is_told_apart_and_spoils_nothing(decimals: int) -> None:
    chain = FakeChain(decimals=decimals)
    chain.deposit(ALICE, 100)
    chain.accounts = {ALICE: (100, 0, 0)}
    assert chain.audit().unsolicited == 0
    chain.send(OTHER, 7 * chain.scale)
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert (seen.deposited, seen.unsolicited, seen.held) == (100, 7, 107)


def test_a_deposit_that_somebody_else_pays_for_is_one(chain: FakeChain) -> None:
    chain.deposit(ALICE, 5, by=OTHER)
    chain.accounts[ALICE] = (65, 7, 3)
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert (seen.deposited, seen.unsolicited) == (155, 0)


def test_dust_sent_unasked_is_no_whole_unit_but_counted() -> None:
    chain = FakeChain(decimals=18)
    chain.deposit(ALICE, 100)
    chain.accounts = {ALICE: (100, 0, 0)}
    chain.send(OTHER, 1)
    seen = chain.audit()
    assert (seen.conserved, seen.unsolicited, seen.held) == (True, 0, 100)
    chain.held = 100 * chain.scale
    assert not chain.audit().conserved, "the dust is gone"


def test_money_sent_unasked_covers_no_loss(chain: FakeChain) -> None:
    chain.accounts[ALICE] = (50, 7, 3)
    chain.send(OTHER, 10)
    seen = chain.audit()
    assert not seen.conserved
    assert "add up to 90 units and 10 were sent unasked, the token says that the escrow holds 110" in seen.problems[0]
    chain.held = 100
    assert not chain.audit().conserved, "sums that agree with the accounts, but not with the transfers"


def test_money_sent_beside_a_deposit_of_the_same_transaction_is_unsolicited(chain: FakeChain) -> None:
    chain.deposit(ALICE, 5)
    chain.accounts[ALICE] = (65, 7, 3)
    chain.send(OTHER, 2)
    chain.logs[-1]["transactionHash"] = chain.logs[-2]["transactionHash"]
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert (seen.deposited, seen.unsolicited) == (155, 2)


def test_a_deposit_that_no_transfer_bears_out_is_noticed_even_if_the_sums_agree(chain: FakeChain) -> None:
    chain.deposit(ALICE, 10)
    chain.logs[-2]["topics"] = [topic("Transfer(address,address,uint256)"), word(OTHER), word(ESCROW)]
    chain.accounts[ALICE] = (70, 7, 3)
    seen = chain.audit()
    assert not seen.conserved
    assert f"10 units are booked as deposited by {ALICE}" in seen.problems[0]


def test_a_payment_of_the_escrow_to_itself_is_a_loss(chain: FakeChain) -> None:
    """In minus out still is what is held, and so is what the accounts show: the tenth unit is nobody's."""
    chain.pay(ESCROW, 10)
    chain.in_units += 10
    chain.accounts[ALICE] = (50, 7, 3)
    seen = chain.audit()
    assert not seen.conserved
    assert "10 units went from the escrow to itself" in seen.problems[0]


def test_what_a_dispute_without_a_provider_holds_is_its_tenants() -> None:
    chain = FakeChain()
    chain.deposit(BOB, 50)
    chain.dispute(BOB, NOBODY, 10, 1)
    chain.accounts = {BOB: (40, 0, 0)}
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert (seen.disputed, seen.reserved, seen.bonds) == (10, 0, 1)
    chain.getters["heldOf(address[])"] = (["uint64[]"], [[9]])
    assert not chain.audit().conserved


def test_what_a_dispute_holds_and_its_bond_are_somebodys(chain: FakeChain) -> None:
    chain.dispute(BOB, OWNER, 10, 1)
    chain.accounts[BOB] = (20, 0, 0)
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert (seen.bonded, seen.bonds, seen.reserved, seen.unsolicited) == (1, 1, 10, 0)
    chain.getters["disputeOf(uint32,address,address)"][1][1] = 0
    assert not chain.audit().conserved, "the bond is gone"
    chain.owed = {RESERVE: 1}
    assert chain.audit().conserved, "it waits for whoever won it"


def test_what_an_exit_holds_is_somebodys(chain: FakeChain) -> None:
    chain.exit(ALICE, OWNER, 7)
    chain.accounts[ALICE] = (60, 0, 3)
    seen = chain.audit()
    assert seen.conserved, seen.problems
    assert seen.reserved == 7
    chain.getters["pairsOf(address[],address[])"] = (["uint256[]"], [[0, 0, 6]])
    assert not chain.audit().conserved


def test_a_bond_that_no_transfer_bears_out_is_noticed(chain: FakeChain) -> None:
    chain.dispute(BOB, OWNER, 10, 1)
    chain.accounts[BOB] = (20, 0, 0)
    chain.logs = [log for log in chain.logs if not _matches(log["topics"], [TRANSFER, word(BOB)])]
    assert not chain.audit().conserved


def test_an_rpc_error_is_no_verdict() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}})

    with pytest.raises(AuditError, match="no"):
        audit("http://chain.test", TOKEN, ESCROW, transport=httpx.MockTransport(refuse))


def test_the_audit_imports_nothing_of_the_operator() -> None:
    trees = [ast.parse(inspect.getsource(each)) for each in (module, rawchain)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    imported += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    assert {name for name in imported if name.startswith("fedgpu")} == {rawchain.__name__}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
