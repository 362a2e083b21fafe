"""Metering: from pods to billed GPU-seconds and exact money; pure, with `now` as an argument."""

from __future__ import annotations

from fedgpu_operator.metering.accrual import covers, receipt_cumulative
from fedgpu_operator.metering.billing import DEFAULT_GRACE, Billed, Clip, HubObservation, bill, ceiling
from fedgpu_operator.metering.measure import ContainerFacts, PodFacts, measure

__all__ = [
    "DEFAULT_GRACE",
    "Billed",
    "Clip",
    "ContainerFacts",
    "HubObservation",
    "PodFacts",
    "bill",
    "ceiling",
    "covers",
    "measure",
    "receipt_cumulative",
]
