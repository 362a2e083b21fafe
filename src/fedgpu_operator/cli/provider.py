"""``fedgpu provider``: a provider's wallet and keys; each verb lives in a file of its own."""

from __future__ import annotations

from typing import Final

import typer

from fedgpu_operator.cli.options import flat
from fedgpu_operator.cli.prove import provider_prove
from fedgpu_operator.cli.provider_accept import accept
from fedgpu_operator.cli.provider_audit import audit
from fedgpu_operator.cli.provider_keys import keys_of_provider
from fedgpu_operator.cli.provider_probe import probe

NAME: Final = "provider"

app = typer.Typer(no_args_is_help=True, help="A provider's own matters: its payout wallet, its keys, its round trips.")
app.command("prove")(provider_prove)
app.command("keys")(flat(keys_of_provider))
app.command("probe")(probe)
app.command("accept")(accept)
app.command("audit")(audit)
