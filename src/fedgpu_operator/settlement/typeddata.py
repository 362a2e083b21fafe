"""What wallets, providers and the meter sign, as EIP-712 typed data: digests and recovery; no keys and no IO.

All types here are flat, so a struct's hash is ``keccak(typeHash ‖ one word per field)`` and nothing is recursive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from fedgpu_operator.domain.settlement import Receipt

HUB_NAME: Final = "fedgpu"
"""Domain of what the operator verifies: proofs of wallets and usage records."""
ESCROW_NAME: Final = "fedgpu ComputeEscrow"
"""Domain of what the contract verifies: receipts. ComputeEscrow.sol names itself so."""
VERSION: Final = "1"
NO_ADDRESS: Final = "0x" + "00" * 20

Fields = tuple[tuple[str, str], ...]
"""(type, name) of each field, in the order in which they are signed."""

DOMAIN_FIELDS: Final[Fields] = (
    ("string", "name"),
    ("string", "version"),
    ("uint256", "chainId"),
    ("address", "verifyingContract"),
)
ACCOUNT_PROOF: Final[Fields] = (
    ("string", "hub"),
    ("string", "namespace"),
    ("address", "wallet"),
    ("uint64", "issuedAt"),
)
PROVIDER_PROOF: Final[Fields] = (
    ("string", "hub"),
    ("string", "provider"),
    ("address", "payout"),
    ("address", "signer"),
    ("uint64", "issuedAt"),
)
USAGE_RECORD: Final[Fields] = (
    ("string", "lease"),
    ("uint64", "sequence"),
    ("uint64", "gpuSeconds"),
    ("uint64", "observedAt"),
    ("bytes32", "usageHash"),
)
RECEIPT: Final[Fields] = (
    ("address", "tenant"),
    ("address", "provider"),
    ("uint64", "cumulative"),
    ("uint40", "periodEnd"),
    ("bytes32", "usageRoot"),
)

_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Half the order of secp256k1 (SEC 2): a larger s is the same signature written a second way, and refused."""


@dataclass(frozen=True, slots=True)
class SigningDomain:
    """What keeps a signature from counting on another chain, at another escrow or for another purpose."""

    name: str
    chain_id: int
    contract: str

    @property
    def values(self) -> dict[str, str | int]:
        """By field name, as DOMAIN_FIELDS has them."""
        return {
            "name": self.name,
            "version": VERSION,
            "chainId": self.chain_id,
            "verifyingContract": to_checksum_address(self.contract),
        }


@dataclass(frozen=True, slots=True)
class TypedData:
    """One message to sign; addresses and bytes are ``0x…`` strings, times Unix seconds, money µUSD."""

    domain: SigningDomain
    primary: str
    fields: Fields
    message: Mapping[str, str | int]

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed: ``keccak(0x1901 ‖ domain separator ‖ struct hash)``.

        Raises ValueError for a value that does not fit its field.
        """
        return keccak(b"\x19\x01" + _separator(self.domain) + _struct(self.primary, self.fields, self.message))

    @property
    def payload(self) -> dict[str, object]:
        """The same as JSON for ``eth_signTypedData_v4``, which wallets show field by field before they sign."""
        types = {"EIP712Domain": DOMAIN_FIELDS, self.primary: self.fields}
        return {
            "types": {name: [{"name": n, "type": t} for t, n in fields] for name, fields in types.items()},
            "primaryType": self.primary,
            "domain": self.domain.values,
            "message": dict(self.message),
        }


def hub_domain(chain_id: int, escrow: str) -> SigningDomain:
    """For proofs and usage records: what the operator of that escrow verifies."""
    return SigningDomain(HUB_NAME, chain_id, escrow)


def escrow_domain(chain_id: int, escrow: str) -> SigningDomain:
    """For receipts: what the contract itself verifies."""
    return SigningDomain(ESCROW_NAME, chain_id, escrow)


def account_proof(domain: SigningDomain, *, hub: str, namespace: str, wallet: str, issued_at: int) -> TypedData:
    """The wallet lets that namespace of that hub (UID of its kube-system) spend its escrow."""
    message: dict[str, str | int] = {
        "hub": hub,
        "namespace": namespace,
        "wallet": _checksum(wallet),
        "issuedAt": issued_at,
    }
    return TypedData(domain, "AccountProof", ACCOUNT_PROOF, message)


def provider_proof(
    domain: SigningDomain, *, hub: str, provider: str, payout: str, signer: str | None, issued_at: int
) -> TypedData:
    """The payout wallet lets that provider of that hub name it, with that receipt signer (None: no signer yet)."""
    message: dict[str, str | int] = {
        "hub": hub,
        "provider": provider,
        "payout": _checksum(payout),
        "signer": _checksum(signer or NO_ADDRESS),
        "issuedAt": issued_at,
    }
    return TypedData(domain, "ProviderProof", PROVIDER_PROOF, message)


def usage_record(
    domain: SigningDomain, *, lease: str, sequence: int, gpu_seconds: int, observed_at: int, usage_hash: str
) -> TypedData:
    """The provider's cumulative usage of one lease; `usage_hash` is of the detail behind the figure."""
    message: dict[str, str | int] = {
        "lease": lease,
        "sequence": sequence,
        "gpuSeconds": gpu_seconds,
        "observedAt": observed_at,
        "usageHash": usage_hash,
    }
    return TypedData(domain, "UsageRecord", USAGE_RECORD, message)


def receipt(domain: SigningDomain, of: Receipt) -> TypedData:
    """A receipt as the provider's signer and the meter sign it, and as ComputeEscrow.receiptDigest hashes it."""
    message: dict[str, str | int] = {
        "tenant": _checksum(of.tenant),
        "provider": _checksum(of.provider),
        "cumulative": of.cumulative,
        "periodEnd": of.period_end,
        "usageRoot": of.usage_root,
    }
    return TypedData(domain, "Receipt", RECEIPT, message)


def recover(digest: bytes, signature: bytes | str) -> str:
    """Address (EIP-55) of the account whose key made this signature of 65 bytes: r, s, v with v 27 or 28.

    As strict as the contract's ECDSA, so that both always agree. Raises ValueError for anything that no key signed.
    """
    raw = _raw(signature)
    if len(raw) != 65:
        raise ValueError(f"a signature of an ordinary account has 65 bytes, this one {len(raw)}")
    if raw[64] not in (27, 28):
        raise ValueError(f"the last byte of a signature is 27 or 28, this one {raw[64]}")
    if int.from_bytes(raw[32:64], "big") > _HALF_ORDER:
        raise ValueError("the signature's s is in the upper half: the same signature has a second, accepted form")
    try:
        parsed = Signature(signature_bytes=raw[:64] + bytes([raw[64] - 27]))
        return str(parsed.recover_public_key_from_msg_hash(digest).to_checksum_address())
    except (BadSignature, ValidationError) as error:
        raise ValueError(f"no key can have made this signature: {error}") from error


def signed_by(address: str, digest: bytes, signature: bytes | str) -> bool:
    """Whether the key of that ordinary account signed; unreadable signatures are signed by nobody."""
    try:
        return recover(digest, signature) == to_checksum_address(address)
    except ValueError:
        return False


def normal_signature(signature: bytes | str) -> str:
    """The one form in which signatures are kept: lower-case hex, v as 27 or 28 where a wallet gave 0 or 1.

    Raises ValueError for what is no hex. Longer signatures of contract accounts stay as they are.
    """
    raw = _raw(signature)
    if len(raw) == 65 and raw[64] in (0, 1):
        raw = raw[:64] + bytes([raw[64] + 27])
    return "0x" + raw.hex()


def _raw(signature: bytes | str) -> bytes:
    if isinstance(signature, bytes):
        return signature
    try:
        return bytes.fromhex(signature.removeprefix("0x"))
    except ValueError as error:
        raise ValueError("a signature is written in hex digits") from error


def _checksum(address: str) -> str:
    return str(to_checksum_address(address))


@lru_cache(maxsize=64)
def _separator(domain: SigningDomain) -> bytes:
    return _struct("EIP712Domain", DOMAIN_FIELDS, domain.values)


@lru_cache(maxsize=64)
def _type_hash(primary: str, fields: Fields) -> bytes:
    return keccak(text=f"{primary}({','.join(f'{type_} {name}' for type_, name in fields)})")


def _struct(primary: str, fields: Fields, values: Mapping[str, str | int]) -> bytes:
    words = (_word(type_, name, values[name]) for type_, name in fields)
    return keccak(_type_hash(primary, fields) + b"".join(words))


def _word(type_: str, name: str, value: str | int) -> bytes:
    if isinstance(value, int):
        if not type_.startswith("uint") or not 0 <= value < 1 << int(type_[4:]):
            raise ValueError(f"{name}: {value} is no {type_}")
        return value.to_bytes(32, "big")
    if type_ == "string":
        return keccak(text=value)
    size = {"address": 20, "bytes32": 32}.get(type_)
    raw = bytes.fromhex(value.removeprefix("0x"))
    if len(raw) != size:
        raise ValueError(f"{name}: {value!r} is no {type_}")
    return raw.rjust(32, b"\0")
