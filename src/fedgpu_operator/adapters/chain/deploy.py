"""Puts an escrow, its providers' stake and the timelock over both on a chain, and says where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from eth_typing import ABI, ChecksumAddress
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain.calls import MULTICALL3, NOBODY, is_batch
from fedgpu_operator.adapters.chain.endpoint import Patience
from fedgpu_operator.adapters.chain.rpc import Addresses, block_at
from fedgpu_operator.adapters.chain.signers import Signer
from fedgpu_operator.adapters.chain.wallet import Outbox, Wallet
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.settlement import Deployment, SignedTx, TxReceipt
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError
from fedgpu_operator.settlement.solvency import MAX_PAUSE

PATIENCE_S: Final = 600.0
"""How long each contract may take to get into a block."""
POLL_S: Final = 0.1
"""For a test chain, which makes a block per transaction; commands ask about once a block."""
CODE_LOOKS: Final = 15
DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Roles:
    """Who holds what, as addresses. `owners` may propose and carry out changes of roles through the timelock."""

    settler: str
    meter: str
    arbiter: str
    guardian: str
    reserve: str
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Periods:
    """A deployment's periods in seconds, which nobody can change later; None is the least that the others allow."""

    challenge: int = DAY
    ruling: int = 3 * DAY
    exit_after: int = 7 * DAY
    longest_epoch: int = 7 * DAY
    notice: int | None = None
    unbonding: int | None = None
    lock: int = 14 * DAY
    timelock: int = 2 * DAY

    @property
    def least_notice(self) -> int:
        """The contract's own bound: an epoch, a re-post after a cancel, what can follow it, a pause, and a day."""
        after = max(self.exit_after, self.ruling)
        return self.longest_epoch + 2 * self.challenge + after + MAX_PAUSE + DAY

    @property
    def least_unbonding(self) -> int:
        """The stake's own bound: an epoch, its window, its disputes, and two days."""
        return self.longest_epoch + self.challenge + self.ruling + 2 * DAY


class Making(Outbox, Protocol):
    """The outbox of a deployment, which knows what was signed for it before."""

    def earlier(self, step: ContractName, data: str) -> SignedTx | None:
        """What was signed before for just that contract of this deployment; what `keep` gets next belongs to it."""
        ...

    def seen(self, receipt: TxReceipt) -> None:
        """A creation is in a block: by that block its chain is known from a copy."""
        ...


async def deploy(
    rpc_url: Addresses,
    signer: str | Signer,
    roles: Roles,
    periods: Periods | None = None,
    *,
    token: str | None = None,
    progress: Callable[[str], None] | None = None,
    chain_id: int | None = None,
) -> Deployment:
    """As `Deployer.deploy`, without a record: for the lab and tests."""
    async with Deployer(rpc_url, signer, chain_id=chain_id, progress=progress) as deployer:
        return await deployer.deploy(roles, periods, token=token)


class Deployer(Wallet):
    """Deploys the contracts with one key, which pays for it and keeps no right; `progress` is told each step.

    With `making` a deployment that ended in between is gone on with: a contract whose creation was signed before, with
    the same code and arguments, is waited for instead of paid again.
    """

    def __init__(
        self,
        rpc: Addresses,
        signer: str | Signer,
        timeout: float = 10.0,
        *,
        chain_id: int | None = None,
        making: Making | None = None,
        patience: Patience | None = None,
        progress: Callable[[str], None] | None = None,
        poll: float = POLL_S,
    ) -> None:
        super().__init__(rpc, signer, timeout, chain_id=chain_id, outbox=making, patience=patience)
        self._making = making
        self._progress = progress
        self._poll = poll

    async def deploy(
        self, roles: Roles, periods: Periods | None = None, *, token: str | None = None, since: int | None = None
    ) -> Deployment:
        """Deploy timelock, escrow, stake and, on a chain without Multicall3, the batch contract; each is waited for.

        Without `token` a TestUSD that anybody can mint is deployed first. `since` is a block before the first attempt,
        by default the newest. Raises ConfigurationError before anything is sent where roles or periods cannot work,
        RevertedError if a contract refuses.
        """
        when = periods or Periods()
        _refuse(roles, when)
        block = since if since is not None else await self.newest()
        with self._rpc.speaking("reading the chain id"):
            chain_id = await self._rpc.w3.eth.chain_id
        coin = to_checksum_address(token) if token else await self._contract("TestUSD")
        timelock = await self._contract("TimelockController", *_timelock(roles, when))
        escrow = await self._contract("ComputeEscrow", _escrow(coin, timelock, roles, when))
        stake = await self._contract("ProviderStake", _stake(escrow, timelock, roles, when))
        batch = MULTICALL3 if await is_batch(self._rpc, MULTICALL3) else await self._contract("Batch")
        return Deployment(
            chain_id=chain_id, token=coin, escrow=escrow, stake=stake, timelock=timelock, batch=batch, block=block
        )

    async def newest(self) -> int:
        """The number of the newest block."""
        return (await block_at(self._rpc, "latest")).number

    async def _contract(self, name: ContractName, *arguments: object) -> ChecksumAddress:
        """The address of a contract that is in a block; its address is told before its creation is sent."""
        factory = self._rpc.w3.eth.contract(abi=cast("ABI", load(name).abi), bytecode=load(name).bytecode)
        data = factory.constructor(*arguments).data_in_transaction
        signed = self._making.earlier(name, data) if self._making is not None else None
        if signed is None:
            signed = await self._signed(Call(None, data, what=f"deploying {name}"))
        address = created_at(signed)
        if await self.receipt(signed.tx_hash) is None:
            self._say(f"sending {name}, which will be at {address}")
            await self.deliver(signed)
        mined = await self.wait(signed.tx_hash, confirmations=1, patience=PATIENCE_S, poll=self._poll, signed=signed)
        if self._making is not None:
            self._making.seen(mined)
        code = await self._code(address)
        if not load(name).is_deployed_as(code):
            raise ChainMismatchError(f"{address} should hold {name}, and holds {len(code)} bytes of other code")
        self._say(f"{name} is at {address}")
        return address

    async def _code(self, address: ChecksumAddress) -> bytes:
        """What is there; empty only if it stays so: a node behind the one that showed the receipt has nothing yet."""
        for _ in range(CODE_LOOKS):
            with self._rpc.speaking("reading a contract"):
                code = bytes(await self._rpc.w3.eth.get_code(address))
            if code:
                return code
            await asyncio.sleep(self._poll)
        return b""

    def _say(self, step: str) -> None:
        if self._progress is not None:
            self._progress(step)


def created_at(signed: SignedTx) -> ChecksumAddress:
    """Where the contract is that a transaction creates: by its sender and nonce (yellow paper, CREATE and RLP)."""
    number = signed.nonce.to_bytes((signed.nonce.bit_length() + 7) // 8, "big")
    nonce = number if len(number) == 1 and number < b"\x80" else bytes([0x80 + len(number)]) + number
    fields = bytes([0x80 + 20]) + bytes.fromhex(signed.sender.removeprefix("0x")) + nonce
    return to_checksum_address(keccak(bytes([0xC0 + len(fields)]) + fields)[12:])


def _refuse(roles: Roles, periods: Periods) -> None:
    if not roles.owners:
        raise ConfigurationError("the timelock needs at least one owner, or roles could never be changed")
    if roles.settler.lower() == roles.meter.lower():
        raise ConfigurationError(f"settler and meter must be different keys, both are {roles.settler}")
    if periods.notice is not None and periods.notice < periods.least_notice:
        raise ConfigurationError(f"a notice of {periods.notice} s is too short: at least {periods.least_notice} s")
    if periods.unbonding is not None and periods.unbonding < periods.least_unbonding:
        raise ConfigurationError(
            f"an unbonding time of {periods.unbonding} s is too short: at least {periods.least_unbonding} s"
        )


def _timelock(roles: Roles, periods: Periods) -> tuple[object, ...]:
    owners = [to_checksum_address(owner) for owner in roles.owners]
    # No admin of its own: from the first block on its roles, too, change through the timelock alone.
    return periods.timelock, owners, owners, to_checksum_address(NOBODY)


def _escrow(token: ChecksumAddress, admin: ChecksumAddress, roles: Roles, periods: Periods) -> tuple[object, ...]:
    named = (roles.settler, roles.meter, roles.arbiter, roles.guardian, roles.reserve)
    notice = periods.notice if periods.notice is not None else periods.least_notice
    times = (periods.challenge, notice, periods.ruling, periods.exit_after, periods.longest_epoch)
    return (token, admin, *(to_checksum_address(each) for each in named), *times)


def _stake(escrow: ChecksumAddress, admin: ChecksumAddress, roles: Roles, periods: Periods) -> tuple[object, ...]:
    arbiter, reserve = to_checksum_address(roles.arbiter), to_checksum_address(roles.reserve)
    delay = periods.unbonding if periods.unbonding is not None else periods.least_unbonding
    return (escrow, admin, arbiter, arbiter, reserve, delay, periods.lock)
