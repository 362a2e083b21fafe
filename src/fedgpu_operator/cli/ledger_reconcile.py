"""``fedgpu ledger check`` and ``reconcile``: a ledger that was restored, held to what hub and chain show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import TargetOptions
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.hub.services.recovery import Gap, Place

LedgerOption = Annotated[
    str,
    typer.Option("--ledger", envvar="FEDGPU_LEDGER", help="Path, sqlite:/// or postgresql:// URL of the ledger."),
]
DEFAULT = "/var/lib/fedgpu/ledger.db"
ALL = "all"


def check(target: TargetOptions, ledger: LedgerOption = DEFAULT, output: OutputOption = Output.TABLE) -> None:
    """List what the hub shows, with --rpc also the chain, and the ledger does not hold; exit 1 if there is anything."""
    gaps = asyncio.run(_checked(target, ledger))
    print_data(output, {"gaps": _rows(gaps)}, lambda: _text(gaps))
    if gaps:
        raise typer.Exit(1)


def reconcile(
    target: TargetOptions,
    accept_loss: Annotated[
        list[str] | None,
        typer.Option("--accept-loss", help="Id of a gap that nothing proves, or `all`; it is accepted as lost."),
    ] = None,
    ledger: LedgerOption = DEFAULT,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put back what leases on the hub prove that the ledger held; exit 1 if gaps are left. Stop the operator first."""
    lines, lost, gaps = asyncio.run(_reconciled(target, ledger, accept_loss or []))
    document = {"putBack": list(lines), "acceptedAsLost": _rows(lost), "gaps": _rows(gaps)}
    print_data(output, document, lambda: [*lines, *(f"accepted as lost: {gap.text}" for gap in lost), *_text(gaps)])
    if gaps:
        raise typer.Exit(1)


async def _checked(target: TargetOptions, location: str) -> tuple[Gap, ...]:
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.adapters.ledger import SqlLedger

    hub = await connect(target.context)
    try:
        async with await SqlLedger.open(location, read_only=True) as books:
            return await _gaps(hub, books, target, await _place(hub, target))
    finally:
        await hub.close()


async def _reconciled(
    target: TargetOptions, location: str, losses: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Gap, ...], tuple[Gap, ...]]:
    """What was put back in words, the gaps that were accepted as lost, and those that are left."""
    from fedgpu_operator.adapters.kube.connect import connect
    from fedgpu_operator.adapters.ledger import SqlLedger
    from fedgpu_operator.bootstrap.factory import Factory
    from fedgpu_operator.hub.services.recovery import accept
    from fedgpu_operator.settings import Settings

    hub = await connect(target.context)
    try:
        async with await SqlLedger.open(location, upgrade=False) as books:
            place = await _place(hub, target)
            gaps = await _gaps(hub, books, target, place)
            known = {gap.id for gap in gaps}
            if unknown := sorted(set(losses) - known - {ALL}):
                raise ConfigurationError(f"--accept-loss {unknown[0]}: no such gap; `fedgpu ledger check` lists them")
            taken = known if ALL in losses else set(losses)
            factory = Factory(Settings.from_env({}), hub, books, place=place)
            repair = await factory.reconciler().repair(gaps, taken)
            left = await _gaps(hub, books, target, place)
            # An attempt that is put back without proof leaves its usage: that is lost with it.
            lost = tuple(gap for gap in left if gap.id in taken or ALL in losses)
            await accept(hub, target.operator_namespace, lost)
            return repair.lines, lost, tuple(gap for gap in left if gap not in lost)
    finally:
        await hub.close()


async def _gaps(hub: KubeClient, books: SqlLedger, target: TargetOptions, place: Place | None) -> tuple[Gap, ...]:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import find_target
    from fedgpu_operator.hub.services.recovery import compare, compare_chain, without_accepted

    found = await compare(hub, books, target.operator_namespace, place)
    if target.rpc:
        known = await find_target(target)
        async with EscrowClient(known.rpc, known.escrow, known.chain_id) as escrow:
            await escrow.verify()
            found += await without_accepted(hub, target.operator_namespace, await compare_chain(books, escrow))
    return found


async def _place(hub: KubeClient, target: TargetOptions) -> Place | None:
    """Where the hub's operator settles; None where it settles nowhere."""
    from fedgpu_operator.errors import NotFoundError
    from fedgpu_operator.hub.services.recovery import Place
    from fedgpu_operator.hub.views.escrow import published

    try:
        known = await published(hub, target.operator_namespace)
    except NotFoundError:
        return None
    return Place(known.chain_id, known.escrow)


def _rows(gaps: Sequence[Gap]) -> list[JSONObject]:
    return [{"id": gap.id, "kind": gap.kind.value, "text": gap.text} for gap in gaps]


def _text(gaps: Sequence[Gap]) -> list[Table | str]:
    if not gaps:
        return ["✓ the ledger holds all that is shown"]
    table = plain_table("GAP", "WHAT")
    for gap in gaps:
        table.add_row(gap.id, gap.text)
    return [table, "", f"✗ {len(gaps)} gaps: an operator on this ledger opens nothing"]
