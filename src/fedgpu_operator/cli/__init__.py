"""The command ``fedgpu``: one file per verb; `main` turns every error into one line and an exit code.

Verbs import what they need when they run, so that ``fedgpu --help`` stays quick.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

import typer

from fedgpu_operator.cli import (
    account,
    chain,
    cost,
    crds,
    demo,
    explain,
    ledger,
    market,
    offers,
    operator,
    payouts,
    provider,
    quote,
    settle,
    simulate,
    version,
)
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
"""A transaction was signed and may count: neither done nor failed. Repeating the command looks for it."""
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells count it."""

app = typer.Typer(
    help="Federates GPU clusters: lawful placement, honest metering, settlement on chain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (demo, operator, crds, explain, offers, market, quote, cost, simulate, version):
    app.command(verb.NAME)(verb.command)
for group in (account, provider, chain, settle, payouts, ledger):
    app.add_typer(group.app, name=group.NAME)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; `arguments` are those of the process unless given. Returns the exit code."""
    # It logs what it then raises; the reader is told once.
    logging.getLogger("kubernetes").addHandler(logging.NullHandler())
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name=program_name(sys.argv[0]))
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except FedGPUError as error:
        sys.stderr.write(f"error: {clean(advice(error))}\n")
        if isinstance(error, PendingError):
            return PENDING
        return USAGE if isinstance(error, ConfigurationError) else FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `head` does; without this, the interpreter complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return 0


def program_name(path: str) -> str:
    """How the user called it: ``kubectl-fedgpu`` is kubectl's plugin and reads as two words there."""
    name = Path(path).name
    return "kubectl fedgpu" if name.startswith("kubectl-fedgpu") else "fedgpu"


def advice(error: FedGPUError) -> str:
    """The error in one line, with what to do about it where that is known; of the lab with the log it came with."""
    if isinstance(error, LabError):
        return str(error)
    text = " ".join(str(error).split())
    if not isinstance(error, KubeError):
        return text
    if isinstance(error, UnreachableError):
        return f"the API server does not answer: {text}; check KUBECONFIG and --context, and that the cluster is up"
    if error.status == 401:
        return f"the API server does not accept these credentials: {text}; renew them in your kubeconfig"
    if isinstance(error, ForbiddenError):
        return f"you are not allowed to do that: {text}; ask for a role that may get and list fedgpu.dev resources"
    if isinstance(error, NotFoundError) and "page not found" in text:
        return (
            "this cluster does not know the fedgpu.dev resources; install them with "
            "`fedgpu crds | kubectl apply --server-side -f -`"
        )
    if isinstance(error, NotFoundError) and ": 404: " in text:
        return f"{text.rsplit(': 404: ', 1)[-1]}; check the name, and the namespace with -n"
    return text
