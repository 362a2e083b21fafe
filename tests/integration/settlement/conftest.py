"""A chain of its own for these tests, because they move its clock by days, and an escrow for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_lab import toolchain
from fedgpu_lab.chain import Account, Anvil, Chain
from fedgpu_lab.process import Watchdog, end, free_ports
from fedgpu_operator.adapters.chain import EscrowClient, Periods, TenantWallet, deploy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Deployment, EpochPlan, Pair, TxReceipt
from fedgpu_operator.settlement import build_epoch

CHALLENGE = 3600
PERIODS = Periods(challenge=CHALLENGE, ruling=CHALLENGE, exit_after=CHALLENGE, longest_epoch=CHALLENGE)


@pytest.fixture(scope="session")
def own_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    directory: Path = tmp_path_factory.mktemp("settlement") / "chain"
    watchdog = Watchdog()
    chain = Anvil(toolchain.ensure(["anvil"])["anvil"], directory=directory, port=free_ports(1)[0], watchdog=watchdog)
    try:
        chain.start()
        # A block per transaction, so that no test waits for the next second.
        chain.rpc("evm_setIntervalMining", 0)
        chain.rpc("evm_setAutomine", True)
        yield chain
    finally:
        end(chain.children)
        chain.close()
        watchdog.close()


@dataclass
class Auditor:
    """Reads the escrow by raw JSON-RPC; imports nothing of the operator, so that both cannot be wrong together."""

    rpc: Callable[..., object]
    token: str
    escrow: str

    def call(self, to: str, signature: str, *words: str) -> list[int]:
        data = (
            "0x" + keccak(text=signature)[:4].hex() + "".join(word.removeprefix("0x").rjust(64, "0") for word in words)
        )
        answer = str(self.rpc("eth_call", {"to": to, "data": data}, "latest"))[2:]
        return [int(answer[i : i + 64], 16) for i in range(0, len(answer), 64)]

    def moved(self, *, to: str | None = None, by: str | None = None) -> int:
        transfer = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
        ends = [None if end is None else "0x" + end[2:].rjust(64, "0") for end in (by, to)]
        logs = self.rpc("eth_getLogs", {"address": self.token, "topics": [transfer, *ends], "fromBlock": "0x0"})
        assert isinstance(logs, list)
        return sum(int(log["data"], 16) for log in logs)

    def conserves(self, tenants: list[str], providers: list[str]) -> None:
        """In − out = held = Σ (balance + allocated + pending) + Σ owed, to the last unit."""
        held = self.call(self.token, "balanceOf(address)", self.escrow)[0]
        books = sum(sum(self.call(self.escrow, "accountOf(address)", tenant)[:3]) for tenant in tenants)
        books += sum(self.call(self.escrow, "owed(address)", provider)[0] for provider in providers)
        assert self.moved(to=self.escrow) - self.moved(by=self.escrow) == held == books


@dataclass
class World:
    """One escrow with two funded tenants, two providers and a settler; everything is mined at once."""

    chain: Chain
    deployment: Deployment
    settler: EscrowClient
    guardian: EscrowClient
    keeper: EscrowClient
    accounts: tuple[Account, ...]
    providers: tuple[str, ...]
    stack: AsyncExitStack = field(repr=False)

    @property
    def tenants(self) -> list[str]:
        return [account.address for account in self.accounts]

    async def wallet(self, index: int) -> TenantWallet:
        return await self.stack.enter_async_context(TenantWallet(self.chain.rpc_url, self.accounts[index].private_key))

    async def client(self, account: Account) -> EscrowClient:
        return await self.stack.enter_async_context(
            EscrowClient(self.chain.rpc_url, self.deployment.escrow, self.chain.chain_id, account.private_key)
        )

    async def mined(self, pending: Awaitable[str]) -> TxReceipt:
        """The receipt of a transaction that succeeded."""
        tx_hash = await pending
        self.chain.mine()
        receipt = await self.settler.receipt(tx_hash)
        assert receipt is not None
        assert receipt.succeeded
        return receipt

    async def fund(self, index: int, units: int, limit: int) -> list[TxReceipt]:
        wallet, token, escrow = await self.wallet(index), self.deployment.token, self.deployment.escrow
        await self.mined(wallet.mint(token, units))
        await self.mined(wallet.approve(token, escrow, units))
        deposit = await self.mined(wallet.deposit(escrow, units))
        return [deposit, await self.mined(wallet.set_spend_limit(escrow, limit))]

    async def plan(self, pairs: dict[Pair, int], debits: dict[str, int]) -> EpochPlan:
        """An epoch on the newest state, said as it is: true or not."""
        chain = await self.settler.snapshot([], [], "latest")
        return build_epoch(
            chain_id=chain.chain_id,
            escrow=chain.escrow,
            seq=chain.seq,
            prev_root=chain.head_root,
            period_end=chain.timestamp,
            pairs={pair: MicroUSD(total) for pair, total in pairs.items()},
            debits={tenant: MicroUSD(amount) for tenant, amount in debits.items()},
        )

    def balance(self, address: str) -> int:
        return self.auditor().call(self.deployment.token, "balanceOf(address)", address)[0]

    def force(self, sender: str, to: str, signature: str, *words: str | int) -> None:
        """A call in anybody's name, which anvil allows."""
        packed = "".join((word[2:] if isinstance(word, str) else f"{word:x}").rjust(64, "0") for word in words)
        self.chain.rpc("anvil_setBalance", sender, hex(10**18))
        self.chain.rpc("anvil_impersonateAccount", sender)
        data = "0x" + keccak(text=signature)[:4].hex() + packed
        self.chain.rpc("eth_sendTransaction", {"from": sender, "to": to, "data": data})
        self.chain.rpc("anvil_stopImpersonatingAccount", sender)

    def grant(self, role: str, address: str) -> None:
        admin = self.deployment.timelock
        self.force(admin, self.deployment.escrow, "grantRole(bytes32,address)", "0x" + keccak(text=role).hex(), address)

    def give(self, tenant: str, units: int, limit: int) -> None:
        """An account for an address of which nobody has the key."""
        token, escrow = self.deployment.token, self.deployment.escrow
        self.force(tenant, token, "mint(address,uint256)", tenant, units)
        self.force(tenant, token, "approve(address,uint256)", escrow, units)
        self.force(tenant, escrow, "deposit(address,uint64)", tenant, units)
        self.force(tenant, escrow, "setSpendLimit(uint48)", limit)

    def auditor(self) -> Auditor:
        return Auditor(self.chain.rpc, self.deployment.token, self.deployment.escrow)

    def conserves(self) -> None:
        self.auditor().conserves(self.tenants, list(self.providers))


@pytest.fixture
async def world(own_chain: Chain, unique_name: Callable[[str], str]) -> AsyncIterator[World]:
    admin, settler, guardian, keeper, *tenants = own_chain.accounts[:10]
    roles = replace(own_chain.roles, guardian=guardian.address)
    deployment = await deploy(own_chain.rpc_url, admin.private_key, roles, PERIODS)
    async with AsyncExitStack() as stack:
        settling, guarding, keeping = [
            await stack.enter_async_context(
                EscrowClient(own_chain.rpc_url, deployment.escrow, own_chain.chain_id, account.private_key)
            )
            for account in (settler, guardian, keeper)
        ]
        providers = tuple(
            str(to_checksum_address(keccak(text=unique_name(stem))[:20])) for stem in ("provider-p", "provider-q")
        )
        yield World(own_chain, deployment, settling, guarding, keeping, tuple(tenants), providers, stack)


@pytest.fixture
def addresses() -> Callable[[int], list[str]]:
    """So many addresses that hold nothing."""
    return lambda count: [str(to_checksum_address(keccak(i.to_bytes(8, "big"))[:20])) for i in range(count)]
