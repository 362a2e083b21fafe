"""``fedgpu chain check``: whether an address holds this version's escrow, on which terms, and where it stands."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data
from fedgpu_operator.cli.options import TargetOptions
from fedgpu_operator.cli.wallets import lasting

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import ChainSnapshot
    from fedgpu_operator.domain.terms import EscrowTerms, Role


def check(
    target: TargetOptions,
    settler: Annotated[str, typer.Option("--settler", help="Check that this account holds the role.")] = "",
    meter: Annotated[str, typer.Option("--meter", help="Check that this account holds the role.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare code, chain id and token decimals with what this version expects; exit 1 where they differ."""
    holders: dict[Role, str] = {"SETTLER": settler, "METER": meter}
    document = asyncio.run(_checked(target, holders))
    print_data(output, document, lambda: text_of(document))
    if not all(document["roles"].values()):
        raise typer.Exit(1)


async def _checked(given: TargetOptions, holders: dict[Role, str]) -> JSONObject:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import address, find_target

    asked = {role: address(f"--{role.lower()}", who) for role, who in holders.items() if who}
    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        await escrow.verify()
        chain = await escrow.snapshot([], [])
        held = {f"{who} is {role}": await escrow.holds_role(role, who) for role, who in asked.items()}
        return document_of(chain, await escrow.terms(), held)


def document_of(chain: ChainSnapshot, terms: EscrowTerms, held: dict[str, bool]) -> JSONObject:
    """What was found, as data; periods in seconds."""
    return {
        "chainID": chain.chain_id,
        "escrow": chain.escrow,
        "block": chain.block_number,
        "code": "this version's ComputeEscrow",
        "token": {"address": terms.token, "symbol": terms.symbol, "decimals": terms.decimals},
        "reserve": terms.reserve,
        "periods": asdict(terms.periods),
        "headEpoch": chain.head_epoch,
        "paused": chain.paused,
        "roles": held,
    }


def text_of(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    token = document["token"]
    lines: list[Table | str] = [
        f"✓ chain {document['chainID']}, block {document['block']}, final",
        f"✓ {document['escrow']} holds {document['code']}",
        f"✓ token {token['symbol']} ({token['address']}) with {token['decimals']} decimals, as the escrow counts",
    ]
    lines += [f"{'✓' if holds else '✗'} {claim}" for claim, holds in document["roles"].items()]
    lines.append(f"newest epoch {document['headEpoch'] or 'none'}{', paused' if document['paused'] else ''}")
    table = plain_table("PERIOD", "LENGTH")
    for name, seconds in document["periods"].items():
        table.add_row(name.replace("_", " "), lasting(seconds))
    return [*lines, "", table]
