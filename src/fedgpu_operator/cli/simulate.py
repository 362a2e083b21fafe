"""``fedgpu simulate``: a recorded trace replayed with our placement and with others; needs no cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import Output, OutputOption, plain_table, print_data

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject

NAME: Final = "simulate"


class Policy(StrEnum):
    """Who decides."""

    FEDGPU = "fedgpu"
    GREEDY = "greedy"
    KUBE = "kube"


File = Annotated[Path, typer.Option("--trace", help="CSV of tasks in the columns of Alibaba's GPU trace of 2023.")]
NodesOption = Annotated[
    Path | None,
    typer.Option("--nodes", help="CSV of nodes (sn, gpu, model); else 90 % of what the trace used at most."),
]
PricesOption = Annotated[
    Path | None, typer.Option("--prices", help="CSV of model, usd_per_gpu_hour; these go before those built in.")
]
PolicyOption = Annotated[
    list[Policy] | None, typer.Option("--policy", help="Who decides; repeat it. All unless given.")
]
LoadOption = Annotated[float, typer.Option("--load", min=0.01, help="Tasks come so many times as fast as recorded.")]


def command(
    trace: File,
    nodes: NodesOption = None,
    prices: PricesOption = None,
    policy: PolicyOption = None,
    load: LoadOption = 1.0,
    providers: Annotated[int, typer.Option("--providers", min=1, max=999, help="Dealt the nodes in turn.")] = 8,
    spread: Annotated[
        float, typer.Option("--spread", min=0.0, max=0.99, help="Their prices differ by this share, up and down.")
    ] = 0.2,
    every: Annotated[int, typer.Option("--every", min=1, help="Seconds between two decisions at least.")] = 30,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the replay into this .svg or .png.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replay a trace: cost, GPUs used, fragmentation and wait, beside a greedy scheduler and kube-scheduler's way.

    A task that asks for a part of a GPU is sold the whole of it. CPU, memory and QoS are not looked at. A GPU counts as
    fragmented as far as the mean task cannot use it (Weng et al., USENIX ATC 2023). No scheduler knows how long a task
    will run. Tasks that want no GPU, never started in the trace, or fit no node are left out and counted.
    """
    from fedgpu_operator.replay.report import simulate

    result = simulate(
        trace=trace,
        nodes=nodes,
        prices=prices,
        schedulers=[each.value for each in policy or Policy],
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
