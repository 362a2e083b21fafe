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

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, Hash32

from fedgpu_operator.errors import ConfigurationError

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

    Raises ChainUnreachableError where a service does not answer, ChainError where it will not sign.
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
            raise ConfigurationError(f"{path} is no {what} file: it is too large")
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"the {what} file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no {what} file: it is not text") from None


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
