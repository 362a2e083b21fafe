"""``fedgpu operator``: runs the Kopf operator of this package in this process, with its log and its probes."""

from __future__ import annotations

import asyncio
import logging
import sys
from socket import gethostname
from typing import Any

import kopf

from fedgpu_operator import logs
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError, FedGPUError
from fedgpu_operator.operator.lifecycle import Process
from fedgpu_operator.operator.outcomes import outcome
from fedgpu_operator.operator.probes import ProbeSite
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status, 2 for a configuration that can never work."""
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_main(settings))
    except (ConfigurationError, ChainMismatchError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


async def _main(settings: Settings) -> None:
    process = Process(settings)
    site = ProbeSite(process)
    # Before the rest: an upgrade of a large ledger may take longer than a kubelet waits for a first answer.
    await site.serve()
    try:
        await _start(process)
        # Without an identity Kopf asks for the user's name, and the user of a pod has none in the image.
        identity: Any = gethostname()  # a str of a type that is private to Kopf
        memo = kopf.Memo(process=process)
        await kopf.operator(clusterwide=True, standalone=True, identity=identity, memo=memo)
    finally:
        # Kopf's clean-up has done it, unless Kopf was cancelled or failed.
        await process.close()
        await site.close()


async def _start(process: Process) -> None:
    """Start before Kopf does, whose tracebacks would hide the one line that a wrong configuration is worth."""
    while True:
        try:
            return await process.start()
        except FedGPUError as error:
            verdict = outcome(error)
            if isinstance(verdict, kopf.PermanentError):
                raise
            log.warning("cannot start, retrying in %g s: %s", verdict.delay, verdict)
            await asyncio.sleep(verdict.delay or 0.0)
