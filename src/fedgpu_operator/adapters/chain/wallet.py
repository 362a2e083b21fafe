"""TenantWallet: what a tenant does on chain by its own hand, for demo and tests; no operator holds such keys."""

from __future__ import annotations

from types import TracebackType
from typing import Self, cast

from eth_typing import ABI
from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain.escrow import contract_at
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.artifacts import load


class TenantWallet:
    """One tenant's key at one endpoint. Amounts are µUSD or, where said, base units of the token.

    Every method returns a transaction hash at once; `deposit` after `approve` needs the latter in a block first.
    """

    def __init__(self, rpc_url: str, key: str, timeout: float = 10.0) -> None:
        self._rpc = Rpc(rpc_url, timeout=timeout)
        self._sender = Sender(self._rpc, key)

    def __repr__(self) -> str:
        return f"TenantWallet({self.address} by {self._rpc!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rpc.aclose()

    @property
    def address(self) -> str:
        """The tenant's address."""
        return self._sender.address

    async def mint(self, token: str, amount: int) -> str:
        """Make `amount` base units of the test token for itself; no real token allows it."""
        return await self._token(token, "mint", self.address, amount)

    async def approve(self, token: str, escrow: str, amount: int) -> str:
        """Let the escrow take up to `amount` base units of the token."""
        return await self._token(token, "approve", to_checksum_address(escrow), amount)

    async def deposit(self, escrow: str, units: int) -> str:
        """Put `units` µUSD on its own account."""
        return await self._escrow(escrow, "deposit", self.address, units)

    async def set_spend_limit(self, escrow: str, limit: int) -> str:
        """Let one epoch debit up to `limit` µUSD: more at once, less after the notice."""
        return await self._escrow(escrow, "setSpendLimit", limit)

    async def request_withdraw(self, escrow: str, units: int) -> str:
        """Announce a withdrawal of up to `units` µUSD; 0 takes the announcement back."""
        return await self._escrow(escrow, "requestWithdraw", units)

    async def withdraw(self, escrow: str) -> str:
        """Take the announced amount out to its own address, once the notice is over."""
        return await self._escrow(escrow, "withdraw", self.address)

    async def _token(self, token: str, name: str, *arguments: object) -> str:
        address = to_checksum_address(token)
        contract = self._rpc.w3.eth.contract(address=address, abi=cast("ABI", load("TestUSD").abi))
        return await self._sender.send(name, address, contract.encode_abi(name, list(arguments)))

    async def _escrow(self, escrow: str, name: str, *arguments: object) -> str:
        address = to_checksum_address(escrow)
        data = contract_at(self._rpc, address).encode_abi(name, list(arguments))
        return await self._sender.send(name, address, data)
