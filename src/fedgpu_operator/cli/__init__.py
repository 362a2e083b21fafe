"""The command ``fedgpu``: the commands by name; `main` turns every error into one line and an exit code.

Commands import what they need when they run, so that ``fedgpu --help`` stays quick.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

import typer

from fedgpu_operator.cli import account, chain, jobs, ledger, market, payouts, provider, quote, settle, simulate, system
from fedgpu_operator.cli.common import Command
from fedgpu_operator.domain.text import clean
from fedgpu_operator.errors import (
    ConfigurationError,
    FedGPUError,
    ForbiddenError,
    KubeError,
    LabError,
    NotFoundError,
    PendingError,
    UnreachableError,
)

FAILURE: Final = 1
USAGE: Final = 2
PENDING: Final = 3
"""A transaction was signed and may still take effect: neither done nor failed. The same command looks for it."""
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells count it."""
UsageError: Final[type[Any]] = typer.BadParameter.__mro__[1]
"""Base of what typer raises for a wrong command line; it does not export the class."""

app = typer.Typer(
    help="Federate GPU clusters: placement by law and cost, metering, settlement on chain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: Final[dict[str, Command]] = {
    "demo": system.demo,
    "operator": system.operator,
    "crds": system.crds,
    "explain": jobs.explain,
    "offers": market.offers,
    "market": market.market,
    "quote": quote.quote,
    "cost": jobs.cost,
    "simulate": simulate.simulate,
    "version": system.version,
}
GROUPS: Final = {
    "account": account.app,
    "provider": provider.app,
    "chain": chain.app,
    "settle": settle.app,
    "payouts": payouts.app,
    "ledger": ledger.app,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process unless given. Returns the exit code."""
    # It logs what it then raises; the reader gets it once.
    logging.getLogger("kubernetes").addHandler(logging.NullHandler())
    try:
        code = typer.main.get_command(app).main(
            args=arguments, prog_name=program_name(sys.argv[0]), standalone_mode=False
        )
    except UsageError as error:
        return _usage(error)
    except typer.Abort:
        sys.stderr.write("error: aborted\n")
        return FAILURE
    except FedGPUError as error:
        sys.stderr.write(f"error: {clean(advice(error))}\n")
        if isinstance(error, PendingError):
            return PENDING
        return USAGE if isinstance(error, ConfigurationError) else FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as done:
        # Typer leaves so if standard output is closed.
        return done.code if isinstance(done.code, int) else FAILURE
    except BrokenPipeError:
        # The reader went away, as `head` does; without this, the interpreter complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    """Report a wrong command line, of whose error typer exports no class; a bare group shows its help."""
    if type(error).show is not UsageError.show:
        error.show()
        return USAGE
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    sys.stderr.write(f"error: {clean(message[:1].lower() + message[1:])}\n")
    if error.ctx is not None:
        sys.stderr.write(f"See '{error.ctx.command_path} --help'.\n")
    return USAGE


def program_name(path: str) -> str:
    """How the user called it: ``kubectl-fedgpu`` is kubectl's plugin and reads as two words there."""
    name = Path(path).name
    return "kubectl fedgpu" if name.startswith("kubectl-fedgpu") else "fedgpu"


def advice(error: FedGPUError) -> str:
    """The error in one line, with the fix if that is known; an error of the lab with the log that came with it."""
    if isinstance(error, LabError):
        return str(error)
    text = " ".join(str(error).split())
    if not isinstance(error, KubeError):
        return text
    if isinstance(error, UnreachableError):
        return f"API server unreachable: {text}; check KUBECONFIG, --context, and that the cluster is up"
    if error.status == 401:
        return f"credentials rejected by the API server: {text}; renew them in your kubeconfig"
    if isinstance(error, ForbiddenError):
        return f"permission denied: {text}; ask for a role that may get and list fedgpu.dev resources"
    if isinstance(error, NotFoundError) and "page not found" in text:
        return (
            "fedgpu.dev resources not installed in this cluster; install them with "
            "`fedgpu crds | kubectl apply --server-side -f -`"
        )
    if isinstance(error, NotFoundError) and ": 404: " in text:
        return f"{text.rsplit(': 404: ', 1)[-1]}; check the name, and the namespace (-n)"
    return text
