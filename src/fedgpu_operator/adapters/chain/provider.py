"""ProviderWallet: what a provider does on chain by its own hand, from naming its payee to leaving without a settler."""

from __future__ import annotations

from collections.abc import Sequence

from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.calls import NOBODY
from fedgpu_operator.adapters.chain.wallet import Wallet
from fedgpu_operator.domain.settlement import Claim, Receipt


class ProviderWallet(Wallet):
    """One provider's key on a chain; `escrow` and `stake` are addresses, amounts µUSD."""

    async def set_provider(self, escrow: str, payee: str | None = None, signer: str | None = None) -> str:
        """Name the wallet to be paid to and the key that signs receipts; None is this address. They must differ."""
        named = [to_checksum_address(each or NOBODY) for each in (payee, signer)]
        return await self._send(escrow, "setProvider", *named)

    async def owed(self, escrow: str) -> int:
        """What it can collect, at the newest block."""
        return await self._figure(escrow, "owed", self.address)

    async def collect(self, escrow: str, to: str | None = None) -> str:
        """Fetch what a refused transfer or a lost bond left for it."""
        return await self._send(escrow, "collect", to_checksum_address(to or self.address))

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

    async def approve(self, token: str, spender: str, amount: int) -> str:
        """Let the stake contract take up to `amount` base units of the token."""
        return await self._send(token, "approve", to_checksum_address(spender), amount, name="TestUSD")
