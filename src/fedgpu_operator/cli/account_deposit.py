"""``fedgpu account deposit``: money from your wallet into your account at the escrow."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.account_view import Shown, change_of, change_text
from fedgpu_operator.cli.common import Output, OutputOption, print_data
from fedgpu_operator.cli.options import KeyOptions, NoWaitOption, TargetOptions
from fedgpu_operator.cli.wallets import AmountArgument, allow, holds, say, session
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session

MINUTES = 60
SIGNED_FOR_S = 60 * MINUTES
"""How long a signed transfer can be used: it is sent at once, and blocks may be slow."""


def deposit(
    amount: AmountArgument,
    target: TargetOptions,
    keys: KeyOptions,
    approve: Annotated[
        bool, typer.Option("--approve", help="Let the escrow take exactly this amount first, by a transaction.")
    ] = False,
    authorize: Annotated[
        bool, typer.Option("--authorize", help="Instead, sign the transfer (EIP-3009), where the token can do that.")
    ] = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deposit USD into your account at the escrow; it can be spent up to your limit, and withdrawn after notice."""
    if approve and authorize:
        raise ConfigurationError("--approve and --authorize are two ways to do the same: give one of them")
    if not amount:
        raise ConfigurationError("there is nothing to deposit: give more than 0 USD")
    document = asyncio.run(_deposited(amount, target, keys, approve, authorize, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))
    if (document["after"] or document["before"])["limit"] == "0.00":
        say("Your spend limit is 0.00 USD, so no job can be paid yet: set it with `fedgpu account limits set`.")


async def _deposited(
    amount: int, target: TargetOptions, keys: KeyOptions, approve: bool, authorize: bool, *, wait: bool
) -> JSONObject:
    from fedgpu_operator.adapters.chain import TenantWallet

    async with session(TenantWallet, target, keys) as at:
        before = Shown(await at.account(), await at.tokens())
        await holds(at, amount)
        await at.needs_gas()
        if authorize:
            tx_hash = await _authorized(at, amount)
        else:
            await allow(at, amount, approve=approve, otherwise=", or with --authorize where the token knows EIP-3009")
            tx_hash = await at.wallet.deposit(at.escrow.escrow, amount)
        final = await at.final("deposit", tx_hash, wait=wait)
        after = Shown(await at.account("finalized"), await at.tokens()) if final else None
        return change_of(at.wallet.address, before, after, tx_hash)


async def _authorized(at: Session[TenantWallet], amount: int) -> str:
    from fedgpu_operator.adapters.chain import Transfer

    now = (await at.escrow.snapshot([], [], "latest")).timestamp
    transfer = Transfer(
        to=at.escrow.escrow,
        amount=amount * at.terms.scale,
        valid_after=0,
        valid_before=now + SIGNED_FOR_S,
        nonce="0x" + secrets.token_hex(32),
    )
    authorization = await at.wallet.authorize(at.terms.token, transfer)
    return await at.wallet.deposit_with_authorization(at.escrow.escrow, amount, authorization)
