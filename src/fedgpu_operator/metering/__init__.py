"""Metering: from pods to billed GPU-seconds and exact money; pure, with `now` as an argument."""

from __future__ import annotations

from fedgpu_operator.metering.accrual import covers, receipt_cumulative
from fedgpu_operator.metering.billing import DEFAULT_GRACE, Billed, Clip, HubObservation, bill, ceiling
from fedgpu_operator.metering.cadence import worth_writing
from fedgpu_operator.metering.measure import ContainerFacts, PodFacts, measure
from fedgpu_operator.metering.tolerance import disputed, tolerance

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
    "disputed",
    "measure",
    "receipt_cumulative",
    "tolerance",
    "worth_writing",
]
