"""One whole simulation: files in, replays, a document out and perhaps a picture; the verb only prints it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.replay import fleet as fleets
from fedgpu_operator.replay import plot as plots
from fedgpu_operator.replay.fleet import Fleet
from fedgpu_operator.replay.measure import Replayed, figures
from fedgpu_operator.replay.run import replay
from fedgpu_operator.replay.schedulers import SCHEDULERS
from fedgpu_operator.replay.trace import Task, read_nodes, read_prices, read_tasks


def simulate(
    *,
    trace: Path,
    nodes: Path | None,
    prices: Path | None,
    schedulers: Sequence[str],
    load: float,
    providers: int,
    spread: float,
    every: int,
    plot: Path | None,
) -> dict[str, Any]:
    """The document of a replay with each scheduler. Raises ConfigurationError for files and options that are none."""
    read = read_tasks(trace)
    machines = read_nodes(nodes) if nodes else fleets.enough_for(read.tasks)
    table = fleets.PRICES | (read_prices(prices) if prices else {})
    fleet = fleets.deal(machines, table, providers, spread)
    tasks = [task for task in read.tasks if _fits(task, fleet)]
    if not tasks:
        raise ConfigurationError(f"none of the {len(read.tasks)} tasks fits a node: compare gpu_spec with model")
    replays = {name: replay(tasks, fleet, SCHEDULERS[name], every=every, load=load) for name in schedulers}
    if plot is not None:
        title = f"{trace.name}: {len(tasks)} tasks on {fleet.total} GPUs, arrivals × {load:g}"
        plots.draw(plot, replays, fleet.total, title)
    return {
        "trace": {
            "file": str(trace),
            "replayed": len(tasks),
            "withoutGPU": read.without_gpu,
            "neverStarted": read.never_started,
            "fitNoNode": len(read.tasks) - len(tasks),
        },
        "fleet": {
            "nodes": len(fleet.gpus),
            "gpus": fleet.total,
            "providers": _providers(fleet),
            "offers": _offers(fleet),
        },
        "options": {"load": load, "everySeconds": every, "spread": spread},
        "results": [{"scheduler": name} | _rounded(replayed, fleet) for name, replayed in replays.items()],
    }


def _rounded(replayed: Replayed, fleet: Fleet) -> dict[str, Any]:
    return dict(figures(replayed, fleet))


def _fits(task: Task, fleet: Fleet) -> bool:
    return any(
        gpus >= task.gpus and (not task.models or fleet.offers[owner].gpu.product in task.models)
        for gpus, owner in zip(fleet.gpus, fleet.owner, strict=True)
    )


def _providers(fleet: Fleet) -> int:
    return len({offer.provider for offer in fleet.offers})


def _offers(fleet: Fleet) -> list[dict[str, Any]]:
    return [
        {
            "provider": offer.provider,
            "model": offer.gpu.product,
            "usdPerGPUHour": offer.price / 1_000_000,
            "gpus": offer.free_gpus,
        }
        for offer in fleet.offers
    ]
