"""The agent: carries ComputeLeases out on one member cluster and reports; nothing of the hub's loops lives here."""

from __future__ import annotations

from fedgpu_operator.agent.agent import Agent
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.signing import Signing
from fedgpu_operator.agent.watch import KEPT, kept

__all__ = ["KEPT", "Agent", "AgentSettings", "Signing", "kept"]
