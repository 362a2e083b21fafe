"""``fedgpu provider probe``: measure round trips from the owner's cluster to the hub's vantages, and report them."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import ContextOption, Output, OutputOption, plain_table, print_data, with_hub

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.providerreport import ProbeResult


def probe(
    provider: Annotated[str, typer.Argument(help="Name of your GPUProvider.")],
    every: Annotated[float, typer.Option("--every", min=5, max=3600, help="Seconds between rounds.")] = 60,
    once: Annotated[bool, typer.Option("--once", help="One round, then print what was measured.")] = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Measure round trips to the hub's vantages from here, where the GPUs stand; connects outwards only.

    Run it in the cluster that offers the GPUs, with an identity of the hub that may get its ProviderReport and patch
    the report's status. Without --once it goes on until it is stopped.
    """

    async def measure(hub: KubeClient) -> list[ProbeResult]:
        from fedgpu_operator.adapters.clock import SystemClock
        from fedgpu_operator.adapters.latency import HttpRoundTrips
        from fedgpu_operator.agent.report import Prober
        from fedgpu_operator.errors import KubeError
        from fedgpu_operator.hub.services.workloads import provider_namespace

        async with HttpRoundTrips() as trips:
            prober = Prober(provider, provider_namespace(provider), hub, trips, SystemClock())
            results = await prober.round_once()
            while not once:
                await asyncio.sleep(every)
                try:
                    await prober.round_once()
                except KubeError as error:
                    sys.stderr.write(f"warning: {error}; again in {every:g} s\n")
            return results

    results = with_hub(measure, context)
    print_data(output, {"probes": [each.to_wire() for each in results]}, lambda: [table(results)])


def table(results: list[ProbeResult]) -> Table | str:
    """The same for people."""
    if not results:
        return "Nothing measured: the hub lists no vantages, or none of them answered."
    columns = ("P50 MS", "P95 MS", "SAMPLES")
    result = plain_table("VANTAGE", *columns, "MEASURED AT", right=columns)
    for each in results:
        figures = (f"{each.p50_ms:.1f}", f"{each.p95_ms:.1f}", str(each.samples))
        result.add_row(each.vantage, *figures, f"{each.measured_at:%Y-%m-%dT%H:%M:%SZ}")
    return result
