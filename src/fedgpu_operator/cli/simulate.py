"""``fedgpu simulate``: a recorded trace replayed with our placement and with others; needs no cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject


class ReplayScheduler(StrEnum):
    """Scheduler to replay a trace with."""

    FEDGPU = "fedgpu"
    GREEDY = "greedy"
    KUBE = "kube"


def simulate(
    trace: Annotated[Path, typer.Option("--trace", help="CSV of tasks, with the columns of Alibaba's 2023 GPU trace.")],
    nodes: Annotated[
        Path | None,
        typer.Option("--nodes", help="CSV of nodes (sn, gpu, model); default: 90 % of the trace's peak use."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", help="CSV of model, usd_per_gpu_hour; overrides the built-in prices."),
    ] = None,
    policy: Annotated[
        list[ReplayScheduler] | None,
        typer.Option("--policy", help="Scheduler; repeatable; default: all."),
    ] = None,
    load: Annotated[float, typer.Option("--load", min=0.01, help="Factor by which tasks arrive faster.")] = 1.0,
    providers: Annotated[
        int, typer.Option("--providers", min=1, max=999, help="Number of providers that share the nodes.")
    ] = 8,
    spread: Annotated[
        float, typer.Option("--spread", min=0.0, max=0.99, help="Share by which their prices differ, up and down.")
    ] = 0.2,
    every: Annotated[int, typer.Option("--every", min=1, help="Shortest time between two decisions, in seconds.")] = 30,
    plot: Annotated[Path | None, typer.Option("--plot", help="File (.svg or .png) to draw the replay into.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replay a trace with our scheduler and with others.

    Shows cost, GPUs used, fragmentation and wait of our scheduler, a greedy one and kube-scheduler's default. A task
    that asks for a part of a GPU gets a whole one. CPU, memory and QoS are ignored. A GPU counts as fragmented as far
    as the mean task cannot use it (Weng et al., USENIX ATC 2023). No scheduler knows how long a task will run. Tasks
    without a GPU, never started in the trace, or too large for any node are left out and counted.
    """
    from fedgpu_operator.replay.report import simulate as replay

    result = replay(
        trace=trace,
        nodes=nodes,
        prices=prices,
        schedulers=[each.value for each in policy or ReplayScheduler],
        load=load,
        providers=providers,
        spread=spread,
        every=every,
        plot=plot,
    )
    print_data(output, result, lambda: [summary(result), table(result)])


def summary(result: JSONObject) -> str:
    """What was replayed, on what, and what was left out."""
    tasks, fleet = result["trace"], result["fleet"]
    return (
        f"{tasks['replayed']} tasks on {fleet['gpus']} GPUs of {fleet['nodes']} nodes "
        f"at {fleet['providers']} providers; left out: {tasks['withoutGPU']} without GPU, "
        f"{tasks['neverStarted']} never started, {tasks['fitNoNode']} fit no node"
    )


def table(result: JSONObject) -> Table:
    """One row per scheduler."""
    heads = {
        "USD": "usd",
        "USD/GPU-HOUR": "usdPerGPUHour",
        "GPUS USED": "meanGPUsUsed",
        "MOST": "mostGPUsUsed",
        "FRAGMENTED": "fragmentation",
        "WAIT P50": "waitP50",
        "WAIT P99": "waitP99",
        "WAIT MOST": "waitMost",
        "NEVER RAN": "neverRan",
    }
    rows = plain_table("SCHEDULER", *heads, right=tuple(heads))
    for each in result["results"]:
        rows.add_row(each["scheduler"], *(shown(key, each[key]) for key in heads.values()))
    return rows


def shown(key: str, value: float) -> str:
    """A figure for people: shares in per cent, waits in seconds."""
    if key == "fragmentation":
        return f"{100 * value:.1f}%"
    if key.startswith("wait"):
        return f"{value:,.0f}s"
    return f"{value:,.4f}" if key == "usdPerGPUHour" else f"{value:,.2f}".removesuffix(".00")
