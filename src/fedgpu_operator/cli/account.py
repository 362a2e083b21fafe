"""``fedgpu account``: a tenant's money and wallet; each verb lives in a file of its own."""

from __future__ import annotations

from typing import Final

import typer

from fedgpu_operator.cli import account_limits, account_withdraw
from fedgpu_operator.cli.account_deposit import deposit
from fedgpu_operator.cli.options import flat
from fedgpu_operator.cli.prove import account_prove

NAME: Final = "account"

app = typer.Typer(no_args_is_help=True, help="Your account at the escrow: deposit, withdraw, limit, prove the wallet.")
app.command()(flat(deposit))
app.add_typer(account_withdraw.app, name="withdraw")
app.add_typer(account_limits.app, name="limits")
app.command("prove")(account_prove)
