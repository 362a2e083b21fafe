"""``fedgpu operator``: runs the Kopf operator of this package in this process, with its log and its probes."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime

import kopf

from fedgpu_operator.domain.text import clean
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError, FedGPUError
from fedgpu_operator.operator.lifecycle import Process, quiet_libraries
from fedgpu_operator.operator.outcomes import outcome
from fedgpu_operator.operator.probes import ProbeSite
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status, 2 for a configuration that can never work."""
    _configure_logging(settings)
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
        await kopf.operator(clusterwide=True, standalone=True, memo=kopf.Memo(process=process))
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


class _JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _TextFormatter(logging.Formatter):
    """For people at a terminal, which nothing that is logged can steer."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def _configure_logging(settings: Settings) -> None:
    handler = logging.StreamHandler()
    text = _TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JSONFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    quiet_libraries()
