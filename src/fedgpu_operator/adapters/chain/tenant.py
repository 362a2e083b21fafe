"""TenantWallet: what a tenant does on chain by its own hand, from depositing to disputing."""

from __future__ import annotations

from eth_typing import HexStr
from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.authorization import Authorization, Transfer, token_domain
from fedgpu_operator.adapters.chain.wallet import Wallet
from fedgpu_operator.domain.settlement import ZERO_HASH, Claim


class TenantWallet(Wallet):
    """One tenant's key on a chain. Amounts are µUSD or, where said, base units of the token."""

    # ---------------------------------------------------------------- the token

    async def mint(self, token: str, amount: int) -> str:
        """Make `amount` base units of the test token for itself; no real token allows it."""
        return await self._send(token, "mint", self.address, amount, name="TestUSD")

    async def approve(self, token: str, escrow: str, amount: int) -> str:
        """Let the escrow take up to `amount` base units of the token."""
        return await self._send(token, "approve", to_checksum_address(escrow), amount, name="TestUSD")

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
        """Let one epoch debit up to `limit` µUSD: more at once, less after the notice."""
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

    async def collect(self, escrow: str, to: str | None = None) -> str:
        """Fetch the bonds of disputes that it won."""
        return await self._send(escrow, "collect", to_checksum_address(to or self.address))

    # ---------------------------------------------------------------- disputes

    async def bond_for(self, escrow: str, amount: int) -> int:
        """The µUSD that disputing `amount` takes from the wallet; to be approved before."""
        return await self._figure(escrow, "bondFor", amount)

    async def dispute(self, escrow: str, leaf: Claim, amount: int, evidence: str = ZERO_HASH) -> str:
        """Hold back `amount` µUSD of its line in a leaf of the epoch that is in its window.

        ValueError where the leaf has no line of this tenant.
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
