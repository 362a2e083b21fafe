"""Signs and sends for one key: simulated first, EIP-1559 fees, nonces in order; it never waits for a block."""

from __future__ import annotations

import asyncio

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, HexStr
from web3.types import TxParams

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.domain.settlement import SignedTx
from fedgpu_operator.errors import ChainError, ConfigurationError

GAS_MARGIN = (5, 4)
"""Estimates are taken times 5/4: state may have moved by the time the transaction is mined."""

KNOWN = ("already known", "already imported", "known transaction")
"""How nodes say that they have these very bytes already (geth, anvil, others)."""


class Sender:
    """The one sender of a key. Two of them for the same key would hand out the same nonce twice."""

    def __init__(self, rpc: Rpc, key: str) -> None:
        self._rpc = rpc
        self._account = _account(key)
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Sender({self.address})"

    @property
    def address(self) -> ChecksumAddress:
        """The key's address."""
        return self._account.address

    async def prepare(self, what: str, to: ChecksumAddress | None, data: str) -> SignedTx:
        """Simulate and sign, send nothing; `to` None creates a contract.

        RevertedError with the decoded reason where the contract would refuse. The nonce is the next one pending, so
        what was prepared must be sent before the next is prepared.
        """
        w3 = self._rpc.w3
        call: TxParams = {"from": self.address, "data": HexStr(data)}
        if to is not None:
            call["to"] = to
        with self._rpc.speaking(what):
            gas, chain_id, nonce, tip, head = await asyncio.gather(
                w3.eth.estimate_gas(call),
                w3.eth.chain_id,
                w3.eth.get_transaction_count(self.address, "pending"),
                w3.eth.max_priority_fee,
                w3.eth.get_block("latest"),
            )
        fee = 2 * head["baseFeePerGas"] + tip
        unsigned: TransactionDictType = {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "gas": gas * GAS_MARGIN[0] // GAS_MARGIN[1],
            "maxFeePerGas": fee,
            "maxPriorityFeePerGas": tip,
            "value": 0,
            "data": HexStr(data),
        }
        if to is not None:
            unsigned["to"] = to
        signed = self._account.sign_transaction(unsigned)
        return SignedTx(
            tx_hash="0x" + signed.hash.hex().removeprefix("0x"),
            raw=bytes(signed.raw_transaction),
            sender=self.address,
            nonce=nonce,
        )

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or send them again; returns their hash at once."""
        try:
            with self._rpc.speaking("sending a transaction"):
                await self._rpc.w3.eth.send_raw_transaction(signed.raw)
        except ChainError as error:
            if not any(word in str(error).lower() for word in KNOWN):
                raise
        return signed.tx_hash

    async def send(self, what: str, to: ChecksumAddress | None, data: str) -> str:
        """Prepare and broadcast; concurrent calls take their turn."""
        async with self._lock:
            return await self.broadcast(await self.prepare(what, to, data))


def _account(key: str) -> LocalAccount:
    try:
        account: LocalAccount = Account.from_key(key)
    except Exception:  # noqa: BLE001 (whatever is wrong with a key, its text must not travel in a cause)
        raise ConfigurationError("the signer key is not a private key of 32 bytes in hex") from None
    return account
