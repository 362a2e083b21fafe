"""``fedgpu payouts``: what providers were paid and can claim, by the chain's own books."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    KeyOptions,
    ManifestOption,
    NoWaitOption,
    Output,
    OutputOption,
    TargetOptions,
    address,
    find_target,
    flat,
    plain_table,
    print_data,
    register,
    say,
)
from fedgpu_operator.cli.manifests import plan_of_root
from fedgpu_operator.cli.wallets import payout_wallets, provider_wallet, session
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ChainError, ConfigurationError, KubeError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import EscrowClient, ProviderWallet
    from fedgpu_operator.adapters.chain.history import Earnings
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.common import Target
    from fedgpu_operator.cli.journal import Entry
    from fedgpu_operator.cli.wallets import WalletSession
    from fedgpu_operator.domain.money import MicroUSD
    from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, EpochPlan, Pair, Payment

    Lines = Mapping[Pair, MicroUSD]

VERB: Final = "payouts claim"
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

app = typer.Typer(invoke_without_command=True, help="Show, claim and collect what providers are paid.")


@dataclass(frozen=True, slots=True)
class ProviderBooks:
    """One provider: its standing, its books by pair at one final block, and the lines of the two roots that count.

    `active` are lines that can be claimed, `newest` those of the newest root; None if the manifest is not available.
    """

    name: str
    standing: Earnings
    chain: ChainSnapshot
    active: Lines | None
    newest: Lines | None


@app.callback()
@flat
def show(
    called: typer.Context,
    target: TargetOptions,
    provider: Annotated[str, typer.Option("--provider", help="Name of a GPUProvider; default: all of the hub.")] = "",
    wallet: Annotated[str, typer.Option("--wallet", help="Payout address of a provider; needs no hub.")] = "",
    manifest: ManifestOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what providers were paid and can claim."""
    if called.invoked_subcommand is not None:
        return
    if provider and wallet:
        raise ConfigurationError("--provider and --wallet exclude each other: give one of them")
    document = asyncio.run(_document(target, provider, wallet, manifest))
    print_data(output, document, lambda: payouts_text(document))


async def _document(given: TargetOptions, provider: str, wallet: str, place: str) -> JSONObject:
    from fedgpu_operator.adapters.chain import EscrowClient

    if wallet:
        wallets = {"": address("--wallet", wallet)}
    elif not (wallets := await payout_wallets(given.context, provider)) and provider:
        raise ConfigurationError(f"GPUProvider {provider} has no payout wallet: set spec.payout.address")
    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        chain = await escrow.snapshot([], [])
        active, newest = await _roots(escrow, given, chain, place)
        found = [await _payout(escrow, target, name, who, active, newest) for name, who in wallets.items()]
    return {
        "escrow": chain.escrow,
        "epoch": chain.active_epoch or None,
        "providers": [payout_row(each) for each in found],
    }


async def _roots(
    escrow: EscrowClient, given: TargetOptions, chain: ChainSnapshot, place: str
) -> tuple[Lines | None, Lines | None]:
    """The lines of the active epoch and those of the newest one, each None if its manifest is not available."""
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
    from fedgpu_operator.errors import ChainError

    if not number:
        return {}
    try:
        return (await plan_of_root(given, place, number, root)).pairs
    except (ChainError, ConfigurationError, KubeError):
        # Without the manifest, everything but what can be claimed is still known.
        return None


async def _payout(
    escrow: EscrowClient, target: Target, name: str, who: str, active: Lines | None, newest: Lines | None
) -> ProviderBooks:
    from fedgpu_operator.adapters.chain import Patience
    from fedgpu_operator.adapters.chain.history import earnings_of, tenants_of
    from fedgpu_operator.adapters.chain.rpc import Rpc

    async with Rpc(target.rpc, chain_id=target.chain_id, patience=Patience(LOG_READING_S, tell=say)) as rpc:
        standing = await earnings_of(rpc, target.escrow, who)
        tenants = {*await tenants_of(rpc, target.escrow, who)}
    tenants |= {tenant for lines in (active, newest) for tenant, provider in lines or {} if provider == who}
    chain = await escrow.snapshot(sorted(tenants), [(tenant, who) for tenant in sorted(tenants)])
    return ProviderBooks(name, standing, chain, active, newest)


def payout_row(payout: ProviderBooks) -> JSONObject:
    """One provider's figures as decimal strings of USD, summed over its tenants; None if they cannot be known."""
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


def _payable(payout: ProviderBooks) -> int | None:
    """What a claim would pay now: of each line what is due, and no more than its tenant's money that is set aside."""
    if payout.active is None:
        return None
    total = 0
    for pair, book in payout.chain.books.items():
        due = max(0, payout.active.get(pair, 0) - book.base)
        total += min(due, payout.chain.accounts[pair[0]].allocated)
    return total


def _following(payout: ProviderBooks) -> int | None:
    """What the epoch in its window adds to what is due already."""
    if payout.newest is None or payout.active is None:
        return None
    total = 0
    for pair, book in payout.chain.books.items():
        known = max(book.base, payout.active.get(pair, 0))
        total += max(0, payout.newest.get(pair, 0) - known)
    return total


def payouts_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    rows = document["providers"]
    if not rows:
        return ["No GPUProvider on the hub has a payout wallet."]
    table = plain_table("PROVIDER", "WALLET", *FIGURES.values(), "PAID TO", right=tuple(FIGURES.values()))
    for row in rows:
        figures = ("?" if row[name] is None else row[name] for name in FIGURES)
        paid_to = "the same" if row["payee"] == row["wallet"] else row["payee"]
        table.add_row(row["provider"] or "-", row["wallet"], *figures, paid_to)
    parts: list[Table | str] = [table]
    if any(row["payable"] is None for row in rows):
        parts.append("? manifest of the epoch not available: connect to the hub, or give it with --manifest.")
    return parts


@register(app, "claim")
def claim(
    target: TargetOptions,
    keys: KeyOptions,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="Only this GPUProvider, by name or payout address; repeatable."),
    ] = None,
    manifest: ManifestOption = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Claim the active epoch's payments for providers. Anybody can send a claim; it pays nobody but the providers."""
    document = asyncio.run(_claimed(target, keys, provider or [], manifest, wait=not no_wait))
    print_data(output, document, lambda: claim_text(document))


@register(app, "collect")
def collect(
    target: TargetOptions,
    keys: KeyOptions,
    to: Annotated[str, typer.Option("--to", help="Address to pay; default: the wallet itself.")] = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Collect failed transfers and bonds of your wallet. The escrow keeps them until they are collected."""
    asyncio.run(_collected(target, keys, to, wait=not no_wait))


async def _claimed(given: TargetOptions, keys: KeyOptions, named: list[str], place: str, *, wait: bool) -> JSONObject:
    from fedgpu_operator.adapters.chain import ProviderWallet

    keys.check()
    wanted = {await provider_wallet(each, given.context) for each in named}
    async with session(ProviderWallet, given, keys) as at:
        earlier = await _earlier(at)
        number = (await at.escrow.snapshot([], [], "latest")).active_epoch
        if not number:
            raise ChainError("no epoch is active yet: the first can be claimed when its challenge window is over")
        plan = await plan_of_root(given, place, number, (await at.escrow.epoch(number)).root)
        leaves = due_leaves(plan, await _books(at, plan), wanted)
        if not leaves and not earlier:
            raise ChainError(
                f"nothing to claim: epoch {number} has nothing payable{' to these providers' if wanted else ''}"
            )
        sent = [*earlier, *await _send(at, number, leaves)]
        for count, each in enumerate(sent, start=1):
            await at.final(f"claim {count}", each, wait=wait)
        payments = [payment for each in sent for payment in await _payments(at, each)] if wait else None
    return claim_document(number, [each.tx_hash for each in sent], leaves, payments)


async def _books(at: WalletSession[ProviderWallet], plan: EpochPlan) -> ChainSnapshot:
    pairs = sorted(plan.pairs)
    return await at.escrow.snapshot(sorted({tenant for tenant, _ in pairs}), pairs, "latest")


async def _earlier(at: WalletSession[ProviderWallet]) -> list[Entry]:
    """Claims of an earlier command that are not final: their lines are due until they are in a block."""
    orders = [at.order(each.verb, "claim", each.arguments) for each in at.journal.unfinished() if each.verb == VERB]
    mine = [each for each in orders if each.arguments["escrow"] == at.escrow.escrow]
    entries = [await at.once(each, _nothing) for each in mine]
    for each in entries:
        await at.mined("claim", each)
    return entries


async def _nothing() -> str:
    raise AssertionError("an unfinished order is resumed")


async def _send(at: WalletSession[ProviderWallet], number: int, leaves: list[Claim]) -> list[Entry]:
    from fedgpu_operator.settlement import Room, batches

    sent = []
    for count, batch in enumerate(batches(leaves, Room(await at.escrow.gas_cap())), start=1):
        await at.require_gas()
        lines = sum(len(leaf.lines) for leaf in batch)
        providers = len({leaf.provider for leaf in batch})
        say(f"claim {count}: {counted(lines, 'line')} of {counted(providers, 'provider')}")
        shown = [[leaf.provider, [[line.tenant, line.cumulative] for line in leaf.lines]] for leaf in batch]
        order = at.order(VERB, f"claim {count}", {"epoch": number, "leaves": shown})
        sent.append(await at.once(order, partial(at.wallet.claim, at.escrow.escrow, number, batch)))
    return sent


async def _payments(at: WalletSession[ProviderWallet], sent: Entry) -> tuple[Payment, ...]:
    """What a claim has paid, by its own receipt."""
    receipt = await at.escrow.receipt(sent.tx_hash)
    return receipt.payments if receipt is not None else ()


def due_leaves(plan: EpochPlan, chain: ChainSnapshot, wanted: set[str]) -> list[Claim]:
    """The leaves of which something is payable now, of the wanted providers or of all."""
    from fedgpu_operator.settlement import claims

    def due(pair: Pair, cumulative: int) -> bool:
        return cumulative > chain.books[pair].base and chain.accounts[pair[0]].allocated > 0

    return [
        leaf
        for leaf in claims(plan)
        if (not wanted or leaf.provider in wanted)
        and any(due((line.tenant, leaf.provider), line.cumulative) for line in leaf.lines)
    ]


def claim_document(
    number: int, hashes: list[str], leaves: list[Claim], payments: Sequence[Payment] | None
) -> JSONObject:
    """What was claimed, line by line; `paid` is None without waiting."""
    from fedgpu_operator.domain.money import format_usd

    paid: dict[Pair, int] = {}
    for leaf in leaves:
        paid.update({(line.tenant, leaf.provider): 0 for line in leaf.lines})
    for payment in payments or ():
        pair = (payment.tenant, payment.provider)
        paid[pair] = paid.get(pair, 0) + payment.amount
    return {
        "epoch": number,
        "transactions": hashes,
        "lines": [
            {"tenant": pair[0], "provider": pair[1], "paid": None if payments is None else format_usd(amount)}
            for pair, amount in paid.items()
        ],
        "total": None if payments is None else format_usd(sum(paid.values())),
    }


def claim_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    if document["total"] is None:
        return [f"sent {counted(len(document['transactions']), 'claim')} of epoch {document['epoch']}"]
    table = plain_table("PROVIDER", "TENANT", "PAID", right=("PAID",))
    for line in document["lines"]:
        table.add_row(line["provider"], line["tenant"], line["paid"])
    table.add_row("TOTAL", "", document["total"])
    return [table]


async def _collected(given: TargetOptions, keys: KeyOptions, to: str, *, wait: bool) -> None:
    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.domain.money import format_usd

    keys.check()
    where = address("--to", to) if to else None
    async with session(ProviderWallet, given, keys) as at:

        async def act() -> str:
            owed = await at.wallet.owed(at.escrow.escrow)
            if not owed:
                raise ChainError(f"nothing to collect for {at.wallet.address}")
            await at.require_gas()
            say(f"collect: {format_usd(owed)} USD to {where or at.wallet.address}")
            return await at.wallet.collect(at.escrow.escrow, where)

        order = at.order("payouts collect", "collect", {"to": where})
        await at.final("collect", await at.once(order, act), wait=wait)
