"""The command line, run in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

from fedgpu_operator.cli import main


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `fedgpu` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()
