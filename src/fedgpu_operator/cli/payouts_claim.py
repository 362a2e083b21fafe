"""``fedgpu payouts claim`` and ``collect``: have providers paid, by anybody's hand, or fetch what waits for you."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import KeyOptions, ManifestOption, NoWaitOption, TargetOptions
from fedgpu_operator.cli.wallets import say, session
from fedgpu_operator.errors import ChainError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session
    from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, EpochPlan, Pair


def claim(
    target: TargetOptions,
    keys: KeyOptions,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Only these: names of GPUProviders, or payout addresses.")
    ] = None,
    manifest: ManifestOption = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have the active epoch's lines paid to their providers; anybody may send it, and it pays nobody else."""
    document = asyncio.run(_claimed(target, keys, provider or [], manifest, wait=not no_wait))
    print_data(output, document, lambda: claimed_text(document))


def collect(
    target: TargetOptions,
    keys: KeyOptions,
    to: Annotated[str, typer.Option("--to", help="Where the money goes; the wallet itself unless given.")] = "",
    no_wait: NoWaitOption = False,
) -> None:
    """Fetch what waits for your wallet: transfers that were refused, and bonds."""
    asyncio.run(_collected(target, keys, to, wait=not no_wait))


async def _claimed(given: TargetOptions, keys: KeyOptions, named: list[str], place: str, *, wait: bool) -> JSONObject:
    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.cli.manifests import plan_of_root
    from fedgpu_operator.cli.wallet_names import provider_wallet

    keys.check()
    wanted = {await provider_wallet(each, given.context) for each in named}
    async with session(ProviderWallet, given, keys) as at:
        number = (await at.escrow.snapshot([], [], "latest")).active_epoch
        if not number:
            raise ChainError("no epoch is active yet: the first is claimed when its challenge window is over")
        plan = await plan_of_root(given, place, number, (await at.escrow.epoch(number)).root)
        chain = await _books(at, plan)
        leaves = due_leaves(plan, chain, wanted)
        if not leaves:
            raise ChainError(f"nothing of epoch {number} is payable{' to them' if wanted else ''}")
        await at.needs_gas()
        hashes = await _send(at, number, leaves, wait=wait)
        after = await _books(at, plan) if wait else None
    return document_of(number, hashes, leaves, chain, after)


async def _books(at: Session[ProviderWallet], plan: EpochPlan) -> ChainSnapshot:
    pairs = sorted(plan.pairs)
    return await at.escrow.snapshot(sorted({tenant for tenant, _ in pairs}), pairs, "latest")


async def _send(at: Session[ProviderWallet], number: int, leaves: list[Claim], *, wait: bool) -> list[str]:
    from fedgpu_operator.settlement import Room, batches

    hashes = []
    for count, batch in enumerate(batches(leaves, Room(await at.escrow.gas_cap())), start=1):
        lines = sum(len(leaf.lines) for leaf in batch)
        say(f"claim {count}: {lines} lines of {len({leaf.provider for leaf in batch})} providers")
        hashes.append(await at.wallet.claim(at.escrow.escrow, number, batch))
    for count, tx_hash in enumerate(hashes, start=1):
        await at.final(f"claim {count}", tx_hash, wait=wait)
    return hashes


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


def document_of(
    number: int, hashes: list[str], leaves: list[Claim], before: ChainSnapshot, after: ChainSnapshot | None
) -> JSONObject:
    """What was claimed, line by line; `paid` is None where nobody waited."""
    from fedgpu_operator.domain.money import format_usd

    pairs = [(line.tenant, leaf.provider) for leaf in leaves for line in leaf.lines]
    paid = {pair: after.books[pair].paid - before.books[pair].paid for pair in pairs} if after else {}
    return {
        "epoch": number,
        "transactions": hashes,
        "lines": [
            {"tenant": pair[0], "provider": pair[1], "paid": format_usd(paid[pair]) if paid else None} for pair in pairs
        ],
        "total": format_usd(sum(paid.values())) if paid else None,
    }


def claimed_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    if document["total"] is None:
        return [f"sent {len(document['transactions'])} claims of epoch {document['epoch']}; not waited for"]
    table = plain_table("PROVIDER", "TENANT", "PAID", right=("PAID",))
    for line in document["lines"]:
        table.add_row(line["provider"], line["tenant"], line["paid"])
    table.add_row("TOTAL", "", document["total"])
    return [table]


async def _collected(given: TargetOptions, keys: KeyOptions, to: str, *, wait: bool) -> None:
    from fedgpu_operator.adapters.chain import ProviderWallet
    from fedgpu_operator.cli.target import address
    from fedgpu_operator.domain.money import format_usd

    keys.check()
    where = address("--to", to) if to else None
    async with session(ProviderWallet, given, keys) as at:
        owed = await at.wallet.owed(at.escrow.escrow)
        if not owed:
            raise ChainError(f"nothing waits for {at.wallet.address} to be collected")
        await at.needs_gas()
        say(f"collect: {format_usd(owed)} USD to {where or at.wallet.address}")
        await at.final("collect", await at.wallet.collect(at.escrow.escrow, where), wait=wait)
