"""``fedgpu settle status``: epochs as the hub tells them beside what the chain shows; one look, nothing is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import TargetOptions
from fedgpu_operator.errors import ChainError, ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.settlementepoch import SettlementEpoch
    from fedgpu_operator.domain.settlement import ChainSnapshot, DisputeState, EpochState, ExitState

SHOWN = 20
"""Epochs of the chain that are listed, the newest."""

COLUMNS = {
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
FIGURES = ("EPOCH", "DEBITED", "PAID", "TENANTS", "PROVIDERS")


@dataclass(frozen=True, slots=True)
class Sighted:
    """The escrow at its newest finalized block: its newest epochs, and what is open."""

    chain: ChainSnapshot
    epochs: tuple[EpochState, ...]
    disputes: tuple[DisputeState, ...]
    exits: tuple[ExitState, ...]


def status(
    target: TargetOptions,
    epoch: Annotated[int | None, typer.Argument(min=1, help="One epoch, by its number on the chain.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List epochs: what they debited, who is paid, where they stand; with --rpc also what the chain itself shows."""
    document = asyncio.run(_document(target, epoch))
    print_data(output, document, lambda: text_of(document))


async def _document(given: TargetOptions, epoch: int | None) -> JSONObject:
    sighted = await _sighted(given, epoch) if given.rpc else None
    objects = await _objects(given, needed=not (given.rpc and given.escrow))
    rows = rows_of(objects, sighted)
    if epoch is not None:
        rows = [row for row in rows if row["epoch"] == epoch]
        if not rows:
            text = f"there is no epoch {epoch}; `fedgpu settle status` lists those there are"
            raise ChainError(text if sighted else f"{text} on the hub, which deletes old ones; --rpc reads the chain")
    return {"chain": chain_of(sighted) if sighted else None, "epochs": rows}


async def _objects(given: TargetOptions, *, needed: bool) -> list[SettlementEpoch]:
    """The hub's SettlementEpochs; none where there is no kubeconfig and the chain was named in full."""
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.api.settlementepoch import SettlementEpoch
    from fedgpu_operator.ports import ResourceType

    try:
        hub = await connect(given.context)
    except ConfigurationError:
        if needed:
            raise
        return []
    try:
        objects, _ = await hub.list(ResourceType.of(SettlementEpoch.info))
    finally:
        await hub.close()
    return [SettlementEpoch.parse(each) for each in objects]


async def _sighted(given: TargetOptions, epoch: int | None) -> Sighted:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import find_target

    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        chain = await escrow.snapshot([], [])
        wanted = range(max(1, chain.last_epoch - SHOWN + 1), chain.last_epoch + 1)
        numbers = [epoch] if epoch and epoch <= chain.last_epoch else list(wanted)
        return Sighted(chain, await _epochs(escrow, numbers), await escrow.disputes(), await escrow.exits())


async def _epochs(escrow: EscrowClient, numbers: list[int]) -> tuple[EpochState, ...]:
    return tuple(await asyncio.gather(*(escrow.finalized_epoch(number) for number in numbers)))


def rows_of(objects: list[SettlementEpoch], sighted: Sighted | None) -> list[JSONObject]:
    """One row per epoch, oldest first; object and chain belong together where they have the same root.

    `epoch` is the number on the chain, None where the chain does not show it (yet).
    """
    by_root = {each.root: each for each in sighted.epochs} if sighted else {}
    rows = [_row(each, by_root.pop(each.spec.root, None), sighted) for each in objects]
    rows += [_row(None, each, sighted) for each in by_root.values()]
    return sorted(rows, key=lambda row: (row["epoch"] is None, row["epoch"] or 0, row["object"] or ""))


def _row(obj: SettlementEpoch | None, state: EpochState | None, sighted: Sighted | None) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    number = state.number if state else obj.spec.sequence if obj and not sighted else None
    spec, status = (obj.spec, obj.status) if obj else (None, None)
    return {
        "epoch": number,
        "object": obj.metadata.name if obj else None,
        "state": status.state if status else None,
        "onChain": _place(state, sighted.chain) if state and sighted else None,
        "debited": format_usd(state.total) if state else spec.total if spec else None,
        "paid": status.paid if status else None,
        "tenants": spec.tenants if spec else None,
        "providers": spec.providers if spec else None,
        "periodEnd": _instant(state.period_end) if state else _text(spec.period_end if spec else None),
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


def chain_of(sighted: Sighted) -> JSONObject:
    """The escrow's own state as data; `windowEnds` is None where no window is open or the clock stands still."""
    chain = sighted.chain
    waiting = not chain.head_is_active and not chain.paused
    return {
        "chainID": chain.chain_id,
        "escrow": chain.escrow,
        "block": chain.block_number,
        "at": _instant(chain.timestamp),
        "seq": chain.seq,
        "headEpoch": chain.head_epoch,
        "activeEpoch": chain.active_epoch,
        "windowEnds": _instant(chain.timestamp + chain.active_at - chain.clock) if waiting else None,
        "paused": chain.paused,
        "openDisputes": len(sighted.disputes),
        "openExits": len(sighted.exits),
    }


def text_of(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = list(_chain_text(document["chain"]))
    rows = document["epochs"]
    if not rows:
        return [*parts, "No epoch was posted yet."]
    # A column of which nobody told anything, the hub or the chain, is not shown.
    names = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    table = plain_table(*(COLUMNS[name] for name in names), right=FIGURES)
    for row in rows:
        table.add_row(*("-" if row[name] is None else str(row[name]) for name in names))
    parts.append(table)
    if len(rows) == 1:
        parts += _conditions(rows[0]["conditions"])
    return parts


def _chain_text(chain: JSONObject | None) -> Iterator[str]:
    if chain is None:
        return
    yield f"escrow {chain['escrow']} on chain {chain['chainID']}, block {chain['block']} of {chain['at']}, final"
    if chain["paused"]:
        yield "settlement is paused by the guardian; withdrawals and disputes are not"
    elif chain["windowEnds"]:
        yield f"epoch {chain['headEpoch']} can be disputed until {chain['windowEnds']}, then claimed"
    elif chain["activeEpoch"]:
        yield f"epoch {chain['activeEpoch']} is active: it can be claimed"
    if chain["openDisputes"] or chain["openExits"]:
        yield f"{chain['openDisputes']} disputes and {chain['openExits']} exits are open"
    yield ""


def _conditions(conditions: list[JSONObject]) -> Iterator[Table | str]:
    if conditions:
        table = plain_table("CONDITION", "STATUS", "REASON", "MESSAGE")
        for each in conditions:
            table.add_row(each["type"], each["status"], each["reason"], each.get("message") or "-")
        yield ""
        yield table


def _instant(seconds: int) -> str:
    return _text(datetime.fromtimestamp(seconds, UTC)) or ""


def _text(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None
