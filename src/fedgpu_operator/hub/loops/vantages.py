"""The vantage loop: tells every provider's agent which measuring points to probe, in the spec of its report."""

from __future__ import annotations

import logging

from fedgpu_operator.api.providerreport import ProviderReport, VantageRef
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.writes import Writers, one_of_many
from fedgpu_operator.ports import Kube

log = logging.getLogger(__name__)


class VantageLoop:
    """Keeps `spec.vantages` of all reports at what the operator was told."""

    def __init__(self, kube: Kube, writers: Writers, vantages: tuple[Vantage, ...]) -> None:
        self._kube = kube
        self._writer = writers.reports
        self._asked = [VantageRef(name=each.name, url=each.url) for each in sorted(vantages, key=lambda v: v.name)]

    async def pass_once(self) -> float | None:
        """One pass over all reports."""
        for report in await load_all(self._kube, ProviderReport):
            with one_of_many(report):
                if await self._writer.set_vantages(report, self._asked):
                    log.info("provider %s: asked to probe %d vantages", report.spec.provider, len(self._asked))
        return None
