"""Writes a job's status and the Events that its change is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.hub.jobevents import job_events
from fedgpu_operator.hub.jobfacts import JobFacts
from fedgpu_operator.hub.jobstatus import job_status
from fedgpu_operator.hub.write import emit, write_status
from fedgpu_operator.ports import Clock, Kube


class JobWriter:
    """The only one that writes ComputeJob status."""

    def __init__(self, kube: Kube, clock: Clock, *, settlement: bool) -> None:
        self._kube = kube
        self._clock = clock
        self._settlement = settlement

    async def write(self, facts: JobFacts, transactions: Mapping[int, tuple[str, str]]) -> JobFacts:
        """The facts with the job as it is after the write; ConflictError where it is another by now."""
        job, now = facts.job, self._clock.now()
        status = job_status(facts, now, transactions, settlement=self._settlement)
        written = await write_status(self._kube, job, job.status, status)
        if written is None:
            return facts
        for event in job_events(job.status, status):
            await emit(self._kube, job, event.type, event.reason, event.message, now=now)
        return replace(facts, job=ComputeJob.parse(written))
