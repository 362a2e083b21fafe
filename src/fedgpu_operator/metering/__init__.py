"""Metering: from pods to billed GPU-seconds and exact money; pure, with `now` as an argument."""

from __future__ import annotations

from fedgpu_operator.metering.billing import (
    DEFAULT_GRACE,
    Billed,
    Clip,
    HubObservation,
    bill,
    ceiling,
    covers,
    receipt_cumulative,
)
from fedgpu_operator.metering.usage import ContainerFacts, PodFacts, disputed, measure, tolerance, worth_writing

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
