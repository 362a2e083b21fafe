"""Placement: jobs and offers in, decisions with every reason out; pure, so no clock, no IO and no Kubernetes."""

from __future__ import annotations

from fedgpu_operator.placement.context import Context, OfferRefusal, Snapshot
from fedgpu_operator.placement.engine import Engine, PassResult, Placement, decide, evaluate, place
from fedgpu_operator.placement.registry import BUILT_IN, Filter, Plugins, Pricer
from fedgpu_operator.placement.table import OfferTable

__all__ = [
    "BUILT_IN",
    "Context",
    "Engine",
    "Filter",
    "OfferRefusal",
    "OfferTable",
    "PassResult",
    "Placement",
    "Plugins",
    "Pricer",
    "Snapshot",
    "decide",
    "evaluate",
    "place",
]
