"""What only the escrow's log tells: how an epoch was posted, and which disputes and exits there are; all finalized."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from web3.contract.async_contract import AsyncContract
from web3.types import LogReceipt

from fedgpu_operator.adapters.chain.chainview import block_at, first_block_since
from fedgpu_operator.adapters.chain.logreader import LogReader
from fedgpu_operator.adapters.chain.reader import EscrowReader
from fedgpu_operator.adapters.chain.receipts import events_of
from fedgpu_operator.adapters.chain.rpc import ARCHIVE, Rpc
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import DisputeState, ExitState, Pair
from fedgpu_operator.domain.transactions import PostedEpoch
from fedgpu_operator.errors import StatePrunedError

Dispute = tuple[int, str, str]
"""(epoch, tenant, provider)."""


class History:
    """Reads each finalized block's log once. `from_block` None begins where the first epoch was posted.

    An exit that began before any epoch was posted is then not seen. Raises StatePrunedError where the log lacks an
    epoch that the escrow's books have: nodes that drop old logs may answer with none at all (reth up to 2.5.1, Erigon
    up to 3.0), and a dispute would be missed.
    """

    def __init__(self, rpc: Rpc, contract: AsyncContract, reader: EscrowReader, from_block: int | None) -> None:
        self._rpc = rpc
        self._contract = contract
        self._reader = reader
        self._log = LogReader(rpc, contract.address)
        self._from_block = from_block
        self._next = from_block
        self._lock = asyncio.Lock()
        self._posted: set[int] = set()
        self._disputes: dict[Dispute, None] = {}
        self._exits: dict[Pair, None] = {}

    async def posted(self, number: int) -> PostedEpoch | None:
        """The epoch's event with what its transaction asked for; None where there is none (yet)."""
        final = (await block_at(self._rpc, "finalized")).number
        if number < 1 or (await self._reader.epoch(number, final)).active_at == 0:
            return None
        start = await self._posted_since(number, final)
        topics = [self._topic("EpochPosted"), "0x" + number.to_bytes(32, "big").hex()]
        async for _, logs in self._log.pieces(start, final, topics):
            for log in logs:
                return await self._described(log)
        raise self._incomplete(f"does not show how epoch {number} was posted")

    async def disputes(self) -> tuple[DisputeState, ...]:
        """The disputes open at the newest finalized block, oldest first."""
        async with self._lock:
            at = await self._catch_up()
            found = await asyncio.gather(*(self._reader.dispute(*key, at) for key in self._disputes))
            still = {key: each for key, each in zip(self._disputes, found, strict=True) if each is not None}
            self._disputes = dict.fromkeys(still)
        return tuple(still.values())

    async def exits(self) -> tuple[ExitState, ...]:
        """The exits open at the newest finalized block, oldest first."""
        async with self._lock:
            at = await self._catch_up()
            found = await asyncio.gather(*(self._reader.exit(*key, at) for key in self._exits))
            still = {key: each for key, each in zip(self._exits, found, strict=True) if each is not None}
            self._exits = dict.fromkeys(still)
        return tuple(still.values())

    async def _catch_up(self) -> int:
        """Read the log from where it was left up to the newest finalized block; its number."""
        final = (await block_at(self._rpc, "finalized")).number
        if self._next is None:
            if (await self._reader.epoch(1, final)).active_at == 0:
                return final
            self._next = await self._posted_since(1, final)
        opened = [[self._topic(event) for event in ("EpochPosted", "Disputed", "ExitStarted")]]
        async for last, logs in self._log.pieces(self._next, final, opened):
            self._posted |= {values["epoch"] for values in events_of("EpochPosted", logs, self._contract)}
            for values in events_of("Disputed", logs, self._contract):
                self._disputes[values["epoch"], values["tenant"], values["provider"]] = None
            for values in events_of("ExitStarted", logs, self._contract):
                self._exits[values["tenant"], values["provider"]] = None
            # What was read stays read, whatever becomes of the next piece.
            self._next = last + 1
        posted = (await self._reader.read("state", at=final)).last
        if len(self._posted) < posted:
            self._next = self._from_block
            raise self._incomplete(f"shows {len(self._posted)} of the {posted} epochs that were posted")
        return final

    def _incomplete(self, what: str) -> StatePrunedError:
        return StatePrunedError(f"the log of the escrow at {self._rpc!r} {what}: it drops old logs; {ARCHIVE}")

    async def _posted_since(self, number: int, final: int) -> int:
        """A block at which the epoch was not posted yet: the settlement clock is never before the real one's past."""
        active_at = (await self._reader.epoch(number, final)).active_at
        challenge = await self._reader.read("CHALLENGE", at=final)
        return await first_block_since(self._rpc, active_at - challenge, self._from_block or 0, final)

    async def _described(self, log: LogReceipt) -> PostedEpoch:
        tx_hash = log["transactionHash"]
        with self._rpc.speaking("reading how an epoch was posted"):
            transaction, receipt = await asyncio.gather(
                self._rpc.w3.eth.get_transaction(tx_hash), self._rpc.w3.eth.get_transaction_receipt(tx_hash)
            )
            values = events_of("EpochPosted", [log], self._contract)[0]
            number = values["epoch"]
            skipped = events_of("DebitSkipped", receipt["logs"], self._contract)
            direct = transaction.get("to") == self._contract.address
            return PostedEpoch(
                number=number,
                root="0x" + values["root"].hex(),
                manifest_hash="0x" + values["manifestHash"].hex(),
                seq=values["seq"],
                prev_root="0x" + values["prevRoot"].hex(),
                period_end=values["periodEnd"],
                active_at=values["activeAt"],
                total=MicroUSD(values["total"]),
                debits=self._debits(transaction["input"]) if direct else None,
                skipped=tuple(each["tenant"] for each in skipped if each["epoch"] == number),
                tx_hash=tx_hash.to_0x_hex(),
                block_number=log["blockNumber"],
            )

    def _debits(self, data: Any) -> Mapping[str, MicroUSD]:
        _, given = self._contract.decode_function_input(data)
        return {debit["tenant"]: MicroUSD(debit["amount"]) for debit in given["debits"]}

    def _topic(self, event: str) -> str:
        return str(self._contract.events[event]().topic)
