"""A person's wallet at a chain: sends calls by its own hand and waits until they count; no operator holds such keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from web3.exceptions import TransactionNotFound

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.chainview import block_at
from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer
from fedgpu_operator.artifacts import ContractName
from fedgpu_operator.domain.settlement import TxReceipt
from fedgpu_operator.errors import ChainError, ChainUnreachableError, RevertedError

POLL_S: Final = 0.5
PATIENCE_S: Final = 1800.0
"""Two epochs of Ethereum are 13 minutes: finality takes that long on a good day."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How far a transaction is: `block` None while it is in none; it counts when `head` has reached `needed`.

    `head` is the newest block of the kind that is waited for: finalized, or any.
    """

    tx_hash: str
    block: int | None
    head: int
    needed: int | None

    @property
    def done(self) -> bool:
        """Whether it counts."""
        return self.needed is not None and self.head >= self.needed


class Wallet:
    """One signer on one connection; `signer` may be a private key in hex, `chain_id` guards against a wrong chain.

    Every call returns a transaction hash at once; `wait` waits for it. A call that builds on another, such as a
    deposit on its approval, needs the other in a block first. Raises the ChainError tree.
    """

    def __init__(
        self,
        rpc: Addresses,
        signer: str | Signer,
        timeout: float = 10.0,
        *,
        chain_id: int | None = None,
        quorum: int | None = None,
    ) -> None:
        holder = LocalSigner(signer) if isinstance(signer, str) else signer
        self._rpc = Rpc(rpc, timeout=timeout, chain_id=chain_id, quorum=quorum)
        self._sender = Sender(self._rpc, holder, chain_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address} by {self._rpc!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, the signer's too."""
        await self._rpc.aclose()
        await self._sender.signer.aclose()

    @property
    def address(self) -> ChecksumAddress:
        """The wallet's address."""
        return self._sender.address

    async def coins(self) -> int:
        """What it has for gas, in wei, at the newest block."""
        with self._rpc.speaking("reading a balance"):
            return await self._rpc.w3.eth.get_balance(self.address)

    async def tokens(self, token: str) -> int:
        """What it has of a token, in the token's own base units, at the newest block."""
        return await self._figure(token, "balanceOf", self.address, name="TestUSD")

    async def wait(
        self,
        tx_hash: str,
        *,
        confirmations: int | None = None,
        progress: Callable[[Waiting], None] | None = None,
        patience: float = PATIENCE_S,
        poll: float = POLL_S,
    ) -> TxReceipt:
        """Wait until a transaction is finalized or, with `confirmations`, until it has so many blocks (1: its own).

        `progress` is told how far it is, whenever that has changed. Endpoints that do not answer are asked again.
        RevertedError where it counts and has failed, ChainError where it does not count after `patience` seconds.
        """
        seen: Waiting | None = None
        silence = ""
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        now, receipt = await self._look(tx_hash, confirmations)
                    except ChainUnreachableError as error:
                        silence = f" ({error})"
                    else:
                        silence = ""
                        if progress is not None and now != seen:
                            progress(now)
                        seen = now
                        if receipt is not None and now.done:
                            return self._succeeded(receipt)
                    await asyncio.sleep(poll)
        except TimeoutError:
            where = "in no block" if seen is None or seen.block is None else f"in block {seen.block}, not final"
            raise ChainError(f"{tx_hash} is {where} after {patience:.0f} s{silence}") from None

    async def _look(self, tx_hash: str, confirmations: int | None) -> tuple[Waiting, TxReceipt | None]:
        head = (await block_at(self._rpc, "finalized" if confirmations is None else "latest")).number
        with self._rpc.speaking("reading a receipt"):
            try:
                raw = await self._rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
            except TransactionNotFound:
                return Waiting(tx_hash, None, head, None), None
            receipt = TxReceipt(
                tx_hash=tx_hash,
                block_number=raw["blockNumber"],
                block_hash=raw["blockHash"].to_0x_hex(),
                succeeded=raw["status"] == 1,
                gas_used=raw["gasUsed"],
                gas_price=raw.get("effectiveGasPrice", 0),
            )
        needed = receipt.block_number + (0 if confirmations is None else confirmations - 1)
        return Waiting(tx_hash, receipt.block_number, head, needed), receipt

    def _succeeded(self, receipt: TxReceipt) -> TxReceipt:
        if not receipt.succeeded:
            raise RevertedError(f"{receipt.tx_hash} was refused in block {receipt.block_number}")
        return receipt

    async def _send(self, to: str, function: str, *arguments: object, name: ContractName = "ComputeEscrow") -> str:
        return await self._sender.send(calls.encode(to, function, arguments, name))

    async def _figure(self, to: str, function: str, *arguments: object, name: ContractName = "ComputeEscrow") -> int:
        """A whole number that a getter returns at the newest block."""
        contract = calls.contract_at(self._rpc, to_checksum_address(to), name)
        with self._rpc.speaking(function):
            said: int = await contract.functions[function](*arguments).call()
        return said
