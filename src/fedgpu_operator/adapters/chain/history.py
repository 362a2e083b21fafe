"""What only the escrow's log tells, by finalized blocks: how an epoch was posted, disputes, exits, paying tenants.

The log is read in pieces as large as the endpoints allow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from web3.contract.async_contract import AsyncContract
from web3.types import FilterParams, LogReceipt

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.errors import AnswerError
from fedgpu_operator.adapters.chain.reader import EscrowReader, events_of
from fedgpu_operator.adapters.chain.rpc import ARCHIVE, Rpc, block_at, first_block_since
from fedgpu_operator.adapters.chain.wordings import Meaning, blocks_suggested
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import DisputeState, ExitState, Pair
from fedgpu_operator.domain.transactions import PostedEpoch
from fedgpu_operator.errors import ChainUnreachableError, StatePrunedError

MOST_BLOCKS: Final = 2_000
"""Blocks per request to begin with, and never more: most public endpoints take as many."""
LEAST_AFTER_SILENCE: Final = 64
"""Blocks per request below which silence makes no request smaller: it is then not the size that is at fault."""
GROW_AFTER: Final = 4
"""Pieces that must succeed before a larger one is tried; twice as many after each refusal, up to SLOWEST_GROWTH."""
SLOWEST_GROWTH: Final = 256

Topic = str | Sequence[str] | None
"""A topic, any of several, or whichever."""


class LogReader:
    """The log of the contract at `address`. What it learned of the endpoints' limits holds for later calls."""

    def __init__(self, rpc: Rpc, address: ChecksumAddress) -> None:
        self._rpc = rpc
        self._address = address
        self.size = MOST_BLOCKS
        """Blocks that the next request asks for at most."""
        self._smooth = 0
        self._grow_after = GROW_AFTER

    async def pieces(
        self, start: int, end: int, topics: Sequence[Topic]
    ) -> AsyncIterator[tuple[int, Sequence[LogReceipt]]]:
        """Each piece from block `start` to `end` as (its last block, its logs), in order.

        An error leaves what came before it valid: who keeps the last block goes on behind it. Raises
        ChainUnreachableError if no answer came, ChainError if not even the log of one block is given.
        """
        first = start
        while first <= end:
            last = min(end, first + self.size - 1)
            logs = await self._read(first, last, topics)
            if logs is not None:
                yield last, logs
                first = last + 1

    async def _read(self, first: int, last: int, topics: Sequence[Topic]) -> Sequence[LogReceipt] | None:
        """The logs of these blocks; None if they are too many, and fewer must be asked for."""
        query: FilterParams = {
            "address": self._address,
            "topics": [_topic(topic) for topic in topics],
            "fromBlock": first,
            "toBlock": last,
        }
        count = last - first + 1
        try:
            with self._rpc.speaking("reading the contract's log"):
                try:
                    logs = await self._rpc.w3.eth.get_logs(query)
                except AnswerError as error:
                    if error.fault.meaning is not Meaning.RANGE or count == 1:
                        raise
                    self._shrink(blocks_suggested(error.fault.words, first), count)
                    return None
        except ChainUnreachableError:
            # A node that takes too long for so many blocks looks silent.
            self.size = max(min(count, LEAST_AFTER_SILENCE), count // 2)
            self._smooth = 0
            raise
        self._succeeded()
        return logs

    def _shrink(self, suggested: int | None, count: int) -> None:
        self.size = suggested if suggested is not None and suggested < count else count // 2
        self._smooth = 0
        self._grow_after = min(SLOWEST_GROWTH, 2 * self._grow_after)

    def _succeeded(self) -> None:
        self._smooth += 1
        if self._smooth >= self._grow_after:
            self.size, self._smooth = min(MOST_BLOCKS, 2 * self.size), 0


def _topic(topic: Topic) -> Any:
    if topic is None:
        return None
    return HexStr(topic) if isinstance(topic, str) else [HexStr(each) for each in topic]


K = TypeVar("K", bound=tuple[Any, ...])
V = TypeVar("V")
Dispute = tuple[int, str, str]
"""(epoch, tenant, provider)."""
Blocks = tuple[int, int]
"""The first and the last block of a range."""

AGAIN_S: Final = 1.0
"""The first pause before a part of the log in which something was missing twice is read again."""
LONGEST_AGAIN_S: Final = 3600.0


class History:
    """Reads each finalized block's log once. `from_block` None begins where the first epoch was posted.

    An exit that began before any epoch was posted is then not seen. Raises StatePrunedError if the log lacks an
    epoch that the escrow's books have: nodes that drop old logs may answer with none at all (reth up to 2.5.1, Erigon
    up to 3.0), and a dispute would be missed. Only the parts that lack one are read again, with pauses that grow.
    """

    def __init__(self, rpc: Rpc, contract: AsyncContract, reader: EscrowReader, from_block: int | None) -> None:
        self._rpc = rpc
        self._contract = contract
        self._reader = reader
        self._log = LogReader(rpc, contract.address)
        self._from_block = from_block
        self._start = from_block
        self._next = from_block
        self._lock = asyncio.Lock()
        self._posted: dict[int, Blocks] = {}
        """In which piece of the log each epoch was found."""
        self._disputes: dict[Dispute, int] = {}
        """Those that may be open, with the last block of the piece in which they were found."""
        self._exits: dict[Pair, int] = {}
        self._backoff = Backoff(AGAIN_S, LONGEST_AGAIN_S)
        self._again_at: float | None = None
        """When, by the loop's clock, what is missing is looked for again; None while nothing is."""

    async def posted(self, number: int) -> PostedEpoch | None:
        """The epoch's event with what its transaction asked for; None if there is none (yet)."""
        final = (await block_at(self._rpc, "finalized")).number
        if number < 1 or (await self._reader.epoch(number, final)).active_at == 0:
            return None
        start = await self._posted_since(number, final)
        topics = [self._topic("EpochPosted"), "0x" + number.to_bytes(32, "big").hex()]
        async for _, logs in self._log.pieces(start, final, topics):
            for log in logs:
                return await self._described(log)
        raise self._incomplete(f"does not show how epoch {number} was posted", True)

    async def disputes(self) -> tuple[DisputeState, ...]:
        """The disputes open at the newest finalized block, oldest first."""
        async with self._lock:
            return await _open(self._disputes, self._reader.dispute, await self._catch_up())

    async def exits(self) -> tuple[ExitState, ...]:
        """The exits open at the newest finalized block, oldest first."""
        async with self._lock:
            return await _open(self._exits, self._reader.exit, await self._catch_up())

    async def _catch_up(self) -> int:
        """Read the log from where it was left up to the newest finalized block; its number."""
        final = (await block_at(self._rpc, "finalized")).number
        if self._start is None or self._next is None:
            if (await self._reader.epoch(1, final)).active_at == 0:
                return final
            self._start = self._next = await self._posted_since(1, final)
        async for piece, logs in self._pieces(self._next, final):
            self._keep(piece, logs)
            # What was read stays read, whatever becomes of the next piece.
            self._next = piece[1] + 1
        posted = (await self._reader.read("state", at=final)).last
        if self._missing(posted):
            await self._look_again(self._start, final, posted)
        if missing := self._missing(posted):
            what = f"shows {posted - len(missing)} of the {posted} epochs that were posted"
            raise self._incomplete(what, missing[0] == 1)
        self._again_at = None
        return final

    async def _pieces(self, start: int, end: int) -> AsyncIterator[tuple[Blocks, Sequence[LogReceipt]]]:
        opened = [[self._topic(event) for event in ("EpochPosted", "Disputed", "ExitStarted")]]
        async for last, logs in self._log.pieces(start, end, opened):
            yield (start, last), logs
            start = last + 1

    def _keep(self, piece: Blocks, logs: Sequence[LogReceipt]) -> None:
        for values in events_of("EpochPosted", logs, self._contract):
            self._posted.setdefault(values["epoch"], piece)
        for values in events_of("Disputed", logs, self._contract):
            self._disputes.setdefault((values["epoch"], values["tenant"], values["provider"]), piece[1])
        for values in events_of("ExitStarted", logs, self._contract):
            self._exits.setdefault((values["tenant"], values["provider"]), piece[1])

    def _missing(self, posted: int) -> list[int]:
        if len(self._posted) >= posted:
            return []
        return [number for number in range(1, posted + 1) if number not in self._posted]

    async def _look_again(self, start: int, final: int, posted: int) -> None:
        """Read the parts of the log again that lack an epoch, unless that was done a short while ago."""
        now = asyncio.get_running_loop().time()
        if self._again_at is None:
            # They were read just now.
            self._again_at = now
            self._backoff.reset()
            return
        if now < self._again_at:
            return
        self._again_at = now + self._backoff.failed()
        for first, last in self._gaps(start, final, posted):
            async for piece, logs in self._pieces(first, last):
                self._keep(piece, logs)

    def _gaps(self, start: int, final: int, posted: int) -> list[Blocks]:
        """The parts of the log between the epochs that were found in which those are that were not."""
        gaps: list[Blocks] = []
        for number in self._missing(posted):
            before, after = self._posted.get(number - 1), self._posted.get(number + 1)
            if before is not None or not gaps:
                gaps.append((before[0] if before is not None else start, final))
            if after is not None:
                gaps[-1] = (gaps[-1][0], after[1])
        return gaps

    def _incomplete(self, what: str, from_the_first: bool) -> StatePrunedError:
        """`from_the_first`: what is missing begins with the first epoch, which a setting may have left out."""
        cause = f"it drops old logs; {ARCHIVE}"
        if from_the_first and self._from_block is not None:
            cause = (
                f"FEDGPU_FIRST_BLOCK={self._from_block} may be after the first epoch: set it to the block in which the "
                f"escrow was created, or to nothing, and start again; if it is right, {cause}"
            )
        return StatePrunedError(f"the log of the escrow at {self._rpc!r} {what}: {cause}")

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


async def _open(known: dict[K, int], read: Callable[..., Awaitable[V | None]], at: int) -> tuple[V, ...]:
    """What `read` still finds at that block of all that is known, oldest first; the rest is forgotten."""
    keys = sorted(known, key=known.__getitem__)
    found = dict(zip(keys, await asyncio.gather(*(read(*key, at) for key in keys)), strict=True))
    for key, each in found.items():
        if each is None:
            del known[key]
    return tuple(each for each in found.values() if each is not None)


@dataclass(frozen=True, slots=True)
class Earnings:
    """Where a provider is paid to, whose signature its receipts need, and what waits to be collected by it."""

    provider: str
    payee: str
    signer: str
    owed: MicroUSD


async def earnings_of(rpc: Rpc, escrow: str, provider: str) -> Earnings:
    """Read at the newest block; both addresses are the provider's own if it never named others."""
    contract, who = calls.contract_at(rpc, to_checksum_address(escrow)), to_checksum_address(provider)

    async def read(name: str) -> Any:
        with rpc.speaking(name):
            return await contract.functions[name](who).call()

    payee, signer, owed = await asyncio.gather(read("payeeOf"), read("signerOf"), read("owed"))
    return Earnings(who, str(payee), str(signer), MicroUSD(owed))


async def tenants_of(rpc: Rpc, escrow: str, provider: str, from_block: int | None = None) -> tuple[str, ...]:
    """The tenants from whom the provider was ever paid through finalized blocks, by address.

    `from_block` None begins where the escrow's first epoch was posted. A part of the log for which no answer comes is
    asked for again in smaller pieces while there are any.
    """
    contract, who = calls.contract_at(rpc, to_checksum_address(escrow)), to_checksum_address(provider)
    final = (await block_at(rpc, "finalized")).number
    start = await _first(rpc, contract, final) if from_block is None else from_block
    found: set[str] = set()
    # In both events the provider is the second indexed value.
    topics: list[Any] = [[contract.events[name]().topic for name in ("LinePaid", "ExitFinished")], None, _word(who)]
    reader = LogReader(rpc, contract.address)
    while start <= final:
        size = reader.size
        try:
            async for last, logs in reader.pieces(start, final, topics):
                for name in ("LinePaid", "ExitFinished"):
                    found |= {str(values["tenant"]) for values in events_of(name, logs, contract)}
                start, size = last + 1, reader.size
        except ChainUnreachableError:
            if reader.size >= size:
                raise
    return tuple(sorted(found, key=str.lower))


async def _first(rpc: Rpc, contract: Any, final: int) -> int:
    """The block of the first post, or one before it; past the end where nothing was posted."""
    with rpc.speaking("reading the first epoch"):
        epoch, challenge = await asyncio.gather(
            contract.functions.epochOf(1).call(block_identifier=final), contract.functions.CHALLENGE().call()
        )
    if epoch.activeAt == 0:
        return final + 1
    # The settlement clock is never ahead of the real one.
    return await first_block_since(rpc, epoch.activeAt - challenge, 0, final)


def _word(address: ChecksumAddress) -> HexStr:
    return HexStr("0x" + address[2:].lower().rjust(64, "0"))
