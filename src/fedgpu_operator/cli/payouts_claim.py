"""``fedgpu payouts claim`` and ``collect``: have providers paid, by anybody's hand, or fetch what waits for you."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
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
    from fedgpu_operator.cli.journal import Entry
    from fedgpu_operator.cli.wallets import Session
    from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, EpochPlan, Pair, Payment

VERB = "payouts claim"


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
        earlier = await _earlier(at)
        number = (await at.escrow.snapshot([], [], "latest")).active_epoch
        if not number:
            raise ChainError("no epoch is active yet: the first is claimed when its challenge window is over")
        plan = await plan_of_root(given, place, number, (await at.escrow.epoch(number)).root)
        leaves = due_leaves(plan, await _books(at, plan), wanted)
        if not leaves and not earlier:
            raise ChainError(f"nothing of epoch {number} is payable{' to them' if wanted else ''}")
        sent = [*earlier, *await _send(at, number, leaves)]
        for count, each in enumerate(sent, start=1):
            await at.final(f"claim {count}", each, wait=wait)
        payments = [payment for each in sent for payment in await _payments(at, each)] if wait else None
    return document_of(number, [each.tx_hash for each in sent], leaves, payments)


async def _books(at: Session[ProviderWallet], plan: EpochPlan) -> ChainSnapshot:
    pairs = sorted(plan.pairs)
    return await at.escrow.snapshot(sorted({tenant for tenant, _ in pairs}), pairs, "latest")


async def _earlier(at: Session[ProviderWallet]) -> list[Entry]:
    """Claims of a command before that are not final: their lines are due until they are in a block."""
    orders = [at.order(each.verb, "claim", each.arguments) for each in at.journal.unfinished() if each.verb == VERB]
    mine = [each for each in orders if each.arguments["escrow"] == at.escrow.escrow]
    entries = [await at.once(each, _nothing) for each in mine]
    for each in entries:
        await at.mined("claim", each)
    return entries


async def _nothing() -> str:
    raise AssertionError("what is unfinished is gone on with")


async def _send(at: Session[ProviderWallet], number: int, leaves: list[Claim]) -> list[Entry]:
    from fedgpu_operator.settlement import Room, batches

    sent = []
    for count, batch in enumerate(batches(leaves, Room(await at.escrow.gas_cap())), start=1):
        await at.needs_gas()
        lines = sum(len(leaf.lines) for leaf in batch)
        say(f"claim {count}: {lines} lines of {len({leaf.provider for leaf in batch})} providers")
        shown = [[leaf.provider, [[line.tenant, line.cumulative] for line in leaf.lines]] for leaf in batch]
        order = at.order(VERB, f"claim {count}", {"epoch": number, "leaves": shown})
        sent.append(await at.once(order, partial(at.wallet.claim, at.escrow.escrow, number, batch)))
    return sent


async def _payments(at: Session[ProviderWallet], sent: Entry) -> tuple[Payment, ...]:
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


def document_of(number: int, hashes: list[str], leaves: list[Claim], payments: Sequence[Payment] | None) -> JSONObject:
    """What was claimed, line by line; `paid` is None where nobody waited."""
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

        async def act() -> str:
            owed = await at.wallet.owed(at.escrow.escrow)
            if not owed:
                raise ChainError(f"nothing waits for {at.wallet.address} to be collected")
            await at.needs_gas()
            say(f"collect: {format_usd(owed)} USD to {where or at.wallet.address}")
            return await at.wallet.collect(at.escrow.escrow, where)

        order = at.order("payouts collect", "collect", {"to": where})
        await at.final("collect", await at.once(order, act), wait=wait)
