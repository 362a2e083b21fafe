"""``fedgpu provider nodes`` and ``fedgpu provider check``: which GPUs of a cluster count, and why the others do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgpu_operator.cli.common import (
    ContextOption,
    Output,
    OutputOption,
    plain_table,
    print_data,
    with_hub,
)
from fedgpu_operator.domain.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.providerreport import ProviderReport, ReportedProduct, UncountedNodes

NOTHING = 1
"""Exit code of a check that found no GPU that could be let."""


def provider_nodes(
    name: Annotated[str, typer.Argument(help="Name of the GPUProvider.")],
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Show which GPUs of a provider count, and why the others do not.

    As its agent saw its nodes last.
    """

    async def work(hub: KubeClient) -> ProviderReport:
        from fedgpu_operator.api.providerreport import ProviderReport
        from fedgpu_operator.hub.services.workloads import provider_namespace
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(ProviderReport.info)
        return ProviderReport.parse(await hub.get(kind, name, provider_namespace(name)))

    status = with_hub(work, context).status
    _print(output, status.products, status.uncounted)


def provider_check(
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--kubeconfig", help="Kubeconfig of the cluster with the GPUs; default: that of kubectl."),
    ] = None,
    context: ContextOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would count of a cluster that is no provider yet.

    For owners, before they join: nothing is changed, and no hub is asked. Exits with 1 if nothing would count.
    """

    async def work(member: KubeClient) -> tuple[list[ReportedProduct], list[UncountedNodes]]:
        from fedgpu_operator.agent import inventory
        from fedgpu_operator.agent.counting import MemberCount

        supply = await MemberCount(member, lambda _: "").look()
        return inventory.products(supply), inventory.uncounted(supply)

    products, uncounted = with_hub(work, context, kubeconfig)
    _print(output, products, uncounted)
    if not products:
        raise typer.Exit(NOTHING)


def _print(output: Output, products: Sequence[ReportedProduct], uncounted: Sequence[UncountedNodes]) -> None:
    document = {
        "products": [each.to_wire() for each in products],
        "uncounted": [each.to_wire() for each in uncounted],
    }
    print_data(output, document, lambda: [_products(products), *_uncounted(uncounted)])


def _products(products: Sequence[ReportedProduct]) -> Table | str:
    if not products:
        return "No GPU of this cluster counts."
    figures = ("MEMORY MIB", "TOTAL", "USED BY OTHERS", "NODES")
    table = plain_table("PRODUCT", "FORM", *figures, "RESOURCE", right=figures)
    for each in products:
        nodes = sum(bucket.nodes for bucket in each.free_gpu_histogram)
        memory = str(each.memory_mi_b) if each.memory_mi_b else "unknown"
        cells = (memory, str(each.total), str(each.gpus_in_use_by_others), str(nodes))
        table.add_row(each.product, each.form, *cells, each.resource)
    return table


def _uncounted(groups: Sequence[UncountedNodes]) -> list[Table | str]:
    if not groups:
        return []
    table = plain_table("DOES NOT COUNT", "GPUS", "NODES", "WHY", right=("GPUS",))
    for each in groups:
        more = each.nodes - len(each.examples)
        names = ", ".join(each.examples) + (f" and {counted(more, 'other')}" if more else "")
        table.add_row(each.reason, str(each.gpus), names, each.message)
    return ["", table]
