"""The demo: from `kubectl apply` to paid on this machine, on real control planes and a real chain."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from rich.console import Console

from fedgpu_lab.demo_judge import judge, read_chain
from fedgpu_lab.demo_report import PIPED_WIDTH, Report, document, show
from fedgpu_lab.demo_scenario import Scenario, find_examples, load
from fedgpu_lab.demo_stage import Stage, stage
from fedgpu_lab.demo_watch import Watched, board_for, wait_for_ends, wait_for_payment, wait_until_open
from fedgpu_lab.progress import Progress, progress_for
from fedgpu_lab.world import Lab

EPOCH_SECONDS: Final = 30.0
"""How often the operator settles here: after most runs have ended, so that one epoch covers them."""


def run(*, keep: bool, as_json: bool) -> int:
    """Play the demo and report; returns 0 when everything holds and 1 when something does not.

    Progress goes to stderr, the report to stdout. Raises LabError and ChainError for what could not be played.
    """
    begin = time.monotonic()
    console = Console(stderr=True)
    progress = progress_for(console)
    scenario = load(find_examples())
    with (
        _terminated_as_interrupt(),
        Lab(scenario.members, chain=True, progress=progress) as lab,
        stage(lab, scenario, progress, epoch_seconds=EPOCH_SECONDS) as playing,
    ):
        report = _play(playing, scenario, progress, console, begin)
        _print(report, as_json=as_json)
        if keep:
            _explore(playing, console)
    return 0 if report.holds else 1


def _play(playing: Stage, scenario: Scenario, progress: Progress, console: Console, begin: float) -> Report:
    with progress.task("Waiting until all providers are Ready and all tenants funded"):
        wait_until_open(playing)
    playing.lab.hub.kubectl("apply", "--server-side", "-f", str(scenario.folder / "jobs"))
    console.print(f"kubectl apply -f examples/jobs: {len(scenario.jobs)} jobs", highlight=False)
    watched = Watched()
    with board_for(console) as board:
        wait_for_ends(playing, scenario, watched, board)
        wait_for_payment(playing, watched, board)
    deployment = playing.deployment
    chain_view = read_chain(playing.chain.rpc_url, deployment.token, deployment.escrow)
    return judge(scenario, watched.jobs, chain_view, jumps=watched.jumps, seconds=time.monotonic() - begin)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document(report), indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        show(report, Console(width=None if sys.stdout.isatty() else PIPED_WIDTH))


def _explore(playing: Stage, console: Console) -> None:
    """Hold everything up until Ctrl-C."""
    kubeconfig, rpc_url = playing.lab.hub.kubeconfig, playing.chain.rpc_url
    console.print(
        f"\nAll of it keeps running until Ctrl-C. In another terminal:\n\n"
        f"  export KUBECONFIG={kubeconfig}\n"
        f"  {playing.lab.binary('kubectl')} get gpup,cjob,clease,sepoch -A\n"
        f"  fedgpu explain -n acme-research eu-fine-tuning\n\n"
        f"Chain: {rpc_url}, escrow {playing.deployment.escrow}. Logs: {playing.operator.log}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("Ending everything.")


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that a supervisor leaves nothing behind either."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
