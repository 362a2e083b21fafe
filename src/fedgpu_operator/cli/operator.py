"""``fedgpu operator``: runs the operator in this process; everything it does is decided elsewhere."""

from __future__ import annotations

import os
from typing import Final

import typer

NAME: Final = "operator"


def command() -> None:
    """Run the operator against the cluster of KUBECONFIG or of its own pod; FEDGPU_* variables configure it."""
    from fedgpu_operator.settings import Settings

    # Before anything heavy: a wrong setting must be said at once.
    settings = Settings.from_env(os.environ)
    from fedgpu_operator.operator.main import run

    raise typer.Exit(run(settings))
