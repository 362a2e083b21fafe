"""How a tenant's account at the escrow is shown, alone or before and after an act; reads and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedgpu_operator.cli.common import plain_table
from fedgpu_operator.cli.wallets import instant, say

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session
    from fedgpu_operator.domain.settlement import AccountState

FIGURES = {
    "walletTokens": "in the wallet",
    "balance": "balance",
    "allocated": "allocated to providers",
    "pending": "pending in the challenge window",
    "held": "disputed as unexplained",
    "limit": "spend limit per epoch",
}
"""Field of the document → what people read."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An account at one moment; `tokens` is what the wallet itself holds, in µUSD, None where nobody asked."""

    account: AccountState
    tokens: int | None


def document_of(shown: Shown) -> JSONObject:
    """The account as data: amounts are decimal strings of USD, times are UTC."""
    from fedgpu_operator.domain.money import format_usd

    account = shown.account
    withdrawal = {"amount": format_usd(account.withdraw_units), "from": instant(account.withdraw_at)}
    lower = {"limit": format_usd(account.new_limit), "from": instant(account.limit_at)}
    return {
        "walletTokens": None if shown.tokens is None else format_usd(shown.tokens),
        **{name: format_usd(getattr(account, name)) for name in FIGURES if name != "walletTokens"},
        "withdrawal": withdrawal if account.withdraw_at else None,
        "lowerLimit": lower if account.limit_at else None,
    }


async def after_of(at: Session[TenantWallet]) -> Shown | None:
    """The account in the newest final block, or in the newest where the node keeps no older state; None unread.

    The act is done by now: that nobody can see its effect is no failure.
    """
    from fedgpu_operator.errors import ChainUnreachableError, StatePrunedError

    try:
        try:
            return Shown(await at.account("finalized"), await at.tokens())
        except StatePrunedError:
            return Shown(await at.account(), await at.tokens())
    except ChainUnreachableError as error:
        say(f"it is done and final; the account cannot be read now: {error}")
        return None


def change_of(wallet: str, before: JSONObject, after: Shown | None, transaction: str) -> JSONObject:
    """What an act did to the account, as data; `after` is None where nobody waited for it.

    `before` is its document before the transaction was signed, which may have been by a command before this one.
    """
    return {
        "wallet": wallet,
        "transaction": transaction,
        "before": before,
        "after": document_of(after) if after else None,
    }


def change_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    before, after = document["before"], document["after"]
    if after is None:
        return ["As it was before:", *account_text(document["wallet"], before)]
    table = plain_table("USD", "BEFORE", "AFTER", right=("BEFORE", "AFTER"))
    for name, words in FIGURES.items():
        if before[name] is not None:
            table.add_row(words, before[name], after[name])
    return [f"account {document['wallet']}", table, *_announced(after)]


def account_text(wallet: str, document: JSONObject) -> list[Table | str]:
    """One account for people."""
    table = plain_table("USD", "AMOUNT", right=("AMOUNT",))
    for name, words in FIGURES.items():
        if document[name] is not None:
            table.add_row(words, document[name])
    return [f"account {wallet}", table, *_announced(document)]


def _announced(document: JSONObject) -> list[Table | str]:
    lines: list[Table | str] = []
    if leaving := document["withdrawal"]:
        text = (
            f"A withdrawal of up to {leaving['amount']} USD was announced; it can be taken from {leaving['from']} on."
        )
        lines.append(text)
    if lower := document["lowerLimit"]:
        lines.append(f"A spend limit of {lower['limit']} USD was announced; it can be applied from {lower['from']} on.")
    return lines
