"""``fedgpu operator``: runs the Kopf operator of this package in this process, with its log and its probes."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn
from uuid import uuid4

import kopf

from fedgpu_operator import logs
from fedgpu_operator.adapters.clock import SystemClock, boot_seconds
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.bootstrap import REQUEST_SECONDS, Elector
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError, FedGPUError
from fedgpu_operator.operator.lifecycle import Process
from fedgpu_operator.operator.outcomes import outcome
from fedgpu_operator.operator.probes import ProbeSite
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)

LOST: Final = 4
"""Exit status of a leader that lost its Lease; started again, it stands by."""


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status, 2 for a configuration that can never work."""
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_elected(settings) if settings.leader_election else _main(Process(settings)))
    except (ConfigurationError, ChainMismatchError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


async def _main(process: Process) -> None:
    async with _probed(process):
        await _operate(process)


@asynccontextmanager
async def _probed(process: Process) -> AsyncIterator[None]:
    """With its probes' site, from before the start: an upgrade of a large ledger may take longer than a kubelet waits.

    What runs is closed first.
    """
    site = ProbeSite(process)
    await site.serve()
    try:
        yield
    finally:
        # Kopf's clean-up has done it, unless Kopf was cancelled or failed.
        await process.close()
        await site.close()


async def _operate(process: Process) -> None:
    await _start(process)
    # Without an identity Kopf asks for the user's name, and the user of a pod has none in the image.
    identity: Any = platform.node()  # a str of a type that is private to Kopf
    await kopf.operator(clusterwide=True, standalone=True, identity=identity, memo=kopf.Memo(process=process))


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


async def _elected(settings: Settings) -> None:
    """Stand by until this replica is elected, then operate; the Lease is given back when all has ended."""
    client = await connect(seconds=REQUEST_SECONDS)
    try:
        # Another one for each start: a process that was killed, or is stopped, is not this one.
        identity = f"{platform.node()}_{uuid4()}"
        elector = Elector(client, settings.namespace, identity, seconds=boot_seconds, clock=SystemClock())
        try:
            await _stand_by_and_operate(Process(settings, elector), elector)
        finally:
            await elector.release()
    finally:
        await client.close()


async def _stand_by_and_operate(process: Process, elector: Elector) -> None:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until Kopf runs, which has handlers of its own.
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    keeping: asyncio.Task[str] | None = None
    try:
        async with _probed(process):
            process.serve_metrics()
            log.info("standing by as %s", elector.identity)
            if not await _unless(asked, elector.acquire()):
                return
            keeping = asyncio.create_task(elector.keep(), name="lease")
            keeping.add_done_callback(_end_if_lost)
            await _unless(asked, _operate(process))
    finally:
        # Renewed until nothing is left that may write.
        if keeping is not None:
            keeping.remove_done_callback(_end_if_lost)
            keeping.cancel()
            await asyncio.wait({keeping})


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do that work, and raise what it raises; False if the process was asked to end first."""
    tasks = [asyncio.create_task(work), asyncio.create_task(asked.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            tasks[0].result()
            return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _end_if_lost(keeping: asyncio.Task[str]) -> None:
    if not keeping.cancelled():
        _end(keeping.exception() or keeping.result())


def _end(why: object) -> NoReturn:
    """End the process here and now: closing anything takes time in which another replica leads.

    Nothing needs it. What was promised is in the ledger, and the next leader starts from there, as after a crash.
    """
    log.error("the Lease is lost, the process ends: %s", why)
    logging.shutdown()
    os._exit(LOST)
