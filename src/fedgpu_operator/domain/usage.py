"""What one lease used, as its member cluster counted it: plain values, no Kubernetes and no prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MAX_PODS = 128
"""Pods detailed in one reading: the 64 replicas a job may have, each replaced once."""
LONGEST_UNWRITTEN_SECONDS = 300
"""The longest that usage of a running lease is in no reading on the hub while its member and its agent work."""


@dataclass(frozen=True, slots=True)
class PodUsage:
    """The allocation interval of one pod.

    `seconds` counts from the first container's start to the last one's end (to the time of the reading while one
    runs) and never falls; `gpus` is what the pod holds; both instants are the member's own, None while unknown.
    """

    uid: str
    name: str
    index: int
    gpus: int
    seconds: int
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def gpu_seconds(self) -> int:
        """GPUs held times seconds held."""
        return self.gpus * self.seconds


@dataclass(frozen=True, slots=True)
class UsageReading:
    """Cumulative usage of one lease; `gpu_seconds` never falls and `sequence` rises with every change.

    `started_at` is the first start of any pod, `finished_at` the last end once no pod runs, both by the member's
    clock. `observed_at` is when the agent looked, by the agent's clock. `folded_gpu_seconds` carries pods that are
    gone from the member and, to keep the reading small, from `pods` as well.
    """

    sequence: int
    gpu_seconds: int
    started_at: datetime | None
    finished_at: datetime | None
    observed_at: datetime
    pods: tuple[PodUsage, ...] = ()
    folded_gpu_seconds: int = 0
