"""Placement: jobs and offers in, decisions with every reason out; pure, so no clock, no IO and no Kubernetes."""

from __future__ import annotations

from fedgpu_operator.placement.decide import decide, evaluate
from fedgpu_operator.placement.snapshot import Snapshot

__all__ = ["Snapshot", "decide", "evaluate"]
