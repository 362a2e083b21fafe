"""Splittable units to offers by minimum-cost flow: exact and proven, or a step on from the last solution."""

from __future__ import annotations

from fedgpu_operator.placement.flow.session import Change, Session
from fedgpu_operator.placement.flow.transport import transport
from fedgpu_operator.placement.flow.units import Flow, Transport

__all__ = ["Change", "Flow", "Session", "Transport", "transport"]
