"""One pass from nothing: for callers that keep nothing between passes."""

from __future__ import annotations

from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement.again import Solver
from fedgpu_operator.placement.engine import Engine
from fedgpu_operator.placement.registry import BUILT_IN, Plugins
from fedgpu_operator.placement.snapshot import Snapshot


def decide(snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> tuple[Decision, ...]:
    """One decision per job, by priority and then uid; the same set in any order gives the same answer.

    Raises FedGPUError when the flow solver fails.
    """
    return Engine(plugins, solver=Solver(remember=False)).decide(snapshot).decisions


def evaluate(job: Job, snapshot: Snapshot, plugins: Plugins = BUILT_IN) -> Decision:
    """What the job would get if it were alone; for dryRun and explain. Reserves nothing.

    `job` need not be among the snapshot's jobs; those are not looked at.
    """
    return Engine(plugins).evaluate(job, snapshot)
