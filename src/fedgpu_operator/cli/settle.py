"""``fedgpu settle``: the settlement of a hub seen from outside; each verb lives in a file of its own."""

from __future__ import annotations

from typing import Final

import typer

from fedgpu_operator.cli import settle_dispute
from fedgpu_operator.cli.options import flat
from fedgpu_operator.cli.settle_status import status
from fedgpu_operator.cli.settle_verify import verify

NAME: Final = "settle"

app = typer.Typer(no_args_is_help=True, help="Look at epochs, verify them against the chain, dispute what is wrong.")
app.command()(flat(status))
app.command()(flat(verify))
app.add_typer(settle_dispute.app, name="dispute")
