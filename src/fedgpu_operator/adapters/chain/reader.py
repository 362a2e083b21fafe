"""Reads ComputeEscrow's getters at one block, and receipts of its transactions, into values; writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from web3.contract.async_contract import AsyncContract, AsyncContractFunction
from web3.types import BlockIdentifier, LogReceipt
from web3.types import TxReceipt as RawReceipt

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.rpc import Rpc, block_at
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    AccountState,
    ChainSnapshot,
    DisputeState,
    EpochState,
    ExitState,
    Pair,
    PairState,
    Payment,
    TxReceipt,
)
from fedgpu_operator.domain.terms import EscrowPeriods, EscrowTerms
from fedgpu_operator.errors import ChainUnreachableError


def read_receipt(raw: RawReceipt, contract: AsyncContract, escrow: ChecksumAddress) -> TxReceipt:
    """Block, outcome, gas, the epoch posted (if any), the tenants it skipped and the lines paid."""
    logs = [log for log in raw["logs"] if log["address"] == escrow]
    posted = events_of("EpochPosted", logs, contract)
    return TxReceipt(
        tx_hash=raw["transactionHash"].to_0x_hex(),
        block_number=raw["blockNumber"],
        block_hash=raw["blockHash"].to_0x_hex(),
        succeeded=raw["status"] == 1,
        gas_used=raw["gasUsed"],
        epoch=posted[0]["epoch"] if posted else None,
        payments=tuple(
            Payment(
                epoch=values["epoch"],
                provider=values["provider"],
                tenant=values["tenant"],
                amount=MicroUSD(values["amount"]),
                paid=MicroUSD(values["paid"]),
            )
            for values in events_of("LinePaid", logs, contract)
        ),
        skipped=tuple(values["tenant"] for values in events_of("DebitSkipped", logs, contract)),
        gas_price=raw.get("effectiveGasPrice", 0),
        data_fee=_data_fee(raw),
    )


def _data_fee(raw: RawReceipt) -> int:
    """`l1Fee` of a rollup of the OP kind, 0 elsewhere: not a field of Ethereum's, so web3 leaves it in hex.

    Its operator fee (since Isthmus) is not a figure in receipts.
    """
    found: object = dict(raw).get("l1Fee", 0)
    try:
        return int(found, 16) if isinstance(found, str) else found if isinstance(found, int) else 0
    except ValueError:
        # Nothing is decided by it, so it must not make a receipt unreadable.
        return 0


def events_of(name: str, logs: Sequence[LogReceipt], contract: AsyncContract) -> list[dict[str, Any]]:
    """The arguments of each event of that name that the contract itself logged."""
    event = contract.events[name]()
    return [
        dict(event.process_log(log)["args"])
        for log in logs
        if log["address"] == contract.address and log["topics"][0].to_0x_hex() == event.topic
    ]


BATCH = 500
"""Accounts or pairs per read: about 4 M gas, far below what nodes allow for one eth_call."""


class EscrowReader:
    """The getters of one escrow."""

    def __init__(self, rpc: Rpc, contract: AsyncContract, chain_id: int) -> None:
        self._rpc = rpc
        self._contract = contract
        self._chain_id = chain_id

    async def read(self, name: str, *arguments: object, at: BlockIdentifier = "latest") -> Any:
        """What a getter returns at a block."""
        function: AsyncContractFunction = self._contract.functions[name](*arguments)
        with self._rpc.speaking(name):
            return await function.call(block_identifier=at)

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[Pair], block: BlockIdentifier) -> ChainSnapshot:
        """Everything at the one block that `block` names; ChainUnreachableError if a reorg ran through it."""
        header = await block_at(self._rpc, block)
        at = header.number
        owners = [to_checksum_address(tenant) for tenant in tenants]
        books = [(to_checksum_address(tenant), to_checksum_address(provider)) for tenant, provider in pairs]
        rows = [(owner,) for owner in owners]
        state, active, clock, paused, accounts, sides, held, found = await asyncio.gather(
            self.read("state", at=at),
            self.read("activeEpoch", at=at),
            self.read("clock", at=at),
            self.read("paused", at=at),
            self._read_many("accountsOf", rows, at),
            self._read_many("sidesOf", rows, at),
            self._read_many("heldOf", rows, at),
            self._read_many("pairsOf", books, at),
        )
        newest = await self.epoch(state.head, at)
        if (await block_at(self._rpc, at)).hash != header.hash:
            raise ChainUnreachableError(f"block {at} was replaced while it was read")
        return ChainSnapshot(
            chain_id=self._chain_id,
            escrow=self._contract.address,
            block_number=at,
            block_hash=header.hash,
            timestamp=header.timestamp,
            seq=state.seq,
            last_epoch=state.last,
            head_epoch=state.head,
            head_root=newest.root,
            active_epoch=active,
            active_at=newest.active_at,
            accounts=dict(zip(owners, map(account_state, accounts, sides, held), strict=True)),
            books=dict(zip(books, map(pair_state, found), strict=True)),
            clock=clock,
            paused=paused,
        )

    async def epoch(self, number: int, block: BlockIdentifier) -> EpochState:
        """One epoch; all zero for a number that does not exist."""
        found = await self.read("epochOf", number, at=block)
        return EpochState(
            number=number,
            root="0x" + found.root.hex(),
            active_at=found.activeAt,
            period_end=found.periodEnd,
            total=MicroUSD(found.total),
            prev=found.prev,
            cancelled=found.cancelled,
        )

    async def dispute(self, epoch: int, tenant: str, provider: str, block: BlockIdentifier) -> DisputeState | None:
        """An open dispute; None if there is none."""
        pair = to_checksum_address(tenant), to_checksum_address(provider)
        found = await self.read("disputeOf", epoch, *pair, at=block)
        if not found.amount:
            return None
        return DisputeState(
            epoch=epoch,
            tenant=tenant,
            provider=provider,
            amount=MicroUSD(found.amount),
            bond=MicroUSD(found.bond),
            shown=MicroUSD(found.shown),
            deadline=found.deadline,
            ruled=found.ruled,
            floor=MicroUSD(found.floor),
        )

    async def exit(self, tenant: str, provider: str, block: BlockIdentifier) -> ExitState | None:
        """An open exit; None if there is none."""
        found = await self.read("exitOf", to_checksum_address(tenant), to_checksum_address(provider), at=block)
        if not found.amount:
            return None
        return ExitState(
            tenant=tenant,
            provider=provider,
            amount=MicroUSD(found.amount),
            active_at=found.activeAt,
            disputed=found.disputed,
            ruled=found.ruled,
        )

    async def periods(self) -> EscrowPeriods:
        """The contract's periods, which never change."""
        names = ("CHALLENGE", "NOTICE", "RULING", "EXIT_AFTER", "LONGEST_EPOCH")
        return EscrowPeriods(*await asyncio.gather(*(self.read(name) for name in names)))

    async def terms(self) -> EscrowTerms:
        """All that the deployment fixed, and the name that the token gives itself."""
        (token, decimals, scale), reserve, periods = await asyncio.gather(
            self.coin(), self.read("RESERVE"), self.periods()
        )
        with self._rpc.speaking("reading the token's symbol"):
            symbol = await token.functions.symbol().call()
        return EscrowTerms(str(token.address), str(symbol), decimals, scale, str(reserve), periods)

    async def coin(self) -> tuple[AsyncContract, int, int]:
        """The token that it holds, that token's decimals, and how many of its base units are 1 µUSD to the escrow."""
        address, scale = await asyncio.gather(self.read("TOKEN"), self.read("SCALE"))
        token: AsyncContract = calls.contract_at(self._rpc, to_checksum_address(address), "TestUSD")
        with self._rpc.speaking("reading the token's decimals"):
            decimals: int = await token.functions.decimals().call()
        return token, decimals, scale

    async def _read_many(self, name: str, rows: Sequence[tuple[str, ...]], at: BlockIdentifier) -> list[Any]:
        """Call a batch getter, whose arguments are the columns of `rows`, in pieces of BATCH."""
        pieces = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        answers = await asyncio.gather(
            *(self.read(name, *map(list, zip(*piece, strict=True)), at=at) for piece in pieces)
        )
        return [row for answer in answers for row in answer]


def account_state(account: Any, side: Any, held: int) -> AccountState:
    """An account as `accountsOf`, `sidesOf` and `heldOf` return it."""
    return AccountState(
        balance=MicroUSD(account.balance),
        allocated=MicroUSD(account.allocated),
        pending=MicroUSD(account.pending),
        limit=MicroUSD(account.limit),
        withdraw_units=MicroUSD(side.withdrawUnits),
        withdraw_at=side.withdrawAt,
        new_limit=MicroUSD(side.newLimit),
        limit_at=side.limitAt,
        held=MicroUSD(held),
    )


def pair_state(pair: Any) -> PairState:
    """A pair's books as `pairsOf` returns them."""
    return PairState(MicroUSD(pair.paid), MicroUSD(pair.deducted), MicroUSD(pair.reserved), pair.dead)
