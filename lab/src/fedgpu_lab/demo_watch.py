"""Follows the demo by its conditions, shows it live, and moves the chain's clock over the challenge window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedgpu_lab.demo_scenario import Scenario, expectation
from fedgpu_lab.demo_stage import Stage
from fedgpu_operator.api.base import READY, find, is_true
from fedgpu_operator.api.computeaccount import ComputeAccount, ComputeAccountStatus
from fedgpu_operator.api.computejob import ComputeJob, ComputeJobStatus
from fedgpu_operator.api.gpuprovider import GPUProvider, GPUProviderStatus
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.errors import KubeError, LabError

POLL_S: Final = 0.4
READY_PATIENCE_S: Final = 90.0
RUN_PATIENCE_S: Final = 150.0
SETTLE_PATIENCE_S: Final = 150.0
GROUP_PATH: Final = "/apis/fedgpu.dev/v1alpha1"
LOG_LINES: Final = 40

Jobs = Mapping[str, ComputeJob]


@dataclass(slots=True)
class Watched:
    """What the demo saw; `jumps` are the seconds by which the chain's clock was moved, one entry for each time."""

    jobs: Jobs = field(default_factory=dict)
    jumps: list[int] = field(default_factory=list)


class Board(Protocol):
    """Where the state of the jobs is shown."""

    def show(self, jobs: Jobs) -> None:
        """Show them as they are now."""

    def say(self, text: str) -> None:
        """A line that stays."""


def wait_until_open(stage: Stage) -> None:
    """Wait until every provider is Ready and every account is funded; LabError says which is not."""

    def missing() -> str:
        providers = [GPUProvider.parse(each) for each in _list(stage, "gpuproviders")]
        accounts = [ComputeAccount.parse(each) for each in _list(stage, "computeaccounts")]
        late = [f"{each.metadata.name} is {each.status.state}" for each in providers if not _ready(each.status)]
        late += [f"account of {each.key} is {each.status.state}" for each in accounts if not _ready(each.status)]
        return ", ".join(late)

    _wait(stage, missing, READY_PATIENCE_S)


def wait_for_ends(stage: Stage, scenario: Scenario, watched: Watched, board: Board) -> None:
    """Wait until every job has ended as expected, or in another way that will not change any more."""
    expected = {job.metadata.name: expectation(job) for job in scenario.jobs}

    def missing() -> str:
        watched.jobs = _jobs(stage)
        board.show(watched.jobs)
        return ", ".join(name for name, end in expected.items() if not _ended(watched.jobs.get(name), end))

    _wait(stage, missing, RUN_PATIENCE_S)


def wait_for_payment(stage: Stage, watched: Watched, board: Board) -> None:
    """Wait until all that ran is paid at finalized; jumps over a challenge window once nothing else moves."""

    def missing() -> str:
        watched.jobs = _jobs(stage)
        board.show(watched.jobs)
        unpaid = [name for name, job in watched.jobs.items() if job.status.placement and not settled(job)]
        if unpaid and (seconds := _window_left(stage)) > 0:
            stage.chain.jump(seconds)
            watched.jumps.append(seconds)
            board.say(f"The chain's clock jumps {seconds} s ahead, over the challenge window; nothing else does")
        return ", ".join(unpaid)

    _wait(stage, missing, SETTLE_PATIENCE_S)


def settled(job: ComputeJob) -> bool:
    """Whether its charge is paid, as the operator read it back at finalized."""
    return is_true(job.status.conditions, "Settled")


def reason(job: ComputeJob) -> str:
    """The word of its Placed condition."""
    placed = find(job.status.conditions, "Placed")
    return placed.reason if placed is not None else ""


def as_expected(job: ComputeJob, expected: str) -> bool:
    """Whether the job ended as its author wrote into the example."""
    if expected == "Succeeded":
        return is_true(job.status.conditions, "Complete")
    if expected == "DryRun":
        return _ready(job.status) and bool(job.status.candidates) and reason(job) == "DryRun"
    return not job.status.ended and job.status.placement is None and reason(job) == expected


def _ready(status: GPUProviderStatus | ComputeAccountStatus | ComputeJobStatus) -> bool:
    return is_true(status.conditions, READY)


@contextmanager
def board_for(console: Console) -> Iterator[Board]:
    """A live table on a terminal, a line for each change elsewhere."""
    if not console.is_terminal:
        yield _LineBoard(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield _LiveBoard(live)


class _LineBoard:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def show(self, jobs: Jobs) -> None:
        for name, job in jobs.items():
            line = "  ".join(_cells(job))
            if self._shown.get(name) != line:
                self._shown[name] = line
                self.say(f"  {name:<26} {line}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _LiveBoard:
    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, jobs: Jobs) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2), header_style="bold")
        for column in ("JOB", "STATE", "WHERE", "SETTLEMENT"):
            table.add_column(column)
        for name, job in jobs.items():
            state, where, settlement = _cells(job)
            table.add_row(name, f"[{_COLOURS.get(state, 'default')}]{state}[/]", where, settlement)
        self._live.update(table)

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)


_COLOURS: Final = {"Succeeded": "green", "Running": "cyan", "Placed": "blue", "Failed": "red", "DryRun": "magenta"}


def _cells(job: ComputeJob) -> tuple[str, str, str]:
    placement = job.status.placement
    finding = find(job.status.conditions, "Settled")
    where = placement.provider if placement else reason(job) or "-"
    return job.status.state, where, finding.reason if finding and placement else "-"


def _ended(job: ComputeJob | None, expected: str) -> bool:
    return job is not None and (as_expected(job, expected) or job.status.ended)


def _window_left(stage: Stage) -> int:
    """Seconds until the epoch in its challenge window can be claimed, one to spare; 0 while none is final there."""
    latest = stage.chain.rpc("eth_getBlockByNumber", "latest", False)
    if not isinstance(latest, dict):
        return 0
    now = int(str(latest["timestamp"]), 16)
    epochs = [SettlementEpoch.parse(each).status for each in _list(stage, "settlementepochs")]
    ends = [
        int(each.active_at.timestamp())
        for each in epochs
        if is_true(each.conditions, "Finalized") and not each.ended and each.active_at
    ]
    return max((end - now + 1 for end in ends if end > now), default=0)


def _jobs(stage: Stage) -> Jobs:
    parsed = [ComputeJob.parse(each) for each in _list(stage, "computejobs")]
    return {job.metadata.name: job for job in sorted(parsed, key=lambda each: each.key)}


def _list(stage: Stage, plural: str) -> list[dict[str, object]]:
    items: list[dict[str, object]] = stage.lab.hub.api.get(f"{GROUP_PATH}/{plural}")["items"]
    return items


def _wait(stage: Stage, missing: Callable[[], str], patience: float) -> None:
    """Ask again and again until nothing is missing; LabError with the operator's last lines when it cannot come."""
    deadline = time.monotonic() + patience
    while True:
        try:
            late = missing()
        except KubeError as error:
            late = f"the hub ({error})"
        if not late:
            return
        if not stage.operator.running:
            raise LabError(f"the operator ended; its last lines:\n{stage.operator.log_tail(LOG_LINES)}")
        if time.monotonic() > deadline:
            tail = stage.operator.log_tail(LOG_LINES)
            raise LabError(f"after {patience:.0f} s still waiting for {late}; the operator's last lines:\n{tail}")
        time.sleep(POLL_S)
