"""``fedgpu demo``: the whole path on this machine, from `kubectl apply` to paid; the work is the lab's."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

NAME: Final = "demo"


class DemoOutput(StrEnum):
    """How to print the report."""

    TABLE = "table"
    JSON = "json"


def command(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, to explore.")] = False,
    output: Annotated[DemoOutput, typer.Option("--output", "-o", help="table or json.")] = DemoOutput.TABLE,
) -> None:
    """Start seven real API servers and a chain, run the examples, settle, pay and audit."""
    try:
        from fedgpu_lab.demo import run
    except ModuleNotFoundError as error:
        from fedgpu_operator.errors import ConfigurationError

        raise ConfigurationError(
            f"the demo needs {error.name}, which is not installed: in a checkout of fedgpu, pip install -e lab"
        ) from error

    raise typer.Exit(run(keep=keep, as_json=output is DemoOutput.JSON))
