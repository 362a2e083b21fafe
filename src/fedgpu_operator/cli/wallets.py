"""A person's wallet at the escrow for one verb: connected, checked, and waited for in words; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import typer

from fedgpu_operator.errors import (
    ChainError,
    ConfigurationError,
    PendingError,
    ReplacedError,
    RevertedError,
)

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import EscrowClient, Patience, TenantWallet, Waiting
    from fedgpu_operator.adapters.chain.wallet import Wallet
    from fedgpu_operator.cli.journal import Entry, Journal, Lock
    from fedgpu_operator.cli.options import KeyOptions, TargetOptions
    from fedgpu_operator.cli.orders import Order, Orders
    from fedgpu_operator.domain.settlement import AccountState, TxReceipt
    from fedgpu_operator.domain.terms import EscrowTerms

W = TypeVar("W", bound="Wallet")
POLL_S = 2.0
"""How often the chain is asked whether a transaction counts: blocks come every few seconds, finality in minutes."""
PATIENCE_S = 1800.0
"""How long a command waits until a transaction counts: finality takes 13 minutes on Ethereum on a good day."""
READING_S = 300.0
"""How long an endpoint may be silent before a command gives up reading, when nothing was sent."""


def usd(text: str) -> int:
    """An amount of money on the command line, in µUSD; refused with the way to write it."""
    from fedgpu_operator.domain.money import parse_usd

    try:
        return parse_usd(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


AmountArgument = Annotated[int, typer.Argument(parser=usd, metavar="USD", help='Amount in USD, such as "12.50".')]


@dataclass(frozen=True, slots=True)
class Session(Generic[W]):
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

    async def needs_gas(self) -> None:
        """ConfigurationError where the wallet cannot pay for any transaction."""
        if not await self.wallet.coins():
            raise ConfigurationError(
                f"wallet {self.wallet.address} has no coins of chain {self.escrow.chain_id} for gas"
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
        """What this command is to do at this escrow; commands with the same arguments want the same."""
        from fedgpu_operator.cli.orders import Order

        escrow = str(self.escrow.escrow)
        named = f"{state} at {escrow}" if state else ""
        return Order(verb, {"escrow": escrow, **(arguments or {})}, what, pays, named, used_up)

    async def once(self, order: Order, act: Callable[[], Awaitable[str]], *, again: bool = False) -> Entry:
        """The order's transaction: the one of before, or the one that `act` sends; see Orders.once."""
        return await self.orders.once(order, act, again=again)

    async def final(self, what: str, sent: Entry, *, wait: bool) -> TxReceipt | None:
        """Wait until the chain promises to keep it; None without waiting. The next command may send from now on."""
        from fedgpu_operator.cli.journal import Mark

        self.lock.release()
        if not wait:
            with suppress(ChainError):
                if (receipt := await self.wallet.receipt(sent.tx_hash)) is not None:
                    self.journal.seen(sent.tx_hash, Mark(receipt.block_number, receipt.block_hash))
            say(f"{what}: {sent.tx_hash} is sent and not waited for; it counts when its block is final")
            return None
        return await self._waited(what, sent, None)

    async def mined(self, what: str, sent: Entry) -> TxReceipt:
        """As `final`, and content with any block: for a step that only another step of ours builds on."""
        return await self._waited(what, sent, 1)

    def _watching(self, what: str, sent: Entry) -> Callable[[Waiting], None]:
        from fedgpu_operator.cli.journal import Mark

        tell = telling(what)

        def watch(seen: Waiting) -> None:
            if seen.block is not None and seen.block_hash:
                self.journal.seen(sent.tx_hash, Mark(seen.block, seen.block_hash))
            tell(seen)

        return watch

    async def _waited(self, what: str, sent: Entry, confirmations: int | None) -> TxReceipt:
        from fedgpu_operator.cli.journal import TxOutcome
        from fedgpu_operator.cli.orders import LOOK_AGAIN

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
                say(f"{what}: {other.tx_hash} counts, which was signed for the same")
                return await self._waited(what, other, confirmations)
            raise ReplacedError(f"{error}; run the same command again to send another") from None
        except RevertedError:
            if confirmations is None:
                self.journal.ended(sent.tx_hash, TxOutcome.FAILED)
            raise
        except ChainError as error:
            # It is sent; that nobody can follow it, whatever the reason, is no failure.
            raise PendingError(f"{sent.tx_hash} is sent and cannot be followed: {error}; {LOOK_AGAIN}") from None
        if confirmations is None:
            self.journal.ended(sent.tx_hash, TxOutcome.SUCCEEDED, receipt.block_number)
        return receipt


@asynccontextmanager
async def session(make: type[W], given: TargetOptions, keys: KeyOptions) -> AsyncIterator[Session[W]]:
    """Connect the signer's wallet; the escrow's code and chain are checked before anything can be signed.

    Until `Session.final` no other command of this machine sends for the same account.
    """
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.journal import Journal
    from fedgpu_operator.cli.keys import signer_from
    from fedgpu_operator.cli.orders import Orders, Outgoing
    from fedgpu_operator.cli.target import find_target

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
        yield Session(wallet, escrow, await escrow.terms(), orders, outgoing.journal, lock)


async def first_block(wallet: Wallet) -> str:
    """What tells this chain from others of its id; empty where the endpoint does not keep its first block."""
    try:
        return await wallet.genesis()
    except ChainError:
        return ""


def patience() -> Patience:
    """A person's patience with an endpoint that does not answer: it is said what is waited for."""
    from fedgpu_operator.adapters.chain import Patience

    return Patience(READING_S, PATIENCE_S, say)


def asking() -> Callable[[str], bool] | None:
    """Asks the person at the terminal; None where there is none."""
    if not sys.stdin.isatty():
        return None
    return lambda text: typer.confirm(text, err=True)


async def holds(at: Session[W], units: int) -> None:
    """ConfigurationError where the wallet itself holds less than `units` µUSD of the escrow's token."""
    from fedgpu_operator.domain.money import format_usd

    if (tokens := await at.tokens()) < units:
        has = f"{format_usd(tokens)} USD of {at.terms.symbol} ({at.terms.token})"
        raise ConfigurationError(f"wallet {at.wallet.address} holds {has}, needed are {format_usd(units)} USD")


async def allow(at: Session[TenantWallet], units: int, *, approve: bool, otherwise: str = "") -> None:
    """See that the escrow may take `units` µUSD from the wallet, by a transaction of its own with `approve`.

    Without it ConfigurationError says what to do, `otherwise` being one more way.
    """
    from fedgpu_operator.domain.money import format_usd

    token, escrow, needed = at.terms.token, at.escrow.escrow, units * at.terms.scale
    allowed = await at.wallet.allowance(token, escrow)
    if allowed >= needed:
        return
    if not approve:
        may = (
            f"{format_usd(allowed // at.terms.scale)} USD of your {at.terms.symbol}, needed are {format_usd(units)} USD"
        )
        raise ConfigurationError(f"the escrow {escrow} may take {may}: run it again with --approve{otherwise}")
    order = at.order("approve", "approve", {"amount": needed}, state="allowance", used_up=True)
    await at.mined("approve", await at.once(order, lambda: at.wallet.approve(token, escrow, needed)))


def telling(what: str) -> Callable[[Waiting], None]:
    """Says how far a transaction is, and nothing twice: the head moves more often than anything happens."""
    told: set[tuple[int | None, bool]] = set()

    def tell(seen: Waiting) -> None:
        if (seen.block, seen.done) in told:
            return
        told.add((seen.block, seen.done))
        if seen.block is None:
            say(f"{what}: in no block yet")
        elif seen.done:
            say(f"{what}: done, in block {seen.block}")
        else:
            say(f"{what}: in block {seen.block}, waiting for it to be final")

    return tell


def say(text: str) -> None:
    """Progress is for people: standard output stays what programs read."""
    from fedgpu_operator.domain.text import clean

    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def instant(seconds: int) -> str:
    """A Unix time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def lasting(seconds: int) -> str:
    """A length of time in its two largest units, such as ``19d 4h``."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2]) or "0s"
