"""``fedgpu account``: a tenant's money at the escrow: deposit, withdrawal, spend limit, proof of the wallet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    KeyOptions,
    NamespaceOption,
    NoWaitOption,
    Output,
    OutputOption,
    TargetOptions,
    address,
    duration_text,
    instant,
    open_escrow,
    plain_table,
    print_data,
    register,
    say,
    usd,
)
from fedgpu_operator.cli.journal import AGAIN_WITHIN_S, TxOutcome
from fedgpu_operator.cli.prove import prove_account
from fedgpu_operator.cli.wallets import account_wallet, allow, require_tokens, session
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.journal import Entry
    from fedgpu_operator.cli.orders import Order
    from fedgpu_operator.cli.wallets import WalletSession
    from fedgpu_operator.domain.settlement import AccountState

    Act = Callable[[WalletSession[TenantWallet], "AccountView"], Awaitable[str]]
    OrderOf = Callable[[WalletSession[TenantWallet]], Order]

SIGNED_FOR_S: Final = 3600
"""How long a signed transfer can be used: it is sent immediately, and blocks may be slow."""
MARGIN_S: Final = 600
"""How long one that was signed before must still be valid to be used again."""
FIGURES: Final = {
    "walletTokens": "in the wallet",
    "balance": "balance",
    "allocated": "allocated to providers",
    "pending": "pending in the challenge window",
    "held": "disputed as unexplained",
    "limit": "spend limit per epoch",
}
"""Field of the document → what people read."""

AmountArgument = Annotated[int, typer.Argument(parser=usd, metavar="USD", help='Amount in USD, such as "12.50".')]

app = typer.Typer(no_args_is_help=True, help="Manage your money and your wallet at the escrow.")
withdraw_app = typer.Typer(no_args_is_help=True, help="Withdraw money, in two steps with a notice period.")
limits_app = typer.Typer(no_args_is_help=True, help="Show and set how much one epoch may debit.")


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account at one moment; `tokens` is what the wallet itself holds, in µUSD, None if it was not read."""

    account: AccountState
    tokens: int | None


@register(app, "deposit")
def deposit(
    amount: AmountArgument,
    target: TargetOptions,
    keys: KeyOptions,
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve exactly this amount for the escrow first, by a transaction.")
    ] = False,
    authorize: Annotated[
        bool, typer.Option("--authorize", help="Sign the transfer instead (EIP-3009), if the token supports it.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Deposit even if the same amount was deposited within a day.")
    ] = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Deposit USD into your account at the escrow.

    It can be spent up to your limit, or withdrawn after notice. If a deposit of the same amount is not final yet, the
    command resumes it and pays nothing more, even with --again. Within a day after such a deposit it asks for
    confirmation; without a terminal it needs --again.
    """
    if approve and authorize:
        raise ConfigurationError("--approve and --authorize exclude each other: give one of them")
    if not amount:
        raise ConfigurationError("nothing to deposit: give more than 0 USD")
    document = asyncio.run(_deposited(amount, target, keys, approve, authorize, again=again, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))
    if (document["after"] or document["before"])["limit"] == "0.00":
        say("Your spend limit is 0.00 USD, so no job can be paid yet; set it with `fedgpu account limits set`.")


async def _deposited(
    amount: int, target: TargetOptions, keys: KeyOptions, approve: bool, authorize: bool, *, again: bool, wait: bool
) -> JSONObject:
    from fedgpu_operator.adapters.chain import TenantWallet

    async with session(TenantWallet, target, keys) as at:
        order = at.order("account deposit", "deposit", {"amount": amount}, pays=True)

        async def act() -> str:
            order.details["before"] = account_document(AccountView(await at.account(), await at.tokens()))
            await require_tokens(at, amount)
            await at.require_gas()
            if authorize:
                return await _authorized(at, amount, order, again=again)
            await allow(at, amount, approve=approve, otherwise=", or --authorize if the token supports EIP-3009")
            return await at.wallet.deposit(at.escrow.escrow, amount)

        sent = await at.once(order, act, again=again)
        return await change_document(at, order.what, sent, wait=wait)


async def _authorized(at: WalletSession[TenantWallet], amount: int, order: Order, *, again: bool) -> str:
    """Sign the transfer and send it. One that was signed before and not used is signed once more with its own nonce.

    Whoever saw it can have sent it as well: with its nonce at most one of them takes effect. ConfigurationError if
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
        # The day counts from when it was reported.
        reported, now_s = each.used_at, at.journal.now()
        at.journal.used(each.tx_hash)
        if not again and (reported or now_s) >= now_s - AGAIN_WITHIN_S:
            raise ConfigurationError(
                f"already deposited: the transfer signed on {instant(each.at)} was sent by another transaction than "
                f"{each.tx_hash}; to deposit once more, give --again"
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


@register(withdraw_app, "request")
def request_withdrawal(
    target: TargetOptions,
    keys: KeyOptions,
    amount: Annotated[
        int | None, typer.Argument(parser=usd, metavar="USD", help='Most to withdraw, such as "12.50".')
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Withdraw the whole balance as it is now.")] = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Request a withdrawal.

    The money is not available to new work from then on, and can be taken after the notice period.
    """
    if (amount is None) != everything:
        raise ConfigurationError("no single amount to withdraw: give USD or --all")

    async def act(at: WalletSession[TenantWallet], before: AccountView) -> str:
        from fedgpu_operator.domain.money import format_usd

        units = before.account.balance if amount is None else amount
        if not units:
            raise ConfigurationError("nothing to withdraw; `fedgpu account withdraw cancel` cancels a request")
        if units > before.account.balance:
            held = format_usd(before.account.balance)
            say(f"request: the balance is {held} USD now; at most the balance at execution is withdrawn")
        say(f"request: the notice period is {duration_text(at.terms.periods.notice)}")
        return await at.wallet.request_withdraw(at.escrow.escrow, units)

    arguments = {"amount": "all" if amount is None else amount}
    _change(
        lambda at: at.order("account withdraw request", "request", arguments, state="withdrawal"),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


@register(withdraw_app, "execute")
def execute_withdrawal(
    target: TargetOptions,
    keys: KeyOptions,
    to: Annotated[str, typer.Option("--to", help="Address to pay; default: the wallet itself.")] = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Execute a withdrawal after its notice period."""

    async def act(at: WalletSession[TenantWallet], before: AccountView) -> str:
        due = before.account.withdraw_at
        if not due:
            raise ConfigurationError("no withdrawal was requested; `fedgpu account withdraw request` requests one")
        await _require_notice_over(at, due)
        return await at.wallet.withdraw(at.escrow.escrow, address("--to", to) if to else None)

    arguments = {"to": to.lower()}
    _change(
        lambda at: at.order("account withdraw execute", "withdraw", arguments, state="withdrawal"),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


@register(withdraw_app, "cancel")
def cancel_withdrawal(
    target: TargetOptions, keys: KeyOptions, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Cancel a requested withdrawal. Its money is available to new work again."""

    async def act(at: WalletSession[TenantWallet], before: AccountView) -> str:
        if not before.account.withdraw_at:
            raise ConfigurationError("nothing to cancel: no withdrawal was requested")
        return await at.wallet.request_withdraw(at.escrow.escrow, 0)

    _change(
        lambda at: at.order("account withdraw cancel", "cancel", state="withdrawal"),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


@register(limits_app, "show")
def show_limits(
    target: TargetOptions,
    wallet: Annotated[
        str, typer.Option("--wallet", help="Address of the wallet; default: that of the namespace's account.")
    ] = "",
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show an account at the escrow. Money, spend limit and announced changes, as of the newest final block."""

    async def read() -> tuple[str, JSONObject]:
        owner = address("--wallet", wallet) if wallet else await account_wallet(namespace, target.context)
        async with open_escrow(target) as escrow:
            snapshot = await escrow.snapshot([owner], [])
        return owner, account_document(AccountView(snapshot.accounts[owner], None))

    owner, document = asyncio.run(read())
    print_data(output, {"wallet": owner, **document}, lambda: account_text(owner, document))


@register(limits_app, "set")
def set_limit(
    amount: AmountArgument,
    target: TargetOptions,
    keys: KeyOptions,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set the spend limit per epoch.

    A higher limit is in force immediately; a lower one is announced, to be applied after the notice period.
    """

    async def act(at: WalletSession[TenantWallet], before: AccountView) -> str:
        from fedgpu_operator.settlement.funding import MAX_DEBIT

        if amount > MAX_DEBIT:
            raise ConfigurationError("limit too high: the contract stores limits up to 281,474,976.710655 USD")
        if amount == before.account.limit and not before.account.limit_at:
            raise ConfigurationError("nothing to change: this limit is already set")
        if amount < before.account.limit:
            after = duration_text(at.terms.periods.notice)
            say(f"limit: a lower limit needs notice; run `fedgpu account limits apply` after {after}")
        return await at.wallet.set_spend_limit(at.escrow.escrow, amount)

    _change(
        lambda at: at.order("account limits set", "limit", {"limit": amount}, state="limit"),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


@register(limits_app, "apply")
def apply_limit(
    target: TargetOptions, keys: KeyOptions, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Apply a lower limit after its notice period."""

    async def act(at: WalletSession[TenantWallet], before: AccountView) -> str:
        due = before.account.limit_at
        if not due:
            raise ConfigurationError("no lower limit was announced; `fedgpu account limits set` announces one")
        await _require_notice_over(at, due)
        return await at.wallet.apply_spend_limit(at.escrow.escrow)

    _change(
        lambda at: at.order("account limits apply", "limit", state="limit"),
        act,
        target,
        keys,
        output,
        wait=not no_wait,
    )


app.add_typer(withdraw_app, name="withdraw")
app.add_typer(limits_app, name="limits")
register(app, "prove")(prove_account)


async def _require_notice_over(at: WalletSession[TenantWallet], due: int) -> None:
    """ConfigurationError before `due`, in Unix seconds of the chain."""
    now = (await at.escrow.snapshot([], [], "latest")).timestamp
    if now < due:
        raise ConfigurationError(
            f"notice period not over: it ends at {instant(due)}, in {duration_text(due - now)} of the chain's time"
        )


def _change(
    order_of: OrderOf, act: Act, target: TargetOptions, keys: KeyOptions, output: Output, *, wait: bool
) -> None:
    """Do one act on the wallet's own account; print the account before and after it."""

    async def changed() -> JSONObject:
        from fedgpu_operator.adapters.chain import TenantWallet

        async with session(TenantWallet, target, keys) as at:
            order = order_of(at)

            async def send() -> str:
                before = AccountView(await at.account(), await at.tokens())
                order.details["before"] = account_document(before)
                await at.require_gas()
                return await act(at, before)

            return await change_document(at, order.what, await at.once(order, send), wait=wait)

    document = asyncio.run(changed())
    print_data(output, document, lambda: change_text(document))


def account_document(view: AccountView) -> JSONObject:
    """The account as data: amounts are decimal strings of USD, times are UTC."""
    from fedgpu_operator.domain.money import format_usd

    account = view.account
    withdrawal = {"amount": format_usd(account.withdraw_units), "from": instant(account.withdraw_at)}
    lower = {"limit": format_usd(account.new_limit), "from": instant(account.limit_at)}
    return {
        "walletTokens": None if view.tokens is None else format_usd(view.tokens),
        **{name: format_usd(getattr(account, name)) for name in FIGURES if name != "walletTokens"},
        "withdrawal": withdrawal if account.withdraw_at else None,
        "lowerLimit": lower if account.limit_at else None,
    }


async def change_document(at: WalletSession[TenantWallet], what: str, sent: Entry, *, wait: bool) -> JSONObject:
    """Wait for the transaction; what it did to the account, as data, `after` being None without waiting.

    `before` is the account before the transaction was signed, which may have been by a command before this one.
    """
    counted = await at.final(what, sent, wait=wait)
    after = await _account_after(at) if counted else None
    return {
        "wallet": at.wallet.address,
        "transaction": counted.tx_hash if counted else sent.tx_hash,
        "before": sent.details["before"],
        "after": account_document(after) if after else None,
    }


async def _account_after(at: WalletSession[TenantWallet]) -> AccountView | None:
    """The account in the newest final block, or in the newest if the node keeps no older state; None if unread.

    The act is done by now: that its effect cannot be read is no failure.
    """
    from fedgpu_operator.errors import ChainUnreachableError, StatePrunedError

    try:
        try:
            return AccountView(await at.account("finalized"), await at.tokens())
        except StatePrunedError:
            return AccountView(await at.account(), await at.tokens())
    except ChainUnreachableError as error:
        say(f"done and final; the account cannot be read now: {error}")
        return None


def change_text(document: JSONObject) -> list[Table | str]:
    """An account before and after an act, for people."""
    before, after = document["before"], document["after"]
    if after is None:
        return ["The account before the transaction:", *account_text(document["wallet"], before)]
    table = plain_table("USD", "BEFORE", "AFTER", right=("BEFORE", "AFTER"))
    for name, words in FIGURES.items():
        if before[name] is not None:
            table.add_row(words, before[name], after[name])
    return [f"account {document['wallet']}", table, *_announcements(after)]


def account_text(wallet: str, document: JSONObject) -> list[Table | str]:
    """One account for people."""
    table = plain_table("USD", "AMOUNT", right=("AMOUNT",))
    for name, words in FIGURES.items():
        if document[name] is not None:
            table.add_row(words, document[name])
    return [f"account {wallet}", table, *_announcements(document)]


def _announcements(document: JSONObject) -> list[str]:
    lines = []
    if leaving := document["withdrawal"]:
        lines.append(f"Withdrawal of up to {leaving['amount']} USD requested; executable from {leaving['from']}.")
    if lower := document["lowerLimit"]:
        lines.append(f"Lower spend limit of {lower['limit']} USD announced; applicable from {lower['from']}.")
    return lines
