"""The plugins in order, one line each: the order decides which refusal is named, law first, passing states last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import Context, Refusal
from fedgpu_operator.placement.plugins import (
    budget,
    capacity,
    carbon,
    compliance,
    cooldown,
    deadline,
    hardware,
    latency,
    policy,
    price_cap,
    readiness,
    residency,
    selector,
)


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: its name in the docs, its function, and every reason it may give."""

    name: str
    refusal: Callable[[Context, Offer], Refusal | None]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Pricer:
    """One part of the effective price: its name in `Verdict.components` and its function (µUSD per GPU-hour)."""

    name: str
    price: Callable[[Context, Sequence[Offer]], NDArray[np.int64]]


FILTERS: Final = (
    Filter("residency", residency.refusal, (Reason.RESIDENCY_DENIED,)),
    Filter("compliance", compliance.refusal, (Reason.COMPLIANCE_MISSING,)),
    Filter("policy", policy.refusal, (Reason.POLICY_DENIED,)),
    Filter("selector", selector.refusal, (Reason.SELECTOR_MISMATCH,)),
    Filter("hardware", hardware.refusal, (Reason.HARDWARE_MISMATCH,)),
    Filter("priceCap", price_cap.refusal, (Reason.PRICE_ABOVE_LIMIT,)),
    Filter("latency", latency.refusal, (Reason.LATENCY_UNMEASURED, Reason.LATENCY_TOO_HIGH)),
    Filter("budget", budget.refusal, (Reason.OVER_BUDGET,)),
    Filter("deadline", deadline.refusal, (Reason.DEADLINE_TOO_NEAR,)),
    Filter("readiness", readiness.refusal, (Reason.PROVIDER_NOT_READY,)),
    Filter("cooldown", cooldown.refusal, (Reason.COOLING_DOWN,)),
    Filter("capacity", capacity.refusal, (Reason.INSUFFICIENT_GPUS, Reason.PROVIDER_FULL)),
)

PRICERS: Final = (
    Pricer("latency", latency.estimated_price),
    Pricer("latencyAssumed", latency.assumed_price),
    Pricer("carbon", carbon.stated_price),
    Pricer("carbonAssumed", carbon.assumed_price),
)

REASON_ORDER: Final = (
    *(reason for each in FILTERS for reason in each.reasons),
    Reason.UNFUNDED,
    Reason.OUTBID,
)
"""Reasons from the first filter to the solver: the later one is the nearer miss."""
