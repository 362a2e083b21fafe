"""``fedgpu account withdraw``: money back out of the escrow, in two steps with the notice between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.account_view import Shown, after_of, change_of, change_text, document_of
from fedgpu_operator.cli.common import Output, OutputOption, print_data
from fedgpu_operator.cli.options import KeyOptions, NoWaitOption, TargetOptions, flat
from fedgpu_operator.cli.wallets import instant, lasting, say, session, usd
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session

    Act = Callable[[Session[TenantWallet], Shown], Awaitable[str]]


@dataclass(frozen=True)
class AccountOrder:
    """What a verb does to an account: its words, how progress calls it, what it sets (see Order), its arguments."""

    verb: str
    what: str
    state: str
    arguments: Mapping[str, object] = field(default_factory=dict)


app = typer.Typer(no_args_is_help=True, help="Take money out of the escrow: request, wait for the notice, execute.")

ToOption = Annotated[str, typer.Option("--to", help="Where the money goes; the wallet itself unless given.")]


def _request(
    target: TargetOptions,
    keys: KeyOptions,
    amount: Annotated[
        int | None, typer.Argument(parser=usd, metavar="USD", help='Most to take out, such as "12.50".')
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is in the balance now.")] = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Announce a withdrawal; from then on it counts as spent for new work, and after the notice it can be executed."""
    if (amount is None) != everything:
        raise ConfigurationError("say how much: an amount in USD, or --all")

    async def act(at: Session[TenantWallet], before: Shown) -> str:
        from fedgpu_operator.domain.money import format_usd

        units = before.account.balance if amount is None else amount
        if not units:
            raise ConfigurationError(
                "there is nothing to withdraw; `fedgpu account withdraw cancel` takes a request back"
            )
        if units > before.account.balance:
            held = format_usd(before.account.balance)
            say(f"request: the balance is {held} USD now; what is there when it is executed is taken, at most that")
        say(f"request: the notice is {lasting(at.terms.periods.notice)}")
        return await at.wallet.request_withdraw(at.escrow.escrow, units)

    given = AccountOrder(
        "account withdraw request", "request", "withdrawal", {"amount": "all" if amount is None else amount}
    )
    _run(given, act, target, keys, output, wait=not no_wait)


def _execute(
    target: TargetOptions,
    keys: KeyOptions,
    to: ToOption = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take out what was announced, once the notice is over."""

    async def act(at: Session[TenantWallet], before: Shown) -> str:
        from fedgpu_operator.cli.target import address

        due = before.account.withdraw_at
        if not due:
            raise ConfigurationError("no withdrawal was announced: begin with `fedgpu account withdraw request`")
        now = (await at.escrow.snapshot([], [], "latest")).timestamp
        if now < due:
            left = lasting(due - now)
            raise ConfigurationError(f"the notice runs until {instant(due)}, another {left} of the chain's time")
        return await at.wallet.withdraw(at.escrow.escrow, address("--to", to) if to else None)

    _run(
        AccountOrder("account withdraw execute", "withdraw", "withdrawal", {"to": to.lower()}),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


def _cancel(
    target: TargetOptions, keys: KeyOptions, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Take an announced withdrawal back; its money counts for new work again."""

    async def act(at: Session[TenantWallet], before: Shown) -> str:
        if not before.account.withdraw_at:
            raise ConfigurationError("no withdrawal was announced, so there is none to take back")
        return await at.wallet.request_withdraw(at.escrow.escrow, 0)

    _run(AccountOrder("account withdraw cancel", "cancel", "withdrawal"), act, target, keys, output, wait=not no_wait)


app.command("request")(flat(_request))
app.command("execute")(flat(_execute))
app.command("cancel")(flat(_cancel))


def _run(given: AccountOrder, act: Act, target: TargetOptions, keys: KeyOptions, output: Output, *, wait: bool) -> None:
    document = asyncio.run(changed(given, act, target, keys, wait=wait))
    print_data(output, document, lambda: change_text(document))


async def changed(given: AccountOrder, act: Act, target: TargetOptions, keys: KeyOptions, *, wait: bool) -> JSONObject:
    """Do one act on the wallet's own account and show the account before and after it."""
    from fedgpu_operator.adapters.chain import TenantWallet

    async with session(TenantWallet, target, keys) as at:
        order = at.order(given.verb, given.what, given.arguments, state=given.state)

        async def send() -> str:
            before = Shown(await at.account(), await at.tokens())
            order.details["before"] = document_of(before)
            await at.needs_gas()
            return await act(at, before)

        sent = await at.once(order, send)
        counted = await at.final(given.what, sent, wait=wait)
        after = await after_of(at) if counted else None
        return change_of(at.wallet.address, sent.details["before"], after, counted.tx_hash if counted else sent.tx_hash)
