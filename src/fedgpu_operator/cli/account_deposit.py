"""``fedgpu account deposit``: money from your wallet into your account at the escrow."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.account_view import Shown, after_of, change_of, change_text, document_of
from fedgpu_operator.cli.common import Output, OutputOption, print_data
from fedgpu_operator.cli.journal import AGAIN_WITHIN_S, TxOutcome
from fedgpu_operator.cli.options import KeyOptions, NoWaitOption, TargetOptions
from fedgpu_operator.cli.wallets import AmountArgument, allow, holds, instant, say, session
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.journal import Entry
    from fedgpu_operator.cli.orders import Order
    from fedgpu_operator.cli.wallets import Session

MINUTES = 60
SIGNED_FOR_S = 60 * MINUTES
"""How long a signed transfer can be used: it is sent at once, and blocks may be slow."""
MARGIN_S = 10 * MINUTES
"""How long one that was signed before must still be valid to be used again."""


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
    again: Annotated[
        bool, typer.Option("--again", help="Pay, though the same amount was deposited within a day and is final.")
    ] = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deposit USD into your account at the escrow; it can be spent up to your limit, and withdrawn after notice.

    Repeated while a deposit of the same amount is not final, it goes on with that one and pays nothing more, even with
    --again. Repeated within a day after one, it asks; without a terminal it pays only with --again.
    """
    if approve and authorize:
        raise ConfigurationError("--approve and --authorize are two ways to do the same: give one of them")
    if not amount:
        raise ConfigurationError("there is nothing to deposit: give more than 0 USD")
    document = asyncio.run(_deposited(amount, target, keys, approve, authorize, again=again, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))
    if (document["after"] or document["before"])["limit"] == "0.00":
        say("Your spend limit is 0.00 USD, so no job can be paid yet: set it with `fedgpu account limits set`.")


async def _deposited(
    amount: int, target: TargetOptions, keys: KeyOptions, approve: bool, authorize: bool, *, again: bool, wait: bool
) -> JSONObject:
    from fedgpu_operator.adapters.chain import TenantWallet

    async with session(TenantWallet, target, keys) as at:
        order = at.order("account deposit", "deposit", {"amount": amount}, pays=True)

        async def act() -> str:
            order.details["before"] = document_of(Shown(await at.account(), await at.tokens()))
            await holds(at, amount)
            await at.needs_gas()
            if authorize:
                return await _authorized(at, amount, order, again=again)
            await allow(at, amount, approve=approve, otherwise=", or with --authorize where the token knows EIP-3009")
            return await at.wallet.deposit(at.escrow.escrow, amount)

        sent = await at.once(order, act, again=again)
        counted = await at.final("deposit", sent, wait=wait)
        after = await after_of(at) if counted else None
        return change_of(at.wallet.address, sent.details["before"], after, counted.tx_hash if counted else sent.tx_hash)


async def _authorized(at: Session[TenantWallet], amount: int, order: Order, *, again: bool) -> str:
    """Sign the transfer and send it. One that was signed before and not used is signed once more with its own nonce.

    Whoever saw it can have sent it as well: with its nonce at most one of them counts. ConfigurationError where
    somebody did, unless `again`.
    """
    from fedgpu_operator.adapters.chain import Transfer

    now = (await at.escrow.snapshot([], [], "latest")).timestamp
    earlier = [each for each in at.journal.of(order.verb, order.arguments) if "authorization" in each.details]
    open_ones = []
    for each in earlier:
        if each.outcome is TxOutcome.SUCCEEDED:
            continue
        if not await at.wallet.authorization_used(at.terms.token, each.details["authorization"]["nonce"]):
            open_ones.append(each)
            continue
        # The day counts from when somebody was told.
        told, now_s = each.used_at, at.journal.now()
        at.journal.used(each.tx_hash)
        if not again and (told or now_s) >= now_s - AGAIN_WITHIN_S:
            raise ConfigurationError(
                f"the transfer signed on {instant(each.at)} was sent by another transaction than {each.tx_hash}: that "
                "deposit is made; to deposit again all the same, give --again"
            )
    given = _unused(open_ones, now)
    order.details["authorization"] = given or {"nonce": "0x" + secrets.token_hex(32), "before": now + SIGNED_FOR_S}
    transfer = Transfer(
        to=at.escrow.escrow,
        amount=amount * at.terms.scale,
        valid_after=0,
        valid_before=order.details["authorization"]["before"],
        nonce=order.details["authorization"]["nonce"],
    )
    authorization = await at.wallet.authorize(at.terms.token, transfer)
    return await at.wallet.deposit_with_authorization(at.escrow.escrow, amount, authorization)


def _unused(earlier: Sequence[Entry], now: int) -> JSONObject | None:
    """The newest authorization that is valid for a while yet."""
    for each in reversed(earlier):
        given: JSONObject = each.details["authorization"]
        if given["before"] > now + MARGIN_S:
            return given
    return None
