"""``fedgpu settle verify EPOCH``: one epoch against the chain, by its published manifest; asks no operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, print_data
from fedgpu_operator.cli.options import ManifestOption, TargetOptions

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import ChainSnapshot
    from fedgpu_operator.domain.transactions import PostedEpoch
    from fedgpu_operator.settlement.verify import EpochCheck, EpochOnChain

MARKS = {True: "✓", False: "✗", None: "-"}
WORDS = {True: "holds", False: "differs", None: "not compared"}


def verify(
    epoch: Annotated[int, typer.Argument(min=1, help="Number of the epoch on the chain.")],
    target: TargetOptions,
    manifest: ManifestOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Rebuild an epoch's root from its manifest and compare all it says with the chain; exit 1 where they differ."""
    shown, verdicts = asyncio.run(_judged(epoch, target, manifest))
    document = document_of(shown, verdicts)
    print_data(output, document, lambda: text_of(document))
    if not document["sound"]:
        raise typer.Exit(1)


async def _judged(epoch: int, given: TargetOptions, place: str) -> tuple[EpochOnChain, tuple[EpochCheck, ...]]:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.manifests import manifest_of
    from fedgpu_operator.cli.target import find_target
    from fedgpu_operator.errors import ChainError
    from fedgpu_operator.settlement.verify import EpochOnChain, judge

    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        await escrow.verify()
        posted = await escrow.posted(epoch)
        if posted is None:
            raise ChainError(f"{escrow.escrow} on chain {escrow.chain_id} has no epoch {epoch} that is final")
        raw = await manifest_of(given, place, epoch, posted.manifest_hash)
        state, books = await escrow.finalized_epoch(epoch), await _books(escrow, raw, posted)
    shown = EpochOnChain(target.chain_id, target.escrow, posted, state, books)
    return shown, judge(raw, shown)


async def _books(escrow: EscrowClient, raw: bytes, posted: PostedEpoch) -> ChainSnapshot | None:
    """The books of the manifest's pairs right after the post; None where no endpoint keeps state that old."""
    from fedgpu_operator.errors import ChainError
    from fedgpu_operator.settlement import parse_manifest

    try:
        pairs = sorted(parse_manifest(raw).pairs)
    except (ValueError, RecursionError):
        return None
    try:
        return await escrow.snapshot(sorted({tenant for tenant, _ in pairs}), pairs, posted.block_number)
    except ChainError:
        return None


def document_of(shown: EpochOnChain, verdicts: tuple[EpochCheck, ...]) -> JSONObject:
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
        "verdicts": [{"what": each.what, "result": WORDS[each.holds], "text": each.text} for each in verdicts],
    }


def text_of(document: JSONObject) -> list[str]:
    """The verdicts for people, one line each."""
    marks = {WORDS[holds]: mark for holds, mark in MARKS.items()}
    place = f"epoch {document['epoch']} of {document['escrow']} on chain {document['chainID']}"
    lines = [f"{place}, posted in block {document['block']} by {document['transaction']}"]
    if document["cancelled"]:
        lines.append("The guardian cancelled it: it pays nothing.")
    lines += [f"{marks[each['result']]} {each['what']:<14} {each['text']}" for each in document["verdicts"]]
    return [*lines, "The manifest and the chain agree." if document["sound"] else "They do not agree."]
