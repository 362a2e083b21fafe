"""``fedgpu provider keys``: name on the chain the wallet that is paid and the key that signs receipts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.options import KeyOptions, NoWaitOption, TargetOptions
from fedgpu_operator.cli.wallets import say, session
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.cli.wallets import Session


def keys_of_provider(
    target: TargetOptions,
    keys: KeyOptions,
    signer: Annotated[
        str, typer.Option("--signer", help="Whose key signs receipts: the agent's; you unless given.")
    ] = "",
    payee: Annotated[str, typer.Option("--payee", help="Who is paid; you unless given.")] = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Name who is paid and whose key signs receipts, with the payout wallet's own key; the two must differ."""
    asyncio.run(_named(target, keys, payee, signer, wait=not no_wait))


async def _named(given: TargetOptions, keys: KeyOptions, payee: str, signer: str, *, wait: bool) -> None:
    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.cli.target import address

    keys.check()
    paid = address("--payee", payee) if payee else ""
    signs = address("--signer", signer) if signer else ""
    async with session(ProviderWallet, given, keys) as at:
        me = str(at.wallet.address)
        if (paid or me) == (signs or me):
            raise ConfigurationError(
                f"{signs or me} would be paid and sign receipts: name another account with --signer or --payee, so "
                "that a receipt key that is lost costs no money"
            )
        await _send(at, paid or None, signs or None, wait=wait)


async def _send(at: Session[ProviderWallet], payee: str | None, signer: str | None, *, wait: bool) -> None:
    me = at.wallet.address

    async def act() -> str:
        await at.needs_gas()
        say(f"keys: {payee or me} is paid what {me} earns, {signer or me} signs its receipts")
        return await at.wallet.set_provider(at.escrow.escrow, payee, signer)

    order = at.order("provider keys", "keys", {"payee": payee, "signer": signer}, state="keys")
    await at.final("keys", await at.once(order, act), wait=wait)
