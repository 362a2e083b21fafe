"""A person's wallet for one command: its key, its names on the hub, and a session at the escrow; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import typer

from fedgpu_operator.cli.common import KeyOptions, TargetOptions, address, find_target, namespace_of, open_hub, say
from fedgpu_operator.cli.journal import Entry, Journal, Lock, Mark, TxOutcome
from fedgpu_operator.cli.orders import LOOK_AGAIN, Order, Orders, Outgoing
from fedgpu_operator.errors import (
    ChainError,
    ConfigurationError,
    PendingError,
    ReplacedError,
    RevertedError,
)

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import EscrowClient, Patience, TenantWallet, Waiting
    from fedgpu_operator.adapters.chain.signers import Signer
    from fedgpu_operator.adapters.chain.wallet import Wallet
    from fedgpu_operator.api.gpuprovider import GPUProvider
    from fedgpu_operator.domain.settlement import AccountState, TxReceipt
    from fedgpu_operator.domain.terms import EscrowTerms

W = TypeVar("W", bound="Wallet")
POLL_S = 2.0
"""How often the chain is asked whether a transaction counts: blocks come every few seconds, finality in minutes."""
PATIENCE_S = 1800.0
"""How long a command waits until a transaction counts: finality takes 13 minutes on Ethereum on a good day."""
READING_S = 300.0
"""How long an endpoint may be silent before a command gives up reading, when nothing was sent."""


async def signer_from(keys: KeyOptions) -> Signer:
    """The signer that the options name; a remote one is asked whether it holds the account.

    Raises ConfigurationError for options that contradict each other, a file that cannot be read or another's
    account, ChainUnreachableError if a remote signer does not answer.
    """
    keys.check()
    if keys.signer_url:
        from fedgpu_operator.adapters.chain.signers import RemoteSigner

        remote = RemoteSigner(keys.signer_url, keys.signer_address)
        try:
            await remote.check()
        except BaseException:
            await remote.aclose()
            raise
        return remote
    from fedgpu_operator.adapters.chain.signers import load_key

    if keys.keystore is not None:
        return await load_key(keys.keystore, keys.password_file)
    if keys.key_file is None:
        raise AssertionError("check() lets no other case through")
    return await load_key(keys.key_file)


async def provider_wallet(named: str, context: str | None) -> str:
    """The payout wallet of a provider that is named by its address, or by its GPUProvider on the hub.

    Raises ConfigurationError for a provider without a payout wallet or a mistyped address, the KubeError tree.
    """
    if named.startswith("0x"):
        return address("--provider", named)
    wallets = await payout_wallets(context, named)
    if named not in wallets:
        raise ConfigurationError(f"GPUProvider {named} has no payout wallet: set spec.payout.address")
    return wallets[named]


async def payout_wallets(context: str | None, named: str = "") -> dict[str, str]:
    """The payout wallets of the hub's GPUProviders by their names, or of the one that is named."""
    from fedgpu_operator.api.gpuprovider import GPUProvider
    from fedgpu_operator.ports import ResourceType

    kind = ResourceType.of(GPUProvider.info)
    async with open_hub(context) as hub:
        objects = [await hub.get(kind, named)] if named else (await hub.list(kind))[0]
    providers: list[GPUProvider] = [GPUProvider.parse(each) for each in objects]
    return {
        each.metadata.name: address("the provider's payout wallet", each.spec.payout.address)
        for each in providers
        if each.spec.payout is not None
    }


async def account_wallet(namespace: str | None, context: str | None) -> str:
    """The wallet that the namespace's ComputeAccount on the hub names; raises the KubeError tree."""
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.ports import ResourceType

    space = namespace_of(context, namespace)
    async with open_hub(context) as hub:
        found = await hub.get(ResourceType.of(ComputeAccount.info), "default", space)
    return address("the account's wallet", ComputeAccount.parse(found).spec.wallet)


@dataclass(frozen=True, slots=True)
class WalletSession(Generic[W]):
    """A wallet, the escrow it acts on, what that escrow's deployment fixed, and the record of what was sent."""

    wallet: W
    escrow: EscrowClient
    terms: EscrowTerms
    orders: Orders
    journal: Journal
    lock: Lock

    async def account(self, block: str = "latest") -> AccountState:
        """The wallet's own account."""
        address = str(self.wallet.address)
        snapshot = await self.escrow.snapshot([address], [], "latest" if block == "latest" else "finalized")
        return snapshot.accounts[address]

    async def tokens(self) -> int:
        """What the wallet itself holds of the escrow's token, in µUSD, rounded down."""
        return await self.wallet.tokens(self.terms.token) // self.terms.scale

    async def require_gas(self) -> None:
        """ConfigurationError if the wallet cannot pay for any transaction."""
        if not await self.wallet.coins():
            raise ConfigurationError(
                f"no gas: wallet {self.wallet.address} has no coins of chain {self.escrow.chain_id}; send it some"
            )

    def order(
        self,
        verb: str,
        what: str,
        arguments: Mapping[str, object] | None = None,
        *,
        pays: bool = False,
        state: str = "",
        used_up: bool = False,
    ) -> Order:
        """What this command is to do at this escrow; commands with the same arguments are the same order."""
        escrow = str(self.escrow.escrow)
        named = f"{state} at {escrow}" if state else ""
        return Order(verb, {"escrow": escrow, **(arguments or {})}, what, pays, named, used_up)

    async def once(self, order: Order, act: Callable[[], Awaitable[str]], *, again: bool = False) -> Entry:
        """The order's transaction: the earlier one, or the one that `act` sends; see Orders.once."""
        return await self.orders.once(order, act, again=again)

    async def final(self, what: str, sent: Entry, *, wait: bool) -> TxReceipt | None:
        """Wait until the transaction is final; None without waiting. The next command may send from now on."""
        self.lock.release()
        if not wait:
            with suppress(ChainError):
                if (receipt := await self.wallet.receipt(sent.tx_hash)) is not None:
                    self.journal.seen(sent.tx_hash, Mark(receipt.block_number, receipt.block_hash))
            say(f"{what}: sent {sent.tx_hash}; it takes effect when its block is final")
            return None
        return await self._waited(what, sent, None)

    async def mined(self, what: str, sent: Entry) -> TxReceipt:
        """As `final`, but any block will do: for a step that only another step of ours builds on."""
        return await self._waited(what, sent, 1)

    def _watching(self, what: str, sent: Entry) -> Callable[[Waiting], None]:
        """Reports how far a transaction is, and nothing twice: the head moves more often than anything happens."""
        reported: set[tuple[int | None, bool]] = set()

        def watch(seen: Waiting) -> None:
            if seen.block is not None and seen.block_hash:
                self.journal.seen(sent.tx_hash, Mark(seen.block, seen.block_hash))
            if (seen.block, seen.done) in reported:
                return
            reported.add((seen.block, seen.done))
            if seen.block is None:
                say(f"{what}: not in a block yet")
            elif seen.done:
                say(f"{what}: done, in block {seen.block}")
            else:
                say(f"{what}: in block {seen.block}, waiting for it to be final")

        return watch

    async def _waited(self, what: str, sent: Entry, confirmations: int | None) -> TxReceipt:

        try:
            receipt = await self.wallet.wait(
                sent.tx_hash,
                confirmations=confirmations,
                progress=self._watching(what, sent),
                poll=POLL_S,
                patience=PATIENCE_S,
                signed=sent.signed,
            )
        except PendingError as error:
            raise PendingError(f"{error}; {LOOK_AGAIN}") from None
        except ReplacedError as error:
            self.journal.ended(sent.tx_hash, TxOutcome.REPLACED)
            if (other := await self.orders.counted_instead(sent)) is not None:
                say(f"{what}: {other.tx_hash} was included instead, signed for the same order")
                return await self._waited(what, other, confirmations)
            raise ReplacedError(f"{error}; run the same command again to send a new one") from None
        except RevertedError:
            if confirmations is None:
                self.journal.ended(sent.tx_hash, TxOutcome.FAILED)
            raise
        except ChainError as error:
            # It is sent; that it cannot be followed, whatever the reason, is no failure.
            raise PendingError(f"{sent.tx_hash} was sent and cannot be followed: {error}; {LOOK_AGAIN}") from None
        if confirmations is None:
            self.journal.ended(sent.tx_hash, TxOutcome.SUCCEEDED, receipt.block_number)
        return receipt


@asynccontextmanager
async def session(make: type[W], given: TargetOptions, keys: KeyOptions) -> AsyncIterator[WalletSession[W]]:
    """Connect the signer's wallet; the escrow's code and chain are checked before anything can be signed.

    Until `WalletSession.final` no other command of this machine sends for the same account.
    """
    from fedgpu_operator.adapters.chain import EscrowClient

    keys.check()
    target = await find_target(given, patience())
    signer = await signer_from(keys)
    outgoing = Outgoing(Journal(target.chain_id, str(signer.address)), say)
    async with (
        make(target.rpc, signer, chain_id=target.chain_id, outbox=outgoing, patience=patience()) as wallet,
        EscrowClient(target.rpc, target.escrow, target.chain_id, patience=patience()) as escrow,
        outgoing.journal.locked(say) as lock,
    ):
        await escrow.verify()
        outgoing.journal.open(await first_block(wallet))
        orders = Orders(wallet, outgoing, asking())
        await orders.look_back()
        yield WalletSession(wallet, escrow, await escrow.terms(), orders, outgoing.journal, lock)


async def first_block(wallet: Wallet) -> str:
    """What tells this chain from others of its id; empty if the endpoint does not keep its first block."""
    try:
        return await wallet.genesis()
    except ChainError:
        return ""


def patience() -> Patience:
    """How long a command waits for an endpoint that does not answer, reporting what it waits for."""
    from fedgpu_operator.adapters.chain import Patience

    return Patience(READING_S, PATIENCE_S, say)


def asking() -> Callable[[str], bool] | None:
    """Asks the person at the terminal; None without a terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda text: typer.confirm(text, err=True)


async def require_tokens(at: WalletSession[W], units: int) -> None:
    """ConfigurationError if the wallet itself holds less than `units` µUSD of the escrow's token."""
    from fedgpu_operator.domain.money import format_usd

    if (tokens := await at.tokens()) < units:
        has = f"{format_usd(tokens)} USD of {at.terms.symbol} ({at.terms.token})"
        raise ConfigurationError(
            f"insufficient tokens: wallet {at.wallet.address} holds {has}, {format_usd(units)} USD are needed"
        )


async def allow(at: WalletSession[TenantWallet], units: int, *, approve: bool, otherwise: str = "") -> None:
    """Ensure that the escrow may take `units` µUSD from the wallet, by a transaction of its own with `approve`.

    Without it ConfigurationError names the fix, `otherwise` being one more way.
    """
    from fedgpu_operator.domain.money import format_usd

    token, escrow, needed = at.terms.token, at.escrow.escrow, units * at.terms.scale
    allowed = await at.wallet.allowance(token, escrow)
    if allowed >= needed:
        return
    if not approve:
        may = f"{format_usd(allowed // at.terms.scale)} USD of your {at.terms.symbol}"
        raise ConfigurationError(
            f"insufficient allowance: escrow {escrow} may take {may}, {format_usd(units)} USD are needed; run the "
            f"command again with --approve{otherwise}"
        )
    order = at.order("approve", "approve", {"amount": needed}, state="allowance", used_up=True)
    await at.mined("approve", await at.once(order, lambda: at.wallet.approve(token, escrow, needed)))
