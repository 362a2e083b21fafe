"""An independent audit of the escrow over raw JSON-RPC: it imports nothing of the operator and believes none of it.

Addresses are lower-case hex; amounts are base units of 10^-6 dollar, as the escrow counts them. Everything is read as
of one finalized block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

LOGS_PER_CALL: Final = 5_000
"""Blocks asked for at once; public endpoints refuse much more."""
ACCOUNT_TYPES: Final = ("uint64", "uint64", "uint48", "uint48", "uint32")
"""balance, allocated, pending, limit, epoch: the answer of accountOf(address)."""


class AuditError(Exception):
    """The chain gave no answer, or one that cannot be read; says nothing about the money."""


@dataclass(frozen=True, slots=True)
class Account:
    """One tenant's money as the escrow's getter shows it."""

    balance: int
    allocated: int
    pending: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What the chain shows at block `block`.

    `deposited` is what came in by the escrow's own deposits, `unsolicited` what somebody sent past it: that belongs to
    nobody's account and lies in `held` for good. `paid_to` sums the token transfers by payee, `owed` what a refused
    transfer left behind. `problems` is empty when every identity holds to the last unit of the token.
    """

    block: int
    deposited: int
    paid: int
    withdrawn: int
    held: int
    accounts: Mapping[str, Account]
    owed: int
    paid_to: Mapping[str, int]
    problems: tuple[str, ...]
    unsolicited: int = 0

    @property
    def balances(self) -> int:
        return sum(account.balance for account in self.accounts.values())

    @property
    def allocated(self) -> int:
        return sum(account.allocated for account in self.accounts.values())

    @property
    def pending(self) -> int:
        return sum(account.pending for account in self.accounts.values())

    @property
    def conserved(self) -> bool:
        """Whether nothing appeared and nothing vanished."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Log:
    transaction: str
    topics: tuple[str, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class _Flows:
    """Token transfers into and out of the escrow, in token units, and what could not be explained."""

    deposited: int
    unsolicited: int
    paid: int
    withdrawn: int
    paid_to: Mapping[str, int]
    unexplained: tuple[str, ...]


def audit(
    rpc_url: str, token: str, escrow: str, *, timeout: float = 15.0, transport: httpx.BaseTransport | None = None
) -> Audit:
    """Read the chain and check the identity in − paid − withdrawn = balanceOf = Σ balance + Σ (allocated + pending).

    A payment that the token refused waits as `owed` and counts on the right side too. A transfer that no Deposited
    event of the same transaction and sender explains is `unsolicited`: subtracted on both sides, so that nobody can
    spoil the verdict, nor cover up a loss, by sending money. Raises AuditError.
    """
    # trust_env=False: a proxy of the environment has no business between us and the chain.
    with httpx.Client(base_url=rpc_url, timeout=timeout, trust_env=False, transport=transport) as client:
        chain = _Chain(client)
        return _audit(chain, token.lower(), escrow.lower())


def _audit(chain: _Chain, token: str, escrow: str) -> Audit:
    block = chain.finalized()
    scale = 10 ** (chain.number(token, "decimals()", block) - 6)
    events = chain.logs(escrow, [], block)
    flows = _flows(chain, token, escrow, events, block, scale)
    accounts = {tenant: chain.account(escrow, tenant, block) for tenant in _named(events, _DEPOSITED)}
    owed = sum(chain.number(escrow, "owed(address)", block, who) for who in _named(events, _CREDIT_OWED))
    held = chain.number(token, "balanceOf(address)", block, escrow)
    problems = [*flows.unexplained, *_problems(flows, held, scale, accounts, owed)]
    return Audit(
        block=block,
        deposited=flows.deposited // scale,
        paid=flows.paid // scale,
        withdrawn=flows.withdrawn // scale,
        held=held // scale,
        accounts=accounts,
        owed=owed,
        paid_to={payee: units // scale for payee, units in flows.paid_to.items()},
        problems=tuple(problems),
        unsolicited=flows.unsolicited // scale,
    )


def _problems(flows: _Flows, held: int, scale: int, accounts: Mapping[str, Account], owed: int) -> list[str]:
    """Both equations in the token's own units, so that no division hides a remainder."""
    found = []
    moved = flows.deposited + flows.unsolicited - flows.paid - flows.withdrawn
    if moved != held:
        found.append(f"transfers leave {moved} units, the token says that the escrow holds {held}")
    owned = sum(each.balance + each.allocated + each.pending for each in accounts.values()) + owed
    if owned * scale + flows.unsolicited != held:
        apart = f" and {flows.unsolicited} were sent unasked" if flows.unsolicited else ""
        found.append(
            f"the accounts add up to {owned * scale} units{apart}, the token says that the escrow holds {held}"
        )
    return found


def _flows(chain: _Chain, token: str, escrow: str, events: Sequence[_Log], block: int, scale: int) -> _Flows:
    """Transfers from the token's own logs; the escrow's events only tell what each of them was for."""
    here = _topic(escrow)
    deposited, unsolicited, astray = _came_in(chain.logs(token, [_TRANSFER, None, here], block), events, scale)
    outgoing = chain.logs(token, [_TRANSFER, here], block)
    withdrawals = {(log.transaction, _address(log.topics[2])) for log in events if log.topics[0] == _WITHDRAWN}
    payments = {(log.transaction, payee) for log in events for payee in _payees(log)}
    paid_to: dict[str, int] = defaultdict(int)
    withdrawn, unexplained = 0, [*astray]
    for log in outgoing:
        units, to = int.from_bytes(log.data), _address(log.topics[2])
        if to == escrow:
            # It came in again as unsolicited: both sums still agree, and yet its owner has lost it.
            unexplained.append(f"{units} units went from the escrow to itself in {log.transaction}")
        if (log.transaction, to) in withdrawals:
            withdrawn += units
            continue
        paid_to[to] += units
        if (log.transaction, to) not in payments:
            unexplained.append(f"{units} units left for {to} in {log.transaction} without a payment event")
    return _Flows(deposited, unsolicited, sum(paid_to.values()), withdrawn, dict(paid_to), tuple(unexplained))


def _came_in(incoming: Sequence[_Log], events: Sequence[_Log], scale: int) -> tuple[int, int, list[str]]:
    """Token units deposited and unsolicited, and deposits that the token's logs do not bear out.

    A transfer and the deposit it is for share their transaction and the account that paid: Deposited's second
    argument, Transfer's first.
    """
    arrived: dict[tuple[str, str], int] = defaultdict(int)
    for log in incoming:
        arrived[log.transaction, _address(log.topics[1])] += int.from_bytes(log.data)
    credited: dict[tuple[str, str], int] = defaultdict(int)
    for log in events:
        if log.topics[0] == _DEPOSITED:
            credited[log.transaction, _address(log.topics[2])] += int.from_bytes(log.data) * scale
    problems = [
        f"{units} units are booked as deposited by {sender} in {transaction}, {arrived[transaction, sender]} came in"
        for (transaction, sender), units in credited.items()
        if arrived[transaction, sender] < units
    ]
    deposited = sum(credited.values())
    return deposited, sum(arrived.values()) - deposited, problems


def _payees(log: _Log) -> tuple[str, ...]:
    """Whom an event of the escrow says that it paid: CreditPaid's third argument, Collected's second."""
    if log.topics[0] == _CREDIT_PAID:
        return (_address(log.topics[3]),)
    return (_address(log.topics[2]),) if log.topics[0] == _COLLECTED else ()


def _named(events: Sequence[_Log], topic: str) -> list[str]:
    """The distinct accounts in the argument that tells whose event it is, in order of appearance."""
    position = 2 if topic == _CREDIT_OWED else 1
    return list(dict.fromkeys(_address(log.topics[position]) for log in events if log.topics[0] == topic))


class _Chain:
    """Raw JSON-RPC calls; every answer is checked before it is used."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def finalized(self) -> int:
        """The newest block that cannot go away any more."""
        answer = self._call("eth_getBlockByNumber", "finalized", False)
        if not isinstance(answer, dict):
            raise AuditError("the chain names no finalized block")
        return int(str(answer["number"]), 16)

    def number(self, contract: str, signature: str, block: int, *addresses: str) -> int:
        """An unsigned integer that a getter returns."""
        return int.from_bytes(self._read(contract, signature, block, addresses)[:32])

    def account(self, escrow: str, tenant: str, block: int) -> Account:
        answer = decode(ACCOUNT_TYPES, self._read(escrow, "accountOf(address)", block, (tenant,)))
        return Account(int(answer[0]), int(answer[1]), int(answer[2]))

    def logs(self, address: str, topics: Sequence[str | None], to_block: int) -> list[_Log]:
        found: list[_Log] = []
        for start in range(0, to_block + 1, LOGS_PER_CALL):
            end = min(to_block, start + LOGS_PER_CALL - 1)
            query = {"address": address, "topics": list(topics), "fromBlock": hex(start), "toBlock": hex(end)}
            answer = self._call("eth_getLogs", query)
            if not isinstance(answer, list):
                raise AuditError("eth_getLogs: the answer is no list")
            found += [_Log(each["transactionHash"], tuple(each["topics"]), _bytes(each["data"])) for each in answer]
        return found

    def _read(self, contract: str, signature: str, block: int, addresses: Sequence[str]) -> bytes:
        data = keccak(text=signature)[:4] + encode(["address"] * len(addresses), addresses)
        answer = self._call("eth_call", {"to": contract, "data": "0x" + data.hex()}, hex(block))
        raw = _bytes(str(answer))
        if len(raw) < 32:
            raise AuditError(f"{contract} does not answer {signature}")
        return raw

    def _call(self, method: str, *params: object) -> object:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = self._client.post("", json=request)
            document = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise AuditError(f"{method}: {error}") from error
        if not isinstance(document, dict) or "result" not in document:
            raise AuditError(f"{method}: {document}")
        result: object = document["result"]
        return result


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _topic(address: str) -> str:
    return "0x" + address.removeprefix("0x").rjust(64, "0")


def _address(topic: str) -> str:
    return "0x" + topic[-40:].lower()


def _event(signature: str) -> str:
    return "0x" + keccak(text=signature).hex()


_TRANSFER: Final = _event("Transfer(address,address,uint256)")
_DEPOSITED: Final = _event("Deposited(address,address,uint64)")
_WITHDRAWN: Final = _event("Withdrawn(address,address,uint64)")
_CREDIT_PAID: Final = _event("CreditPaid(uint32,address,address,uint64)")
_CREDIT_OWED: Final = _event("CreditOwed(uint32,address,address,uint64)")
_COLLECTED: Final = _event("Collected(address,address,uint64)")
