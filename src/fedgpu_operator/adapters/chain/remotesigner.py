"""A signing service over HTTP, as web3signer's eth1 JSON-RPC: asked for a signature, and believed in nothing.

What comes back is checked to be the very transaction or statement that was asked for, signed by the very address.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress
from eth_utils.address import is_address, to_checksum_address
from hexbytes import HexBytes

from fedgpu_operator.adapters.chain.endpoint import authorities, why_silent
from fedgpu_operator.adapters.chain.signers import Typed
from fedgpu_operator.errors import ChainError, ChainUnreachableError, ConfigurationError
from fedgpu_operator.settlement.typeddata import normal_signature, signed_by

QUANTITIES: Final = ("chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas", "value", "type")
LARGEST_ANSWER: Final = 2**20
"""Bytes: a transaction of 500 debits has 70,000 characters."""


class RemoteSigner:
    """The account `address` at the service at `url`; `timeout` is seconds per signature.

    `ca_file` holds authorities that may sign its certificate beside the usual ones; ConfigurationError without any.

    Messages name the service's host alone: its address may carry a token.
    """

    def __init__(self, url: str, address: str, timeout: float = 10.0, *, ca_file: Path | None = None) -> None:
        if not is_address(address):
            raise ConfigurationError(f"the remote signer's account {address!r} is not an address")
        self._address: ChecksumAddress = to_checksum_address(address)
        self._url = url
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=authorities(ca_file))

    def __repr__(self) -> str:
        return f"RemoteSigner({self.address} at {self._host})"

    @property
    def address(self) -> ChecksumAddress:
        """The account that it signs for."""
        return self._address

    async def check(self) -> None:
        """ConfigurationError unless the service holds the account."""
        accounts = await self._ask("eth_accounts", [])
        if not isinstance(accounts, list) or self._address.lower() not in {str(each).lower() for each in accounts}:
            raise ConfigurationError(f"the signer at {self._host} does not hold {self._address}")

    async def sign_transaction(self, transaction: TransactionDictType) -> bytes:
        wanted: dict[str, object] = dict(transaction)
        asked = {name: hex(value) if isinstance(value, int) else value for name, value in wanted.items()}
        answer = await self._ask("eth_signTransaction", [asked | {"from": self._address}])
        try:
            raw = HexBytes(str(answer))
            signed = TypedTransaction.from_bytes(raw).as_dict()
            sender = Account.recover_transaction(raw)
        except Exception as error:  # noqa: BLE001 (decoders of foreign bytes raise all kinds)
            raise ChainError(f"the signer at {self._host} returned no transaction ({type(error).__name__})") from None
        if sender != self._address:
            raise ChainError(f"the signer at {self._host} signed as {sender}, not as {self._address}")
        for name in (*QUANTITIES, "to", "data"):
            if _plain(signed.get(name)) != _plain(wanted.get(name)):
                raise ChainError(f"the signer at {self._host} changed `{name}` of the transaction it was to sign")
        if signed.get("accessList"):
            raise ChainError(f"the signer at {self._host} changed `accessList` of the transaction it was to sign")
        return bytes(raw)

    async def sign_typed(self, data: Typed) -> bytes:
        # The payload goes as text: all versions of web3signer take that, newer ones an object too.
        answer = await self._ask("eth_signTypedData", [self._address, json.dumps(data.payload)])
        try:
            signature = normal_signature(str(answer))
        except ValueError:
            raise ChainError(f"the signer at {self._host} returned no signature") from None
        if not signed_by(self._address, data.digest, signature):
            raise ChainError(f"the signer at {self._host} returned a signature of something or somebody else")
        return bytes.fromhex(signature[2:])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, params: list[object]) -> object:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            response = await self._client.post(self._url, json=request)
            answer: object = response.raise_for_status().json() if len(response.content) <= LARGEST_ANSWER else None
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise ChainUnreachableError(f"the signer at {self._host} gives no answer ({why_silent(error)})") from None
        if not isinstance(answer, dict):
            raise ChainUnreachableError(f"the signer at {self._host} gives no answer (not JSON-RPC)")
        if (refusal := answer.get("error")) is not None:
            words = str(refusal.get("message", "")) if isinstance(refusal, dict) else ""
            raise ChainError(f"the signer at {self._host} refuses {method}: {words[:200]}")
        return answer.get("result")


def _plain(value: object) -> object:
    """One spelling of an address, of bytes and of "nobody"."""
    if isinstance(value, bytes):
        return value.hex() or None
    if isinstance(value, str):
        return value.removeprefix("0x").lower() or None
    return value
