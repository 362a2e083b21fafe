"""EIP-3009: a token's owner signs a transfer to the escrow, and anybody sends it; here it is worded and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from eth_account.messages import encode_typed_data
from eth_typing import HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3.types import TxParams

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.answers import AnswerError
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wordings import Meaning
from fedgpu_operator.errors import ChainError

Domain = dict[str, str | int]
"""An EIP-712 domain: values by the names of DOMAIN_TYPES, in their order."""
DOMAIN_TYPES: Final = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
"""EIP-712's fields of a domain, in its order."""
EIP_5267: Final = ("bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]")
"""What eip712Domain() answers: which fields there are, the five of them, extensions."""
WORD: Final = 32
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

    def typed(self, domain: Domain, owner: str) -> TypedMessage:
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
                "types": {name: _fields(each) for name, each in types.items()},
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


async def token_domain(rpc: Rpc, token: str) -> Domain:
    """The EIP-712 domain of a token, of which the token itself answers the separator.

    By its name and version ("1" for a token that answers no `version()`), or by what it answers to EIP-5267, with the
    chain's id as `chainId`, or in the salt as bridged tokens on Polygon have it. ChainError for a token whose
    DOMAIN_SEPARATOR() fits none of them: what is signed in another domain is worth nothing, so nothing is signed.
    """
    address = to_checksum_address(token)
    coin = calls.contract_at(rpc, address, "TestUSD")
    with rpc.speaking("reading the token's name"):
        name = str(await coin.functions.name().call())
        chain_id = await rpc.w3.eth.chain_id
    separator = await _answer(rpc, address, "DOMAIN_SEPARATOR()")
    if separator is None or len(separator) != WORD:
        raise ChainError(f"the token {address} answers no DOMAIN_SEPARATOR(): deposit with an approval instead")
    version = _text(await _answer(rpc, address, "version()") or b"") or "1"
    candidates = _domains(name, version, chain_id, address)
    described = _described(await _answer(rpc, address, "eip712Domain()") or b"")
    if described is not None:
        candidates += _domains(*described, chain_id, address)
    for domain in candidates:
        if separator_of(domain) == separator:
            return domain
    raise ChainError(
        f"the EIP-712 domain of the token {address} is none of those known: its DOMAIN_SEPARATOR() is "
        f"0x{separator.hex()}, which fits neither the chain's id {chain_id} nor the same as a salt, with name {name!r} "
        f"and version {version!r}. An authorization would be refused: deposit with an approval instead"
    )


def separator_of(domain: Domain) -> bytes:
    """The domain separator of EIP-712: the 32 bytes that a token answers to DOMAIN_SEPARATOR()."""
    types = {"EIP712Domain": _fields({name: DOMAIN_TYPES[name] for name in domain}), "Nothing": []}
    whole = {"types": types, "primaryType": "Nothing", "domain": dict(domain), "message": {}}
    return bytes(encode_typed_data(full_message=whole).header)


def _domains(name: str, version: str, chain_id: int, token: str) -> list[Domain]:
    """The two forms in which stablecoins bind what is signed to a chain."""
    named: Domain = {"name": name, "version": version}
    return [
        {**named, "chainId": chain_id, "verifyingContract": token},
        {**named, "verifyingContract": token, "salt": "0x" + chain_id.to_bytes(WORD, "big").hex()},
    ]


async def _answer(rpc: Rpc, token: str, function: str) -> bytes | None:
    """What a function without arguments answers; None from a token that does not have it."""
    call: TxParams = {"to": to_checksum_address(token), "data": HexStr("0x" + keccak(text=function)[:4].hex())}
    with rpc.speaking(f"reading the token's {function}"):
        try:
            return bytes(await rpc.w3.eth.call(call)) or None
        except AnswerError as error:
            if error.fault.meaning is not Meaning.REVERTED:
                raise
            return None


def _described(raw: bytes) -> tuple[str, str] | None:
    """Name and version in the answer of EIP-5267's eip712Domain(); None for anything else."""
    try:
        _, name, version, *_ = abi_decode(EIP_5267, raw)
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return None
    return str(name), str(version)


def _fields(types: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in types.items()]


def _text(raw: bytes) -> str:
    """An ABI-encoded string; empty for anything else."""
    try:
        (text,) = abi_decode(["string"], raw)
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return ""
    return str(text)
