"""``fedgpu account limits``: how much one epoch may take from you; up at once, down after notice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.account_view import Shown, account_text, change_text, document_of
from fedgpu_operator.cli.account_withdraw import AccountOrder, changed
from fedgpu_operator.cli.common import NamespaceOption, Output, OutputOption, print_data
from fedgpu_operator.cli.options import KeyOptions, NoWaitOption, TargetOptions, flat
from fedgpu_operator.cli.wallets import AmountArgument, instant, lasting, say
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session

app = typer.Typer(no_args_is_help=True, help="See and set how much one epoch may take from your account.")


def _show(
    target: TargetOptions,
    wallet: Annotated[str, typer.Option("--wallet", help="Whose account; your namespace's unless given.")] = "",
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show an account at the escrow as the newest final block has it: money, limit, announcements."""
    found, document = asyncio.run(_account(target, wallet, namespace))
    print_data(output, {"wallet": found, **document}, lambda: account_text(found, document))


def _set(
    amount: AmountArgument,
    target: TargetOptions,
    keys: KeyOptions,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set the spend limit per epoch: a higher one at once, a lower one is announced and applied after the notice."""

    async def act(at: Session[TenantWallet], before: Shown) -> str:
        from fedgpu_operator.settlement.funding import MAX_DEBIT

        if amount > MAX_DEBIT:
            raise ConfigurationError("the contract holds limits up to 281,474,976.710655 USD")
        if amount == before.account.limit and not before.account.limit_at:
            raise ConfigurationError("that is the limit already")
        if amount < before.account.limit:
            say(f"limit: a lower one needs notice: `fedgpu account limits apply` in {lasting(at.terms.periods.notice)}")
        return await at.wallet.set_spend_limit(at.escrow.escrow, amount)

    given = AccountOrder("account limits set", "limit", "limit", {"limit": amount})
    document = asyncio.run(changed(given, act, target, keys, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))


def _apply(
    target: TargetOptions, keys: KeyOptions, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Put an announced lower limit into force, once the notice is over."""

    async def act(at: Session[TenantWallet], before: Shown) -> str:
        due = before.account.limit_at
        if not due:
            raise ConfigurationError("no lower limit was announced: begin with `fedgpu account limits set`")
        now = (await at.escrow.snapshot([], [], "latest")).timestamp
        if now < due:
            left = lasting(due - now)
            raise ConfigurationError(f"the notice runs until {instant(due)}, another {left} of the chain's time")
        return await at.wallet.apply_spend_limit(at.escrow.escrow)

    given = AccountOrder("account limits apply", "limit", "limit")
    document = asyncio.run(changed(given, act, target, keys, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))


app.command("show")(flat(_show))
app.command("set")(flat(_set))
app.command("apply")(flat(_apply))


async def _account(given: TargetOptions, wallet: str, namespace: str | None) -> tuple[str, JSONObject]:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import address, find_target
    from fedgpu_operator.cli.wallet_names import account_wallet

    owner = address("--wallet", wallet) if wallet else await account_wallet(namespace, given.context)
    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        snapshot = await escrow.snapshot([owner], [])
    return owner, document_of(Shown(snapshot.accounts[owner], None))
