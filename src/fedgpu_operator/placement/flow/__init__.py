"""Splittable units to offers by minimum-cost flow, exact and proven."""

from __future__ import annotations

from fedgpu_operator.placement.flow.exact import Flow, Transport
from fedgpu_operator.placement.flow.transport import transport

__all__ = ["Flow", "Transport", "transport"]
