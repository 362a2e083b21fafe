"""Writes a job's status and the Events that its change is worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.errors import RejectedError
from fedgpu_operator.hub.services.writes import emit, for_each, one_of_many, write_status
from fedgpu_operator.hub.views.jobfacts import JobFacts
from fedgpu_operator.hub.views.jobs import JobEvent, job_events, job_status
from fedgpu_operator.ports import Clock, Kube, read_back

log = logging.getLogger(__name__)


MOST_REFUSED: Final = 10_000
"""Refused statuses that are remembered; beyond, some are sent again."""


class JobWriter:
    """The only one that writes ComputeJob status; the Events of a pass go out by `tell`, after all that matters."""

    def __init__(self, kube: Kube, clock: Clock, *, settlement: bool) -> None:
        self._kube = kube
        self._clock = clock
        self._settlement = settlement
        self._untold: list[tuple[ComputeJob, JobEvent]] = []
        self._refused: dict[str, str] = {}

    async def write(self, facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> JobFacts:
        """The facts with the job as it is after the write; ConflictError where it is another by now."""
        job, now = facts.job, self._clock.now()
        status = job_status(facts, now, transactions, settlement=self._settlement)
        written = await write_status(self._kube, job, job.status, status)
        if written is None:
            return facts
        self._untold += [(job, event) for event in job_events(job.status, status)]
        return replace(facts, job=read_back(self._kube, ComputeJob, written))

    async def show(self, facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> JobFacts:
        """As `write`, where nothing depends on the status: one that the API server refuses is told by an Event.

        It is not sent again before the job is another version.
        """
        job = facts.job
        meta = job.metadata
        if self._refused.get(meta.uid) == meta.resource_version:
            return facts
        self._refused.pop(meta.uid, None)
        try:
            return await self.write(facts, transactions)
        except RejectedError as error:
            if len(self._refused) >= MOST_REFUSED:
                self._refused.clear()
            self._refused[meta.uid] = meta.resource_version
            log.warning("the status of job %s is not up to date: %s", job.key, error)
            self.note(job, JobEvent("Warning", "StatusRefused", f"the status shown is not up to date: {error}"))
            return facts

    def note(self, job: ComputeJob, event: JobEvent) -> None:
        """An Event that no change of the status brings about; it goes out with the others."""
        self._untold.append((job, event))

    async def tell(self) -> None:
        """Send the Events of what was written; one that cannot be sent is lost, as is one of a process that dies."""
        events, self._untold = self._untold, []
        now = self._clock.now()

        async def send(each: tuple[ComputeJob, JobEvent]) -> None:
            job, event = each
            with one_of_many(job):
                await emit(self._kube, job, event.type, event.reason, event.message, now=now)

        await for_each(send, events)
