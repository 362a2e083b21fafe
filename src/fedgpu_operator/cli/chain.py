"""``fedgpu chain``: the contracts that settlement rests on; each verb lives in a file of its own."""

from __future__ import annotations

from typing import Final

import typer

from fedgpu_operator.cli.chain_check import check
from fedgpu_operator.cli.chain_deploy import deploy
from fedgpu_operator.cli.options import flat

NAME: Final = "chain"

app = typer.Typer(no_args_is_help=True, help="Deploy the escrow's contracts, and check those that are there.")
app.command()(flat(deploy))
app.command()(flat(check))
