"""``fedgpu payouts``: what providers were paid and what waits for them, by the chain's own books."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import ManifestOption, TargetOptions, flat
from fedgpu_operator.cli.payouts_claim import claim, collect
from fedgpu_operator.errors import ConfigurationError, KubeError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.adapters.chain.history import Earnings
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.target import Target
    from fedgpu_operator.domain.money import MicroUSD
    from fedgpu_operator.domain.settlement import ChainSnapshot, Pair

    Lines = Mapping[Pair, MicroUSD]

NAME: Final = "payouts"
LOG_READING_S: Final = 20.0
"""How long a part of the log is asked for before fewer blocks are: a node that takes too long looks silent."""
FIGURES: Final = {
    "paid": "PAID",
    "payable": "PAYABLE NOW",
    "inWindow": "IN WINDOW",
    "reserved": "IN DISPUTE",
    "deducted": "REFUNDED",
    "owed": "TO COLLECT",
}

app = typer.Typer(invoke_without_command=True, help="What providers were paid, and what waits for them.")


@dataclass(frozen=True, slots=True)
class Payout:
    """One provider: its standing, its books by pair at one final block, and the lines of the two roots that count.

    `active` are lines that can be claimed, `newest` those of the newest root; None where no manifest is to be had.
    """

    name: str
    standing: Earnings
    chain: ChainSnapshot
    active: Lines | None
    newest: Lines | None


def _show(
    called: typer.Context,
    target: TargetOptions,
    provider: Annotated[str, typer.Option("--provider", help="A GPUProvider; all of the hub's unless given.")] = "",
    wallet: Annotated[str, typer.Option("--wallet", help="A provider's payout address, with no hub needed.")] = "",
    manifest: ManifestOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what providers were paid, what can be claimed now, what follows, and what waits to be collected."""
    if called.invoked_subcommand is not None:
        return
    if provider and wallet:
        raise ConfigurationError("name one: --provider or --wallet")
    document = asyncio.run(_document(target, provider, wallet, manifest))
    print_data(output, document, lambda: text_of(document))


app.callback()(flat(_show))
app.command()(flat(claim))
app.command()(flat(collect))


async def _document(given: TargetOptions, provider: str, wallet: str, place: str) -> JSONObject:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import address, find_target
    from fedgpu_operator.cli.wallet_names import payout_wallets

    if wallet:
        wallets = {"": address("--wallet", wallet)}
    elif not (wallets := await payout_wallets(given.context, provider)) and provider:
        raise ConfigurationError(f"GPUProvider {provider} names no payout wallet")
    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        chain = await escrow.snapshot([], [])
        active, newest = await _roots(escrow, given, chain, place)
        found = [await _payout(escrow, target, name, who, active, newest) for name, who in wallets.items()]
    return {"escrow": chain.escrow, "epoch": chain.active_epoch or None, "providers": [row_of(each) for each in found]}


async def _roots(
    escrow: EscrowClient, given: TargetOptions, chain: ChainSnapshot, place: str
) -> tuple[Lines | None, Lines | None]:
    """The lines of the active epoch and those of the newest one, each None where its manifest is not to be had."""
    active = await escrow.finalized_epoch(chain.active_epoch) if chain.active_epoch else None
    lines = [
        await _lines(given, place, number, root)
        for number, root in (
            (chain.active_epoch, active.root if active else ""),
            (chain.head_epoch, chain.head_root),
        )
    ]
    return lines[0], lines[1]


async def _lines(given: TargetOptions, place: str, number: int, root: str) -> Lines | None:
    from fedgpu_operator.cli.manifests import plan_of_root
    from fedgpu_operator.errors import ChainError

    if not number:
        return {}
    try:
        return (await plan_of_root(given, place, number, root)).pairs
    except (ChainError, ConfigurationError, KubeError):
        # Without the manifest everything but what waits is still known.
        return None


async def _payout(
    escrow: EscrowClient, target: Target, name: str, who: str, active: Lines | None, newest: Lines | None
) -> Payout:
    from fedgpu_operator.adapters.chain import Patience
    from fedgpu_operator.adapters.chain.history import earnings_of, tenants_of
    from fedgpu_operator.adapters.chain.rpc import Rpc
    from fedgpu_operator.cli.wallets import say

    async with Rpc(target.rpc, chain_id=target.chain_id, patience=Patience(LOG_READING_S, tell=say)) as rpc:
        standing = await earnings_of(rpc, target.escrow, who)
        tenants = {*await tenants_of(rpc, target.escrow, who)}
    tenants |= {tenant for lines in (active, newest) for tenant, provider in lines or {} if provider == who}
    chain = await escrow.snapshot(sorted(tenants), [(tenant, who) for tenant in sorted(tenants)])
    return Payout(name, standing, chain, active, newest)


def row_of(payout: Payout) -> JSONObject:
    """One provider's figures as decimal strings of USD, summed over its tenants; None where they cannot be known."""
    from fedgpu_operator.domain.money import format_usd

    books, standing = payout.chain.books, payout.standing
    figures: dict[str, int | None] = {
        "paid": sum(book.paid for book in books.values()),
        "payable": _payable(payout),
        "inWindow": _following(payout),
        "reserved": sum(book.reserved for book in books.values()),
        "deducted": sum(book.deducted for book in books.values()),
        "owed": standing.owed,
    }
    return {
        "provider": payout.name or None,
        "wallet": standing.provider,
        "payee": standing.payee,
        "receiptSigner": standing.signer,
        **{name: None if amount is None else format_usd(amount) for name, amount in figures.items()},
    }


def _payable(payout: Payout) -> int | None:
    """What a claim would pay now: of each line what is due, and no more than its tenant's money that is set aside."""
    if payout.active is None:
        return None
    total = 0
    for pair, book in payout.chain.books.items():
        due = max(0, payout.active.get(pair, 0) - book.base)
        total += min(due, payout.chain.accounts[pair[0]].allocated)
    return total


def _following(payout: Payout) -> int | None:
    """What the epoch in its window adds to what is due already."""
    if payout.newest is None or payout.active is None:
        return None
    total = 0
    for pair, book in payout.chain.books.items():
        known = max(book.base, payout.active.get(pair, 0))
        total += max(0, payout.newest.get(pair, 0) - known)
    return total


def text_of(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    rows = document["providers"]
    if not rows:
        return ["No GPUProvider of the hub names a payout wallet."]
    table = plain_table("PROVIDER", "WALLET", *FIGURES.values(), "PAID TO", right=tuple(FIGURES.values()))
    for row in rows:
        figures = ("?" if row[name] is None else row[name] for name in FIGURES)
        paid_to = "the same" if row["payee"] == row["wallet"] else row["payee"]
        table.add_row(row["provider"] or "-", row["wallet"], *figures, paid_to)
    parts: list[Table | str] = [table]
    if any(row["payable"] is None for row in rows):
        parts.append("? needs the epoch's manifest: connect to the hub, or give it with --manifest.")
    return parts
