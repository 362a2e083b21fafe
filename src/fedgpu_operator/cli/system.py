"""``fedgpu operator``, ``crds``, ``version`` and ``demo``: run the operator, install it, try it."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer


class DemoOutput(StrEnum):
    """Output format of the demo's report."""

    TABLE = "table"
    JSON = "json"


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running until Ctrl-C, to explore.")] = False,
    output: Annotated[DemoOutput, typer.Option("--output", "-o", help="Output format.")] = DemoOutput.TABLE,
) -> None:
    """Run the whole system on this machine.

    Seven API servers and a chain are started; the examples run, are settled, paid and audited.
    """
    try:
        from fedgpu_lab.demo import run
    except ModuleNotFoundError as error:
        from fedgpu_operator.errors import ConfigurationError

        raise ConfigurationError(
            f"the demo needs {error.name}: not installed; in a checkout of fedgpu, pip install -e lab"
        ) from error

    raise typer.Exit(run(keep=keep, as_json=output is DemoOutput.JSON))


def operator() -> None:
    """Run the operator. It connects to the cluster of KUBECONFIG or of its own pod; FEDGPU_* variables configure it.

    Exit code 2: it can never work as configured. 4: of several replicas, the leader that lost its Lease.
    """
    from fedgpu_operator.settings import Settings

    # Before anything heavy is imported: a wrong setting is reported immediately.
    settings = Settings.from_env(os.environ)
    from fedgpu_operator.operator.main import run

    raise typer.Exit(run(settings))


def crds() -> None:
    """Print the CRDs as YAML.

    Piped into `kubectl apply --server-side --force-conflicts -f -` they are installed or upgraded.
    """
    from fedgpu_operator.api.crd import all_crds, to_yaml

    for each in all_crds():
        sys.stdout.write("---\n" + to_yaml(each))


def version() -> None:
    """Print the version."""
    from importlib.metadata import version

    sys.stdout.write(f"fedgpu {version('fedgpu-operator')}\n")
