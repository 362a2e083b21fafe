"""EscrowClient: ComputeEscrow read at one block, and written as settler, guardian or anybody; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from eth_typing import ABI, ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from web3.contract.async_contract import AsyncContract, AsyncContractFunction
from web3.exceptions import TransactionNotFound
from web3.types import BlockIdentifier

from fedgpu_operator.adapters.chain.receipts import read_receipt
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.artifacts import load
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import (
    AccountState,
    ChainSnapshot,
    Claim,
    EpochPlan,
    EpochState,
    Pair,
    SignedTx,
    TxReceipt,
)
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError

BATCH = 500
"""Accounts or pairs per read: about 4 M gas, far below what nodes allow for one eth_call."""

T = TypeVar("T")


class EscrowClient:
    """One escrow at one endpoint, as one signer or, without a key, as a reader.

    `timeout` is seconds per request. Every method returns at once, none waits for a block. Raises
    ChainUnreachableError where no answer came (which never means "not done"), RevertedError with the decoded reason
    where the contract refuses, ChainMismatchError where the chain is not the one configured.
    """

    def __init__(
        self, rpc_url: str, escrow: str, chain_id: int, signer_key: str | None = None, timeout: float = 10.0
    ) -> None:
        self._rpc = Rpc(rpc_url, timeout=timeout)
        self.chain_id = chain_id
        self._sender = Sender(self._rpc, signer_key) if signer_key is not None else None
        self._verified = False
        """Set by the first verification that passed: a chain that was away at the start is checked when it is back."""
        self.escrow: ChecksumAddress = to_checksum_address(escrow)
        self._contract = contract_at(self._rpc, self.escrow)

    def __repr__(self) -> str:
        return f"EscrowClient({self.escrow} on chain {self.chain_id} by {self._rpc!r}, signer {self.address})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._rpc.aclose()

    @property
    def address(self) -> str | None:
        """The signer's address; None for a reader."""
        return self._sender.address if self._sender else None

    # ---------------------------------------------------------------- reads

    async def verify(self) -> None:
        """Refuse to go on (ChainMismatchError) unless chain id, deployed code and the token's decimals are right."""
        w3 = self._rpc.w3
        with self._rpc.speaking("verifying the escrow"):
            chain_id, code = await asyncio.gather(w3.eth.chain_id, w3.eth.get_code(self.escrow))
        if chain_id != self.chain_id:
            raise ChainMismatchError(f"the endpoint serves chain {chain_id}, configured is {self.chain_id}")
        if not load("ComputeEscrow").is_deployed_as(bytes(code)):
            found = f"{len(code)} bytes of other code" if code else "no contract"
            raise ChainMismatchError(f"{self.escrow} on chain {chain_id} holds {found}, not this ComputeEscrow")
        token, scale = await asyncio.gather(self._read("TOKEN"), self._read("SCALE"))
        coin = w3.eth.contract(address=token, abi=cast("ABI", load("TestUSD").abi))
        with self._rpc.speaking("reading the token"):
            decimals = await coin.functions.decimals().call()
        if scale != 10 ** (decimals - 6):
            raise ChainMismatchError(f"the token {token} has {decimals} decimals, the escrow scales by {scale}")
        self._verified = True

    async def snapshot(
        self, tenants: Sequence[str], pairs: Sequence[Pair], block: BlockIdentifier = "finalized"
    ) -> ChainSnapshot:
        """Read the escrow, these tenants' accounts and these pairs' books, all at the one block that `block` names."""
        if not self._verified:
            await self.verify()
        with self._rpc.speaking("reading a block"):
            header = await self._rpc.w3.eth.get_block(block)
        at = header["number"]
        owners = [to_checksum_address(tenant) for tenant in tenants]
        books = [(to_checksum_address(tenant), to_checksum_address(provider)) for tenant, provider in pairs]
        (last, head_epoch, seq), active, accounts, sides, paid = await asyncio.gather(
            self._read("state", at=at),
            self._read("activeEpoch", at=at),
            self._read_many("accountsOf", [(owner,) for owner in owners], at),
            self._read_many("sidesOf", [(owner,) for owner in owners], at),
            self._read_many("pairsOf", books, at),
        )
        head = await self.epoch(head_epoch, at)
        return ChainSnapshot(
            chain_id=self.chain_id,
            escrow=self.escrow,
            block_number=at,
            block_hash=header["hash"].to_0x_hex(),
            timestamp=header["timestamp"],
            seq=seq,
            last_epoch=last,
            head_epoch=head_epoch,
            head_root=head.root,
            active_epoch=active,
            active_at=head.active_at,
            accounts={
                owner: _account(account, side) for owner, account, side in zip(owners, accounts, sides, strict=True)
            },
            paid={pair: MicroUSD(book[0]) for pair, book in zip(books, paid, strict=True)},
        )

    async def epoch(self, number: int, block: BlockIdentifier = "latest") -> EpochState:
        """One epoch; all zero for a number that does not exist."""
        root, active_at, period_end, total, prev, cancelled = await self._read("epochOf", number, at=block)
        return EpochState(
            number=number,
            root="0x" + root.hex(),
            active_at=active_at,
            period_end=period_end,
            total=MicroUSD(total),
            prev=prev,
            cancelled=cancelled,
        )

    async def finalized_epoch(self, number: int) -> EpochState:
        """One epoch at the newest finalized block; all zero where it is not there (yet)."""
        return await self.epoch(number, "finalized")

    async def finalized_nonce(self, sender: str) -> int:
        """How many transactions of that account are in finalized blocks: nonces below are used up for good."""
        with self._rpc.speaking("reading a nonce"):
            return int(await self._rpc.w3.eth.get_transaction_count(to_checksum_address(sender), "finalized"))

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """What became of a transaction; None while it is not in a block, which may also mean dropped."""
        with self._rpc.speaking("reading a receipt"):
            try:
                raw = await self._rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
            except TransactionNotFound:
                return None
        return read_receipt(raw, self._contract, self.escrow)

    # ---------------------------------------------------------------- writes

    async def prepare_post(self, plan: EpochPlan) -> SignedTx:
        """Simulate and sign an epoch without sending it, so that the bytes can be kept first."""
        return await self._signer().prepare("postEpoch", self.escrow, self._post_data(plan))

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or the same again; returns the transaction hash."""
        return await self._signer().broadcast(signed)

    async def post_epoch(self, plan: EpochPlan) -> str:
        """Post an epoch as the settler; returns the transaction hash."""
        return await self._signer().send("postEpoch", self.escrow, self._post_data(plan))

    async def cancel_epoch(self, number: int) -> str:
        """Stop the epoch in its window as the guardian; returns the transaction hash."""
        return await self._signer().send("cancelEpoch", self.escrow, self._contract.encode_abi("cancelEpoch", [number]))

    async def claim(self, epoch: int, claims: Sequence[Claim]) -> str:
        """Have the active epoch's leaves paid to their providers, whoever signs; returns the transaction hash."""
        return await self._signer().send("claim", self.escrow, self._claim_data(epoch, claims))

    async def prepare_claim(self, epoch: int, claims: Sequence[Claim]) -> SignedTx:
        """Simulate and sign a claim without sending it, so that the bytes can be kept first."""
        return await self._signer().prepare("claim", self.escrow, self._claim_data(epoch, claims))

    # ---------------------------------------------------------------- inside

    def _post_data(self, plan: EpochPlan) -> str:
        if (plan.chain_id, plan.escrow) != (self.chain_id, self.escrow):
            raise ChainMismatchError(f"the epoch is for {plan.escrow} on chain {plan.chain_id}, this is {self!r}")
        data: str = self._contract.encode_abi(
            "postEpoch",
            [
                plan.seq,
                HexStr(plan.prev_root),
                HexStr(plan.root),
                HexStr(plan.manifest_hash),
                plan.period_end,
                [(to_checksum_address(tenant), amount) for tenant, amount in plan.debits.items()],
            ],
        )
        return data

    def _claim_data(self, epoch: int, claims: Sequence[Claim]) -> str:
        credits_ = [
            (
                to_checksum_address(claim.provider),
                [(to_checksum_address(line.tenant), line.cumulative) for line in claim.lines],
                [HexStr(node) for node in claim.proof],
            )
            for claim in claims
        ]
        data: str = self._contract.encode_abi("claim", [epoch, credits_])
        return data

    def _signer(self) -> Sender:
        if self._sender is None:
            raise ConfigurationError("this client reads only: it was made without a signer key")
        return self._sender

    async def _read(self, name: str, *arguments: object, at: BlockIdentifier = "latest") -> Any:
        function: AsyncContractFunction = self._contract.functions[name](*arguments)
        with self._rpc.speaking(name):
            return await function.call(block_identifier=at)

    async def _read_many(self, name: str, rows: Sequence[tuple[str, ...]], at: BlockIdentifier) -> list[Any]:
        """Call a batch getter, whose arguments are the columns of `rows`, in pieces of BATCH."""
        answers = await asyncio.gather(
            *(self._read(name, *map(list, zip(*piece, strict=True)), at=at) for piece in _pieces(rows, BATCH))
        )
        return [row for answer in answers for row in answer]


def contract_at(rpc: Rpc, address: ChecksumAddress) -> AsyncContract:
    """The escrow's contract object on a connection."""
    contract: AsyncContract = rpc.w3.eth.contract(address=address, abi=cast("ABI", load("ComputeEscrow").abi))
    return contract


def _account(account: tuple[int, int, int, int, int], side: tuple[int, int, int, int]) -> AccountState:
    balance, allocated, pending, limit, _ = account
    withdraw_units, withdraw_at, new_limit, limit_at = side
    return AccountState(
        balance=MicroUSD(balance),
        allocated=MicroUSD(allocated),
        pending=MicroUSD(pending),
        limit=MicroUSD(limit),
        withdraw_units=MicroUSD(withdraw_units),
        withdraw_at=withdraw_at,
        new_limit=MicroUSD(new_limit),
        limit_at=limit_at,
    )


def _pieces(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
