"""``fedgpu cost``: what jobs used, what that costs, and whether it is settled; measured figures only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    AllOption,
    ContextOption,
    NamespaceOption,
    Output,
    OutputOption,
    namespace_of,
    plain_table,
    print_data,
    with_hub,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.computejob import ComputeJob

NAME: Final = "cost"
FIGURES: Final = ("GPU-HOURS", "USD/GPU-HOUR", "COST")


def command(
    job: Annotated[str | None, typer.Argument(help="A ComputeJob; all of the namespace unless given.")] = None,
    namespace: NamespaceOption = None,
    everywhere: AllOption = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Show metered use, cost and settlement of jobs, with totals."""
    if job and everywhere:
        raise typer.BadParameter("a job has one namespace: give -n instead of -A")
    where = "" if everywhere else namespace_of(context, namespace)

    async def fetch(hub: KubeClient) -> list[JSONObject]:
        from fedgpu_operator.api.computejob import ComputeJob
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(ComputeJob.info)
        objects = [await hub.get(kind, job, where)] if job else (await hub.list(kind, where))[0]
        return [row_of(ComputeJob.parse(each)) for each in objects]

    rows = sorted(with_hub(fetch, context), key=lambda row: (row["namespace"], row["name"]))
    document = {"jobs": rows, "totals": totals(rows)}
    print_data(output, document, lambda: [table(document)])


def row_of(job: ComputeJob) -> JSONObject:
    """One job's figures; `cost` is a decimal string of USD, `gpuHours` a number."""
    status = job.status
    settled = next((each for each in status.conditions if each.type == "Settled"), None)
    return {
        "namespace": job.metadata.namespace,
        "name": job.metadata.name,
        "state": status.state,
        "provider": status.placement.provider if status.placement else None,
        "pricePerGPUHour": status.placement.price if status.placement else None,
        "gpuSeconds": status.usage.gpu_seconds if status.usage else 0,
        "gpuHours": round(status.usage.gpu_seconds / 3600, 6) if status.usage else 0.0,
        "cost": status.usage.cost if status.usage else "0",
        "settled": settled is not None and settled.status == "True",
        "settlement": settled.reason if settled else None,
        "epoch": status.settlement.epoch if status.settlement else None,
        "claimTransaction": (status.settlement.claim_transaction or None) if status.settlement else None,
    }


def totals(rows: list[JSONObject]) -> JSONObject:
    """Sums over the rows; money is summed in base units."""
    from fedgpu_operator.domain.money import format_usd, parse_usd

    cost = sum(parse_usd(row["cost"]) for row in rows)
    settled = sum(parse_usd(row["cost"]) for row in rows if row["settled"])
    seconds = sum(row["gpuSeconds"] for row in rows)
    return {
        "jobs": len(rows),
        "gpuSeconds": seconds,
        "gpuHours": round(seconds / 3600, 6),
        "cost": format_usd(cost),
        "settled": format_usd(settled),
        "unsettled": format_usd(cost - settled),
    }


def table(document: JSONObject) -> Table | str:
    """The same for people."""
    rows, total = document["jobs"], document["totals"]
    if not rows:
        return "No ComputeJobs here. Try -A for all namespaces."
    result = plain_table(
        "NAMESPACE", "JOB", "STATE", "PROVIDER", *FIGURES, "SETTLED", "EPOCH", "TRANSACTION", right=FIGURES
    )
    for row in rows:
        result.add_row(
            row["namespace"],
            row["name"],
            row["state"],
            row["provider"] or "-",
            f"{row['gpuHours']:.4f}",
            row["pricePerGPUHour"] or "-",
            row["cost"],
            "yes" if row["settled"] else row["settlement"] or "-",
            str(row["epoch"] or "-"),
            row["claimTransaction"] or "-",
        )
    open_text = f"{total['settled']} settled, {total['unsettled']} not yet"
    result.add_row("TOTAL", f"{total['jobs']} jobs", "", "", f"{total['gpuHours']:.4f}", "", total["cost"], open_text)
    return result
