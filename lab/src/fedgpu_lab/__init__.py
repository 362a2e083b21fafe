"""The lab: real control planes and a real chain on one machine; nothing in the operator may import it."""

from __future__ import annotations

from fedgpu_lab.chain import Account, Anvil, Chain
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.progress import LineProgress, Progress, QuietProgress, RichProgress, progress_for
from fedgpu_lab.world import Lab, MemberSpec

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
