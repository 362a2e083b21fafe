"""Puts an escrow, its providers' stake and the timelock over both on a chain, and says where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from eth_typing import ABI, ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from web3.exceptions import TransactionNotFound

from fedgpu_operator.adapters.chain.bundles import MULTICALL3, is_batch
from fedgpu_operator.adapters.chain.calls import NOBODY
from fedgpu_operator.adapters.chain.chainview import block_at
from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainError, ConfigurationError, RevertedError

PATIENCE_S: Final = 600.0
"""How long each contract may take to get into a block."""
POLL_S: Final = 0.1
DAY: Final = 86_400
MAX_PAUSE: Final = 3 * DAY
"""ComputeEscrow's own."""


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
    """Deploy timelock, escrow, stake and, on a chain without Multicall3, the batch contract; each is waited for.

    `signer` pays for it and keeps no right. Without `token` a TestUSD that anybody can mint is deployed first.
    `progress` is told each step. Raises ConfigurationError before anything is sent where roles or periods cannot
    work, RevertedError where a contract refuses.
    """
    when = periods or Periods()
    _refuse(roles, when)
    holder = LocalSigner(signer) if isinstance(signer, str) else signer
    async with Rpc(rpc_url, chain_id=chain_id) as rpc:
        makes = _Maker(rpc, Sender(rpc, holder, chain_id), progress)
        block = (await block_at(rpc, "latest")).number
        with rpc.speaking("reading the chain id"):
            found = await rpc.w3.eth.chain_id
        coin = to_checksum_address(token) if token else await makes.contract("TestUSD")
        timelock = await makes.contract("TimelockController", *_timelock(roles, when))
        escrow = await makes.contract("ComputeEscrow", _escrow(coin, timelock, roles, when))
        stake = await makes.contract("ProviderStake", _stake(escrow, timelock, roles, when))
        batch = MULTICALL3 if await is_batch(rpc, MULTICALL3) else await makes.contract("Batch")
    return Deployment(
        chain_id=found, token=coin, escrow=escrow, stake=stake, timelock=timelock, batch=batch, block=block
    )


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


class _Maker:
    def __init__(self, rpc: Rpc, sender: Sender, progress: Callable[[str], None] | None) -> None:
        self._rpc = rpc
        self._sender = sender
        self._progress = progress

    async def contract(self, name: ContractName, *arguments: object) -> ChecksumAddress:
        artifact = load(name)
        factory = self._rpc.w3.eth.contract(abi=cast("ABI", artifact.abi), bytecode=artifact.bytecode)
        data = factory.constructor(*arguments).data_in_transaction
        self._say(f"sending {name}")
        tx_hash = await self._sender.send(Call(None, data, what=f"deploying {name}"))
        try:
            async with asyncio.timeout(PATIENCE_S):
                address = await self._address(tx_hash, name)
        except TimeoutError:
            raise ChainError(f"{name} did not get into a block within {PATIENCE_S:.0f} s ({tx_hash})") from None
        self._say(f"{name} is at {address}")
        return address

    def _say(self, step: str) -> None:
        if self._progress is not None:
            self._progress(step)

    async def _address(self, tx_hash: str, name: str) -> ChecksumAddress:
        while True:
            with self._rpc.speaking(f"deploying {name}"):
                try:
                    receipt = await self._rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
                except TransactionNotFound:
                    receipt = None
            if receipt is not None:
                address = receipt["contractAddress"]
                if receipt["status"] != 1 or address is None:
                    raise RevertedError(f"deploying {name} failed in block {receipt['blockNumber']}")
                return address
            await asyncio.sleep(POLL_S)
