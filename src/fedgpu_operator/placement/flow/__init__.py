"""Splittable units to offers by minimum-cost flow: exact and proven, or a step on from the last solution."""

from __future__ import annotations

from fedgpu_operator.placement.flow.exact import Flow, Transport
from fedgpu_operator.placement.flow.session import Change, Session, transport

__all__ = ["Change", "Flow", "Session", "Transport", "transport"]
