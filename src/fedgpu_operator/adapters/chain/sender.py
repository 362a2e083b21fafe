"""Simulates, signs and sends for one signer; the caller names nonce and fees, and nothing waits here."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3.types import TxParams

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.rpc import Rpc, fees_asked, next_nonce
from fedgpu_operator.adapters.chain.signers import Signer
from fedgpu_operator.domain.settlement import SignedTx
from fedgpu_operator.domain.transactions import Call, Fees
from fedgpu_operator.errors import ChainError
from fedgpu_operator.ports import LeaderCheck, always
from fedgpu_operator.settlement import GAS_MARGIN
from fedgpu_operator.settlement.fees import BASE_FEE_ROOM

TRANSFER_GAS = 21_000
"""What a transaction without data costs (yellow paper, G_transaction)."""


class Sender:
    """One signer on one connection; `chain_id` None asks the endpoints which chain they serve.

    Nothing is signed or sent unless `leads` lets it.
    """

    def __init__(self, rpc: Rpc, signer: Signer, chain_id: int | None = None, leads: LeaderCheck = always) -> None:
        self._rpc = rpc
        self.signer = signer
        self._chain_id = chain_id
        self._leads = leads
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Sender({self.address})"

    @property
    def address(self) -> ChecksumAddress:
        """The signer's address."""
        return self.signer.address

    async def simulate(self, call: Call) -> int:
        """The gas limit to give the call; RevertedError with the decoded reason if the contract would refuse.

        A bundle is refused if every call in it would fail.
        """
        if calls.is_bundle(call):
            return await calls.simulate_bundle(self._rpc, self.address, call, self._estimated)
        return await self._estimated(call)

    async def _estimated(self, call: Call) -> int:
        asked: TxParams = {"from": self.address, "data": HexStr(call.data)}
        if call.to is not None:
            asked["to"] = to_checksum_address(call.to)
        with self._rpc.speaking(call.what or "simulating a call"):
            gas = await self._rpc.w3.eth.estimate_gas(asked)
        return int(gas * GAS_MARGIN)

    async def sign(self, call: Call, nonce: int, fees: Fees) -> SignedTx:
        """Sign a simulated call; sends nothing. ChainError if its gas is not known."""
        if call.gas < TRANSFER_GAS:
            raise ChainError(
                f"{call.what or 'a call'}: a gas limit of {call.gas} is too low, it must be simulated first"
            )
        transaction: TransactionDictType = {
            "type": 2,
            "chainId": await self._chain(),
            "nonce": nonce,
            "gas": call.gas,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.tip,
            "value": 0,
            "data": HexStr(call.data),
        }
        if call.to is not None:
            transaction["to"] = to_checksum_address(call.to)
        self._leads()
        raw = await self.signer.sign_transaction(transaction)
        return SignedTx(
            tx_hash="0x" + keccak(raw).hex(),
            raw=raw,
            sender=self.address,
            nonce=nonce,
            max_fee=fees.max_fee,
            tip=fees.tip,
        )

    async def self_transfer(self, nonce: int, fees: Fees) -> SignedTx:
        """Sign nothing to itself, which uses up a nonce that something else holds; sends nothing."""
        return await self.sign(Call(self.address, "0x", TRANSFER_GAS, "freeing a nonce"), nonce, fees)

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or send them again, to every endpoint; returns their hash immediately.

        Success if any endpoint takes them or has them, unless a quorum refuses them for one reason. NotTakenError
        if a quorum refuses, not `certain` unless all do; ChainUnreachableError if too few answered, which may
        mean that they are on their way all the same.
        """
        self._leads()
        with self._rpc.speaking("sending a transaction"):
            await self._rpc.w3.eth.send_raw_transaction(signed.raw)
        return signed.tx_hash

    async def prepare(self, call: Call, nonce: int | None = None) -> SignedTx:
        """Simulate and sign for that nonce, by default the next one with what waits in pools counted; sends nothing.

        The fees are what the chain asks now. By default the next must be prepared after this one was sent.
        """
        gas, view = await asyncio.gather(self.simulate(call), fees_asked(self._rpc))
        at = nonce if nonce is not None else await next_nonce(self._rpc, self.address)
        fees = Fees(max_fee=BASE_FEE_ROOM * view.base_fee + view.tip, tip=view.tip)
        return await self.sign(replace(call, gas=gas), at, fees)

    async def send(self, call: Call) -> str:
        """Prepare and broadcast; concurrent calls take their turn. Returns the transaction hash immediately."""
        async with self._lock:
            return await self.broadcast(await self.prepare(call))

    async def _chain(self) -> int:
        if self._chain_id is None:
            with self._rpc.speaking("reading the chain id"):
                self._chain_id = await self._rpc.w3.eth.chain_id
        return self._chain_id
