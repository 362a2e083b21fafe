"""The prober: an owner measures round trips to the vantages, and writes them into its ProviderReport."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Final

from fedgpu_operator.agent.report import REPORTS
from fedgpu_operator.api.providerreport import (
    ProbeResult,
    ProviderReport,
    VantageRef,
)
from fedgpu_operator.errors import (
    FedGPUError,
)
from fedgpu_operator.ports import Clock, Kube, RoundTrips

log = logging.getLogger(__name__)

BURST: Final = 5
"""Round trips per vantage and round."""
KEPT: Final = 60
"""Newest round trips that p50 and p95 are taken from: twelve rounds."""


class Prober:
    """Probes what the report's spec lists and writes the report's `status.probes`, nothing else of it."""

    def __init__(self, provider: str, namespace: str, hub: Kube, trips: RoundTrips, clock: Clock) -> None:
        self._provider = provider
        self._namespace = namespace
        self._hub = hub
        self._trips = trips
        self._clock = clock
        self._samples: dict[VantageRef, deque[float]] = {}
        self._results: dict[str, ProbeResult] = {}

    async def round_once(self) -> list[ProbeResult]:
        """Measure every vantage once and write the figures; a vantage that is silent keeps its last, ageing ones.

        Raises KubeError where the hub cannot be read or written.
        """
        report = ProviderReport.parse(await self._hub.get(REPORTS, self._provider, self._namespace))
        asked = report.spec.vantages
        if not self._results:
            self._results = {each.vantage: each for each in report.status.probes}
        self._forget(asked)
        await asyncio.gather(*map(self._probe, asked))
        results = [self._results[each.name] for each in asked if each.name in self._results]
        if results != report.status.probes:
            patch = {"status": {"probes": [each.to_wire() for each in results]}}
            await self._hub.patch_status(REPORTS, self._provider, self._namespace, patch)
        return results

    def _forget(self, asked: Sequence[VantageRef]) -> None:
        """A vantage that is gone, or stands at another URL now, has no past."""
        changed = {each.name for each in self._samples} - {each.name for each in asked if each in self._samples}
        names = {each.name for each in asked}
        self._samples = {each: kept for each, kept in self._samples.items() if each in asked}
        self._results = {name: each for name, each in self._results.items() if name in names and name not in changed}

    async def _probe(self, vantage: VantageRef) -> None:
        samples = self._samples.setdefault(vantage, deque(maxlen=KEPT))
        try:
            for _ in range(BURST):
                samples.append(1000 * await self._trips.measure(vantage.url))
        except FedGPUError as error:
            log.warning("vantage %s: %s", vantage.name, error)
            return
        self._results[vantage.name] = ProbeResult(
            vantage=vantage.name,
            p50_ms=round(median(samples), 3),
            p95_ms=round(quantiles(samples, n=20, method="inclusive")[-1], 3),
            samples=len(samples),
            measured_at=self._clock.now().replace(microsecond=0),
        )
