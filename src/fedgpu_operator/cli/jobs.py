"""``fedgpu explain`` and ``fedgpu cost``: why a job is where it is, and what jobs used and cost; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    AllOption,
    ContextOption,
    NamespaceOption,
    Output,
    OutputOption,
    conditions_table,
    namespace_of,
    plain_table,
    print_data,
    with_hub,
)
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.computejob import ComputeJob

KEPT: Final = 10
"""As many candidates as a status keeps at most."""
CANDIDATE_FIGURES: Final = ("PRICE", "EFFECTIVE", "MAX COST", "LATENCY", "SCORE")
COST_FIGURES: Final = ("GPU-HOURS", "USD/GPU-HOUR", "COST")


def explain(
    job: Annotated[str, typer.Argument(help="Name of the ComputeJob.")],
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Explain a job's placement, cost and settlement.

    Shows where it runs and why, and every candidate with its verdict.
    """
    where = namespace_of(context, namespace)

    async def fetch(hub: KubeClient) -> JSONObject:
        from fedgpu_operator.api.computejob import ComputeJob
        from fedgpu_operator.ports import ResourceType

        return explanation(ComputeJob.parse(await hub.get(ResourceType.of(ComputeJob.info), job, where)).to_wire())

    document = with_hub(fetch, context)
    print_data(output, document, lambda: explanation_text(document))


def explanation(job: JSONObject) -> JSONObject:
    """The parts of the object that explain it; `why` is the sentence for people."""
    status, meta = job["status"], job["metadata"]
    conditions = status.get("conditions", [])
    return {
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "state": status["state"],
        "why": why(conditions),
        "placement": status.get("placement"),
        "candidates": status.get("candidates", []),
        "usage": status.get("usage"),
        "settlement": status.get("settlement"),
        "conditions": conditions,
    }


def why(conditions: list[JSONObject]) -> str:
    """The message that matters most to the reader: that of the placement, else of the admission."""
    by_type = {each["type"]: each for each in conditions}
    for kind in ("Placed", "Admitted"):
        if by_type.get(kind, {}).get("message"):
            return str(by_type[kind]["message"])
    return "not processed by the operator yet; check that it is running"


def explanation_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = [
        f"{document['namespace']}/{document['name']} is {document['state']}",
        f"  {document['why']}",
    ]
    parts += _placement(document["placement"])
    if document["candidates"]:
        parts += ["", _candidates(document)]
    if len(document["candidates"]) == KEPT:
        parts.append(f"The {KEPT} best candidates are shown; `fedgpu offers` lists all offers.")
    parts += _money(document["usage"], document["settlement"])
    if document["conditions"]:
        parts += ["", conditions_table(document["conditions"])]
    return parts


def _placement(placement: JSONObject | None) -> list[Table | str]:
    if placement is None:
        return []
    policies = ", ".join(placement["policies"]) or "none"
    law = f"; country groups as of {placement['law']}" if placement.get("law") else ""
    attempt = f"attempt {placement['attempt']}, since {placement['placedAt']}"
    return [
        "",
        f"Placement {placement['provider']}, {placement['product']}, {attempt}",
        f"Price     {placement['price']} USD per GPU-hour, frozen; effective {placement['effectivePrice']}",
        f"Policies  {policies}{law}",
        f"Lease     fedgpu-provider-{placement['provider']}/{placement['lease']}",
    ]


def _candidates(document: JSONObject) -> Table:
    chosen = document["placement"] or {}
    columns = ("", "PROVIDER", "PRODUCT", "VERDICT", *CANDIDATE_FIGURES, "COMPONENTS", "MESSAGE")
    table = plain_table(*columns, right=CANDIDATE_FIGURES)
    for each in document["candidates"]:
        here = (each["provider"], each["product"]) == (chosen.get("provider"), chosen.get("product"))
        latency = "-"
        if each.get("latencyMs") is not None:
            latency = f"{each['latencyMs']:.1f} ms ({each['latencySource']})"
        table.add_row(
            "*" if here else "",
            each["provider"],
            each["product"],
            "fits" if each["eligible"] else each["reason"],
            each["price"],
            each["effectivePrice"],
            each["cost"],
            latency,
            str(each["score"]),
            ", ".join(f"{name} {usd}" for name, usd in sorted(each.get("components", {}).items())) or "-",
            each["message"] or "-",
        )
    return table


def _money(usage: JSONObject | None, settlement: JSONObject | None) -> list[Table | str]:
    lines: list[Table | str] = []
    if usage is not None:
        lines.append(f"Used      {usage['gpuSeconds']} GPU-seconds, {usage['cost']} USD")
    if settlement is not None:
        lines.append(f"Settled   in epoch {settlement['epoch']}, posted by {settlement['postTransaction'] or '-'}")
        lines.append(f"Paid      by {settlement['claimTransaction'] or 'no transaction yet'}")
    return ["", *lines] if lines else []


def cost(
    job: Annotated[str | None, typer.Argument(help="Name of a ComputeJob; default: all of the namespace.")] = None,
    namespace: NamespaceOption = None,
    everywhere: AllOption = False,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Show metered usage, cost and settlement of jobs. With totals."""
    if job and everywhere:
        raise ConfigurationError("-A excludes the name of a job: give its namespace with -n instead")
    where = "" if everywhere else namespace_of(context, namespace)

    async def fetch(hub: KubeClient) -> list[JSONObject]:
        from fedgpu_operator.api.computejob import ComputeJob
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(ComputeJob.info)
        objects = [await hub.get(kind, job, where)] if job else (await hub.list(kind, where))[0]
        return [cost_row(ComputeJob.parse(each)) for each in objects]

    rows = sorted(with_hub(fetch, context), key=lambda row: (row["namespace"], row["name"]))
    document = {"jobs": rows, "totals": totals(rows)}
    print_data(output, document, lambda: [cost_table(document)])


def cost_row(job: ComputeJob) -> JSONObject:
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


def cost_table(document: JSONObject) -> Table | str:
    """The same for people."""
    rows, total = document["jobs"], document["totals"]
    if not rows:
        return "No ComputeJobs found in this namespace; -A shows all namespaces."
    result = plain_table(
        "NAMESPACE", "JOB", "STATE", "PROVIDER", *COST_FIGURES, "SETTLED", "EPOCH", "TRANSACTION", right=COST_FIGURES
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
    jobs, parts = counted(total["jobs"], "job"), f"{total['settled']} settled, {total['unsettled']} unsettled"
    result.add_row("TOTAL", jobs, "", "", f"{total['gpuHours']:.4f}", "", total["cost"], parts)
    return result
