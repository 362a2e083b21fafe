"""EIP-3009: a token's owner signs a transfer to the escrow, and anybody sends it; here it is worded and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eth_account.messages import encode_typed_data
from eth_typing import HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3.types import TxParams

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.answers import AnswerError
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wordings import Meaning

DOMAIN_TYPES: Final = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}
PRIMARY: Final = "ReceiveWithAuthorization"
FIELDS: Final = {
    "from": "address",
    "to": "address",
    "value": "uint256",
    "validAfter": "uint256",
    "validBefore": "uint256",
    "nonce": "bytes32",
}
"""EIP-3009's type string, in its order."""


@dataclass(frozen=True, slots=True)
class TypedMessage:
    """An EIP-712 message in a domain of somebody else's."""

    payload: dict[str, object]

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        message = encode_typed_data(full_message=self.payload)
        return keccak(b"\x19" + message.version + message.header + message.body)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What is signed away: `amount` base units of the token to `to`, between two Unix times, `nonce` of 32 bytes.

    The nonce is any that the owner has not used at the token.
    """

    to: str
    amount: int
    valid_after: int
    valid_before: int
    nonce: str

    def typed(self, domain: Mapping[str, str | int], owner: str) -> TypedMessage:
        """The message that `owner` signs."""
        types = {"EIP712Domain": {name: DOMAIN_TYPES[name] for name in domain}, PRIMARY: FIELDS}
        message: dict[str, str | int] = {
            "from": to_checksum_address(owner),
            "to": to_checksum_address(self.to),
            "value": self.amount,
            "validAfter": self.valid_after,
            "validBefore": self.valid_before,
            "nonce": self.nonce,
        }
        return TypedMessage(
            {
                "types": {name: [{"name": n, "type": t} for n, t in each.items()] for name, each in types.items()},
                "primaryType": PRIMARY,
                "domain": dict(domain),
                "message": message,
            }
        )


@dataclass(frozen=True, slots=True)
class Authorization:
    """A signed transfer: worth its amount to the escrow alone, and only as a deposit for `owner`."""

    owner: str
    transfer: Transfer
    signature: bytes


async def token_domain(rpc: Rpc, token: str) -> dict[str, str | int]:
    """The EIP-712 domain of a token: by its name, and its version where it tells one (USDC: "2"), else "1"."""
    address = to_checksum_address(token)
    coin = calls.contract_at(rpc, address, "TestUSD")
    with rpc.speaking("reading the token's name"):
        name = str(await coin.functions.name().call())
        chain_id = await rpc.w3.eth.chain_id
    call: TxParams = {"to": address, "data": HexStr("0x" + keccak(text="version()")[:4].hex())}
    with rpc.speaking("reading the token's version"):
        try:
            version = _text(bytes(await rpc.w3.eth.call(call)))
        except AnswerError as error:
            if error.fault.meaning is not Meaning.REVERTED:
                raise
            version = "1"
    return {"name": name, "version": version or "1", "chainId": chain_id, "verifyingContract": address}


def _text(raw: bytes) -> str:
    """An ABI-encoded string; empty for anything else."""
    if len(raw) < 64:
        return ""
    length = int.from_bytes(raw[32:64], "big")
    return raw[64 : 64 + length].decode("utf-8", errors="replace") if length <= len(raw) - 64 else ""
