"""A person's wallet at the escrow for one verb: connected, checked, and waited for in words; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import typer

from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import EscrowClient, TenantWallet, Waiting
    from fedgpu_operator.adapters.chain.wallet import Wallet
    from fedgpu_operator.cli.options import KeyOptions, TargetOptions
    from fedgpu_operator.domain.settlement import AccountState, TxReceipt
    from fedgpu_operator.domain.terms import EscrowTerms

W = TypeVar("W", bound="Wallet")
POLL_S = 1.0
"""How often the chain is asked whether a transaction counts; blocks come every few seconds at most."""


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
    """A wallet, the escrow it acts on, and what that escrow's deployment fixed."""

    wallet: W
    escrow: EscrowClient
    terms: EscrowTerms

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

    async def final(self, what: str, tx_hash: str, *, wait: bool) -> TxReceipt | None:
        """Say what was sent, and wait until the chain promises to keep it; None without waiting."""
        say(f"{what}: sent as {tx_hash}")
        if not wait:
            say(f"{what}: not waited for; it counts when its block is final")
            return None
        return await self.wallet.wait(tx_hash, progress=telling(what), poll=POLL_S)

    async def mined(self, what: str, tx_hash: str) -> TxReceipt:
        """As `final`, and content with any block: for a step that only another step of ours builds on."""
        say(f"{what}: sent as {tx_hash}")
        return await self.wallet.wait(tx_hash, confirmations=1, progress=telling(what), poll=POLL_S)


@asynccontextmanager
async def session(make: type[W], given: TargetOptions, keys: KeyOptions) -> AsyncIterator[Session[W]]:
    """Connect the signer's wallet; the escrow's code and chain are checked before anything can be signed."""
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.keys import signer_from
    from fedgpu_operator.cli.target import find_target

    keys.check()
    target = await find_target(given)
    signer = await signer_from(keys)
    async with (
        make(target.rpc, signer, chain_id=target.chain_id) as wallet,
        EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow,
    ):
        await escrow.verify()
        yield Session(wallet, escrow, await escrow.terms())


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
    await at.mined("approve", await at.wallet.approve(token, escrow, needed))


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
