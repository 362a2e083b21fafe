"""Metering: from pods to billed GPU-seconds and exact money; pure, with `now` as an argument."""

from __future__ import annotations

from fedgpu_operator.metering.billing import (
    Billed,
    Clip,
    HubObservation,
    bill,
    covers,
    receipt_cumulative,
)
from fedgpu_operator.metering.usage import ContainerFacts, PodFacts, disputed, measure, tolerance, worth_writing

__all__ = [
    "Billed",
    "Clip",
    "ContainerFacts",
    "HubObservation",
    "PodFacts",
    "bill",
    "covers",
    "disputed",
    "measure",
    "receipt_cumulative",
    "tolerance",
    "worth_writing",
]
