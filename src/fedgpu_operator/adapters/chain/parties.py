"""What a tenant and a provider do on chain by their own hand, and the transfers that a tenant signs away (EIP-3009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from fedgpu_operator.adapters.chain.errors import AnswerError
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.wallet import Wallet
from fedgpu_operator.adapters.chain.wordings import Meaning
from fedgpu_operator.domain.settlement import ZERO_HASH, Claim, Receipt
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


class TenantWallet(Wallet):
    """One tenant's key on a chain. Amounts are µUSD or, where said, base units of the token."""

    # ---------------------------------------------------------------- the token

    async def mint(self, token: str, amount: int) -> str:
        """Make `amount` base units of the test token for itself; no real token allows it."""
        return await self._send(token, "mint", self.address, amount, name="TestUSD")

    async def allowance(self, token: str, escrow: str) -> int:
        """How many base units of the token the escrow may take now."""
        return await self._figure(token, "allowance", self.address, to_checksum_address(escrow), name="TestUSD")

    # ---------------------------------------------------------------- the account

    async def deposit(self, escrow: str, units: int) -> str:
        """Put `units` µUSD on its own account; needs an approval in a block."""
        return await self._send(escrow, "deposit", self.address, units)

    async def authorize(self, token: str, transfer: Transfer) -> Authorization:
        """Sign away `transfer.amount` base units to the escrow (EIP-3009); no approval and no gas are needed."""
        domain = await token_domain(self._rpc, token)
        typed = transfer.typed(domain, self.address)
        return Authorization(self.address, transfer, await self._sender.signer.sign_typed(typed))

    async def authorization_used(self, token: str, nonce: str) -> bool:
        """Whether a transfer that it signed with that nonce was made or cancelled, whoever sent it (EIP-3009)."""
        return bool(await self._figure(token, "authorizationState", self.address, HexStr(nonce), name="TestUSD"))

    async def deposit_with_authorization(self, escrow: str, units: int, authorization: Authorization) -> str:
        """Put `units` µUSD on the account of who signed the authorization, whoever sends it."""
        transfer = authorization.transfer
        window = (transfer.valid_after, transfer.valid_before, transfer.nonce)
        signed = (*window, authorization.signature)
        return await self._send(escrow, "depositWithAuthorization", authorization.owner, units, *signed)

    async def set_spend_limit(self, escrow: str, limit: int) -> str:
        """Let one epoch debit up to `limit` µUSD: more immediately, less after the notice."""
        return await self._send(escrow, "setSpendLimit", limit)

    async def apply_spend_limit(self, escrow: str) -> str:
        """Put the announced lower limit into force, once the notice is over."""
        return await self._send(escrow, "applySpendLimit")

    async def request_withdraw(self, escrow: str, units: int) -> str:
        """Announce a withdrawal of up to `units` µUSD; 0 takes the announcement back."""
        return await self._send(escrow, "requestWithdraw", units)

    async def withdraw(self, escrow: str, to: str | None = None) -> str:
        """Take the announced amount out, to its own address or to another, once the notice is over."""
        return await self._send(escrow, "withdraw", to_checksum_address(to or self.address))

    # ---------------------------------------------------------------- disputes

    async def bond_for(self, escrow: str, amount: int) -> int:
        """The µUSD that disputing `amount` takes from the wallet; to be approved before."""
        return await self._figure(escrow, "bondFor", amount)

    async def dispute(self, escrow: str, leaf: Claim, amount: int, evidence: str = ZERO_HASH) -> str:
        """Hold back `amount` µUSD of its line in a leaf of the epoch that is in its window.

        ValueError if the leaf has no line of this tenant.
        """
        index = [line.tenant for line in leaf.lines].index(self.address)
        return await self._dispatch(calls.dispute(escrow, leaf.provider, amount, evidence, leaf, index))

    async def dispute_debit(self, escrow: str, amount: int, evidence: str = ZERO_HASH) -> str:
        """Hold back `amount` µUSD of its debit that no published line explains."""
        return await self._dispatch(calls.dispute(escrow, calls.NOBODY, amount, evidence, None, 0))

    async def close(self, escrow: str, epoch: int, tenant: str, provider: str = calls.NOBODY) -> str:
        """End a dispute that is decided, past its deadline, or of a cancelled epoch; anybody may."""
        return await self._dispatch(calls.of_dispute(escrow, "close", epoch, tenant, provider))

    async def dispute_exit(self, escrow: str, provider: str, evidence: str = ZERO_HASH) -> str:
        """Ask for a ruling on a provider's exit with a receipt of this tenant; takes a bond."""
        return await self._dispatch(calls.dispute_exit(escrow, provider, evidence))


class ProviderWallet(Wallet):
    """One provider's key on a chain; `escrow` and `stake` are addresses, amounts µUSD."""

    async def set_provider(self, escrow: str, payee: str | None = None, signer: str | None = None) -> str:
        """Name the wallet to be paid to and the key that signs receipts; None is this address. They must differ."""
        named = [to_checksum_address(each or calls.NOBODY) for each in (payee, signer)]
        return await self._send(escrow, "setProvider", *named)

    async def owed(self, escrow: str) -> int:
        """What it can collect, at the newest block."""
        return await self._figure(escrow, "owed", self.address)

    async def claim(self, escrow: str, epoch: int, claims: Sequence[Claim]) -> str:
        """Have leaves of the active epoch paid to their providers; anybody may."""
        return await self._dispatch(calls.claim(escrow, epoch, claims))

    async def exit(
        self, escrow: str, receipt: Receipt, meter: str, meter_signature: bytes, provider_signature: bytes
    ) -> str:
        """Begin to take what a receipt of both signatures shows, without any settler."""
        call = calls.exit_with(escrow, receipt, meter, meter_signature, provider_signature)
        return await self._dispatch(call)

    async def finish_exit(self, escrow: str, tenant: str, provider: str | None = None) -> str:
        """Have an exit paid out, its own or another's, once its time is over."""
        pair = [to_checksum_address(each) for each in (tenant, provider or self.address)]
        return await self._send(escrow, "finishExit", *pair)

    async def bond(self, stake: str, units: int) -> str:
        """Add to its stake; needs an approval of the stake contract in a block."""
        return await self._send(stake, "bond", self.address, units, name="ProviderStake")

    async def unbond(self, stake: str, units: int) -> str:
        """Begin to take stake out."""
        return await self._send(stake, "unbond", units, name="ProviderStake")

    async def withdraw_stake(self, stake: str, to: str | None = None) -> str:
        """Take out what was on its way, once delay and locks are over."""
        return await self._send(stake, "withdraw", to_checksum_address(to or self.address), name="ProviderStake")
