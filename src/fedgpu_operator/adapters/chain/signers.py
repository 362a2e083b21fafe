"""Who signs: a key in this process, or a signing service that is trusted with a key and with nothing else.

Keys and passwords are in no text that leaves this module: not in a repr, a message, a log line or a cause.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, Hash32
from eth_utils.address import is_address, to_checksum_address
from hexbytes import HexBytes

from fedgpu_operator.adapters.chain.endpoint import authorities, why_silent
from fedgpu_operator.errors import ChainError, ChainUnreachableError, ConfigurationError
from fedgpu_operator.settlement.typeddata import normal_signature, signed_by

LARGEST_KEY_FILE: Final = 65_536
"""Bytes: a keystore has about 500."""
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


class Typed(Protocol):
    """An EIP-712 message, such as settlement.typeddata.TypedData."""

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        ...

    @property
    def payload(self) -> dict[str, object]:
        """The same as JSON for ``eth_signTypedData_v4``."""
        ...


class Signer(Protocol):
    """Signs for one address.

    Raises ChainUnreachableError if a service does not answer, ChainError if it will not sign.
    """

    @property
    def address(self) -> ChecksumAddress:
        """Whose signature it is."""
        ...

    async def sign_transaction(self, transaction: TransactionDictType) -> bytes:
        """The signed EIP-1559 transaction, ready to be broadcast."""
        ...

    async def sign_typed(self, data: Typed) -> bytes:
        """An EIP-712 signature: r, s and v in 65 bytes, v 27 or 28."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds."""
        ...


class LocalSigner:
    """A private key of 32 bytes in hex, held in this process; ConfigurationError for anything else."""

    def __init__(self, key: str) -> None:
        self._account = _account(key)

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    @property
    def address(self) -> ChecksumAddress:
        """The key's address."""
        return self._account.address

    async def sign_transaction(self, transaction: TransactionDictType) -> bytes:
        return bytes(self._account.sign_transaction(transaction).raw_transaction)

    async def sign_typed(self, data: Typed) -> bytes:
        return bytes(self._account.unsafe_sign_hash(Hash32(data.digest)).signature)

    async def aclose(self) -> None:
        return


async def load_key(path: Path, password_file: Path | None = None) -> LocalSigner:
    """A signer from a file: a key in hex or, with the file of its password, a go-ethereum keystore (JSON).

    A keystore takes about a second: it is slow to open on purpose. ConfigurationError says which file is wrong.
    """
    text = _read(path, "key")
    if password_file is None:
        if text.startswith("{"):
            raise ConfigurationError(f"{path} is a keystore: the file of its password is needed as well")
        return LocalSigner(text)
    password = _read(password_file, "password")
    try:
        keystore = json.loads(text)
    except ValueError:
        raise ConfigurationError(f"{path} is not a keystore: it holds no JSON") from None
    if not isinstance(keystore, Mapping) or "crypto" not in {str(name).lower() for name in keystore}:
        raise ConfigurationError(f"{path} is not a keystore: it has no part `crypto`")
    return LocalSigner(await asyncio.to_thread(_decrypt, keystore, password, path))


def _decrypt(keystore: Mapping[str, object], password: str, path: Path) -> str:
    try:
        return "0x" + bytes(Account.decrypt(dict(keystore), password)).hex()
    except Exception:  # noqa: BLE001 (whatever is wrong, neither key nor password must travel in a cause)
        raise ConfigurationError(f"{path} cannot be opened with the password given") from None


def _read(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > LARGEST_KEY_FILE:
            raise ConfigurationError(f"invalid {what} file {path}: more than {LARGEST_KEY_FILE} bytes")
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"the {what} file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"invalid {what} file {path}: not text") from None


def _account(key: str) -> LocalAccount:
    # eth_account fills up a hex string of odd length: a key that lost a digit would become another key.
    if _KEY.fullmatch(key):
        try:
            account: LocalAccount = Account.from_key(key)
        except Exception:  # noqa: BLE001, S110 (zero, or beyond the curve's order; its text must not travel in a cause)
            pass
        else:
            return account
    raise ConfigurationError("the signer key is not a private key of 32 bytes in hex")


QUANTITIES: Final = ("chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas", "value", "type")
LARGEST_ANSWER: Final = 2**20
"""Bytes: a transaction of 500 debits has 70,000 characters."""


class RemoteSigner:
    """The account `address` at the service at `url`; `timeout` is seconds per signature.

    `ca_file` holds further authorities that may sign its certificate; ConfigurationError if it holds none.

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
