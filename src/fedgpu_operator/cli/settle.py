"""``fedgpu settle``: epochs as hub and chain show them, verified by their manifests; trusts no operator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli import disputes
from fedgpu_operator.cli.common import (
    ManifestOption,
    Output,
    OutputOption,
    TargetOptions,
    conditions_table,
    instant,
    mark,
    open_escrow,
    open_hub,
    plain_table,
    print_data,
    register,
)
from fedgpu_operator.cli.manifests import manifest_of
from fedgpu_operator.errors import ChainError, ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.settlementepoch import SettlementEpoch
    from fedgpu_operator.domain.settlement import ChainSnapshot, DisputeState, EpochState, ExitState
    from fedgpu_operator.domain.transactions import PostedEpoch
    from fedgpu_operator.settlement.verify import EpochCheck, EpochOnChain


SHOWN: Final = 20
"""Epochs of the chain that are listed, the newest."""

COLUMNS: Final = {
    "epoch": "EPOCH",
    "object": "OBJECT",
    "state": "STATE",
    "onChain": "ON CHAIN",
    "debited": "DEBITED",
    "paid": "PAID",
    "tenants": "TENANTS",
    "providers": "PROVIDERS",
    "periodEnd": "PERIOD END",
    "postTransaction": "POSTED BY",
    "root": "ROOT",
}
FIGURES: Final = ("EPOCH", "DEBITED", "PAID", "TENANTS", "PROVIDERS")
RESULTS: Final = {True: "holds", False: "differs", None: "not compared"}

app = typer.Typer(no_args_is_help=True, help="Show, verify and dispute epochs.")
app.add_typer(disputes.app, name="dispute")


@dataclass(frozen=True, slots=True)
class EscrowView:
    """The escrow at its newest finalized block: its newest epochs, and what is open."""

    chain: ChainSnapshot
    epochs: tuple[EpochState, ...]
    disputes: tuple[DisputeState, ...]
    exits: tuple[ExitState, ...]


@register(app, "status")
def status(
    target: TargetOptions,
    epoch: Annotated[int | None, typer.Argument(min=1, help="Number of an epoch on the chain; default: all.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List epochs with debits, payments and state. With --rpc also as the chain shows them."""
    document = asyncio.run(_status_document(target, epoch))
    print_data(output, document, lambda: status_text(document))


async def _status_document(given: TargetOptions, epoch: int | None) -> JSONObject:
    view = await _escrow_view(given, epoch) if given.rpc else None
    objects = await _objects(given, needed=not (given.rpc and given.escrow))
    rows = rows_of(objects, view)
    if epoch is not None:
        rows = [row for row in rows if row["epoch"] == epoch]
        if not rows:
            text = f"epoch {epoch} not found; `fedgpu settle status` lists epochs"
            raise ChainError(text if view else f"{text} on the hub, which deletes old ones; --rpc adds the chain's")
    return {"chain": chain_of(view) if view else None, "epochs": rows}


async def _objects(given: TargetOptions, *, needed: bool) -> list[SettlementEpoch]:
    """The hub's SettlementEpochs; none without a kubeconfig, if the chain was named in full."""
    from fedgpu_operator.api.settlementepoch import SettlementEpoch
    from fedgpu_operator.ports import ResourceType

    try:
        async with open_hub(given.context) as hub:
            objects, _ = await hub.list(ResourceType.of(SettlementEpoch.info))
    except ConfigurationError:
        if needed:
            raise
        return []
    return [SettlementEpoch.parse(each) for each in objects]


async def _escrow_view(given: TargetOptions, epoch: int | None) -> EscrowView:
    async with open_escrow(given) as escrow:
        chain = await escrow.snapshot([], [])
        wanted = range(max(1, chain.last_epoch - SHOWN + 1), chain.last_epoch + 1)
        numbers = [epoch] if epoch and epoch <= chain.last_epoch else list(wanted)
        return EscrowView(chain, await _epochs(escrow, numbers), await escrow.disputes(), await escrow.exits())


async def _epochs(escrow: EscrowClient, numbers: list[int]) -> tuple[EpochState, ...]:
    return tuple(await asyncio.gather(*(escrow.finalized_epoch(number) for number in numbers)))


def rows_of(objects: list[SettlementEpoch], view: EscrowView | None) -> list[JSONObject]:
    """One row per epoch, oldest first; object and chain belong together if they have the same root.

    `epoch` is the number on the chain, None if the chain does not show it (yet).
    """
    by_root = {each.root: each for each in view.epochs} if view else {}
    rows = [_row(each, by_root.pop(each.spec.root, None), view) for each in objects]
    rows += [_row(None, each, view) for each in by_root.values()]
    return sorted(rows, key=lambda row: (row["epoch"] is None, row["epoch"] or 0, row["object"] or ""))


def _row(obj: SettlementEpoch | None, state: EpochState | None, view: EscrowView | None) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    number = state.number if state else obj.spec.sequence if obj and not view else None
    spec, status = (obj.spec, obj.status) if obj else (None, None)
    return {
        "epoch": number,
        "object": obj.metadata.name if obj else None,
        "state": status.state if status else None,
        "onChain": _place(state, view.chain) if state and view else None,
        "debited": format_usd(state.total) if state else spec.total if spec else None,
        "paid": status.paid if status else None,
        "tenants": spec.tenants if spec else None,
        "providers": spec.providers if spec else None,
        "periodEnd": instant(state.period_end) if state else instant(spec.period_end) if spec else None,
        "root": state.root if state else spec.root if spec else None,
        "postTransaction": (status.transactions.post or None) if status else None,
        "claimTransaction": (status.transactions.claim or None) if status else None,
        "conditions": [each.to_wire() for each in status.conditions] if status else [],
    }


def _place(state: EpochState, chain: ChainSnapshot) -> str:
    """Where the contract holds the epoch: claims go against the active one only."""
    if state.cancelled:
        return "Cancelled"
    if state.number == chain.active_epoch:
        return "Active"
    return "InWindow" if state.number == chain.head_epoch else "Superseded"


def chain_of(view: EscrowView) -> JSONObject:
    """The escrow's own state as data; `windowEnds` is None if no window is open or the clock is paused."""
    chain = view.chain
    waiting = not chain.head_is_active and not chain.paused
    return {
        "chainID": chain.chain_id,
        "escrow": chain.escrow,
        "block": chain.block_number,
        "at": instant(chain.timestamp),
        "seq": chain.seq,
        "headEpoch": chain.head_epoch,
        "activeEpoch": chain.active_epoch,
        "windowEnds": instant(chain.timestamp + chain.active_at - chain.clock) if waiting else None,
        "paused": chain.paused,
        "openDisputes": len(view.disputes),
        "openExits": len(view.exits),
    }


def status_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = list(_chain_text(document["chain"]))
    rows = document["epochs"]
    if not rows:
        return [*parts, "No epochs posted yet."]
    # A column without any value is not shown.
    names = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    table = plain_table(*(COLUMNS[name] for name in names), right=FIGURES)
    for row in rows:
        table.add_row(*("-" if row[name] is None else str(row[name]) for name in names))
    parts.append(table)
    if len(rows) == 1 and rows[0]["conditions"]:
        parts += ["", conditions_table(rows[0]["conditions"])]
    return parts


def _chain_text(chain: JSONObject | None) -> Iterator[str]:
    if chain is None:
        return
    yield f"escrow {chain['escrow']} on chain {chain['chainID']}, block {chain['block']} of {chain['at']}, final"
    if chain["paused"]:
        yield "settlement is paused by the guardian; withdrawals and disputes are not paused"
    elif chain["windowEnds"]:
        yield f"epoch {chain['headEpoch']} can be disputed until {chain['windowEnds']}, then claimed"
    elif chain["activeEpoch"]:
        yield f"epoch {chain['activeEpoch']} is active: it can be claimed"
    if chain["openDisputes"] or chain["openExits"]:
        yield f"{chain['openDisputes']} open disputes, {chain['openExits']} open exits"
    yield ""


@register(app, "verify")
def verify(
    epoch: Annotated[int, typer.Argument(min=1, help="Number of the epoch on the chain.")],
    target: TargetOptions,
    manifest: ManifestOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify an epoch against the chain.

    Rebuilds its root from its manifest and compares both with the chain; exit 1 if they differ.
    """
    shown, verdicts = asyncio.run(_judged(epoch, target, manifest))
    document = verify_document(shown, verdicts)
    print_data(output, document, lambda: verify_text(document))
    if not document["sound"]:
        raise typer.Exit(1)


async def _judged(epoch: int, given: TargetOptions, place: str) -> tuple[EpochOnChain, tuple[EpochCheck, ...]]:
    from fedgpu_operator.settlement.verify import EpochOnChain, judge

    async with open_escrow(given, verify=True) as escrow:
        posted = await escrow.posted(epoch)
        if posted is None:
            text = f"{escrow.escrow} on chain {escrow.chain_id} has no final epoch of that number"
            raise ChainError(f"epoch {epoch} not found: {text}")
        raw = await manifest_of(given, place, epoch, posted.manifest_hash)
        state, books = await escrow.finalized_epoch(epoch), await _books_after_post(escrow, raw, posted)
        shown = EpochOnChain(escrow.chain_id, escrow.escrow, posted, state, books)
    return shown, judge(raw, shown)


async def _books_after_post(escrow: EscrowClient, raw: bytes, posted: PostedEpoch) -> ChainSnapshot | None:
    """The books of the manifest's pairs right after the post; None if no endpoint keeps state that old."""
    from fedgpu_operator.settlement import parse_manifest

    try:
        pairs = sorted(parse_manifest(raw).pairs)
    except (ValueError, RecursionError):
        return None
    try:
        return await escrow.snapshot(sorted({tenant for tenant, _ in pairs}), pairs, posted.block_number)
    except ChainError:
        return None


def verify_document(shown: EpochOnChain, verdicts: tuple[EpochCheck, ...]) -> JSONObject:
    """The verdicts as data; `result` is one of holds, differs and not compared."""
    from fedgpu_operator.settlement.verify import sound

    return {
        "epoch": shown.posted.number,
        "chainID": shown.chain_id,
        "escrow": shown.escrow,
        "transaction": shown.posted.tx_hash,
        "block": shown.posted.block_number,
        "cancelled": shown.state.cancelled,
        "sound": sound(verdicts),
        "verdicts": [{"what": each.what, "result": RESULTS[each.holds], "text": each.text} for each in verdicts],
    }


def verify_text(document: JSONObject) -> list[str]:
    """The verdicts for people, one line each."""
    marks = {result: mark(holds) for holds, result in RESULTS.items()}
    place = f"epoch {document['epoch']} of {document['escrow']} on chain {document['chainID']}"
    lines = [f"{place}, posted in block {document['block']} by {document['transaction']}"]
    if document["cancelled"]:
        lines.append("Cancelled by the guardian: it pays nothing.")
    lines += [f"{marks[each['result']]} {each['what']:<14} {each['text']}" for each in document["verdicts"]]
    return [*lines, f"The manifest and the chain {'agree' if document['sound'] else 'do not agree'}."]
