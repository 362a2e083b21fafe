"""The lab: real control planes and a real chain on one machine; nothing in the operator may import it."""

from __future__ import annotations

from fedgpu_operator.lab.chain import Account, Anvil, Chain
from fedgpu_operator.lab.cluster import Cluster
from fedgpu_operator.lab.gpus import GpuNodes
from fedgpu_operator.lab.progress import LineProgress, Progress, QuietProgress, RichProgress, progress_for
from fedgpu_operator.lab.world import Lab, MemberSpec

__all__ = [
    "Account",
    "Anvil",
    "Chain",
    "Cluster",
    "GpuNodes",
    "Lab",
    "LineProgress",
    "MemberSpec",
    "Progress",
    "QuietProgress",
    "RichProgress",
    "progress_for",
]
