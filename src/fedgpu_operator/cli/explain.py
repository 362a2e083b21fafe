"""``fedgpu explain JOB``: where a job is and why there, or why nowhere; shows the status, decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
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

NAME: Final = "explain"
KEPT: Final = 10
PRICES: Final = ("PRICE", "EFFECTIVE", "MAX COST", "LATENCY", "SCORE")


def command(
    job: Annotated[str, typer.Argument(help="Name of a ComputeJob.")],
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
    context: ContextOption = None,
) -> None:
    """Explain a job: where it runs and why, every candidate with its verdict, cost and settlement."""
    where = namespace_of(context, namespace)

    async def fetch(hub: KubeClient) -> JSONObject:
        from fedgpu_operator.api.computejob import ComputeJob
        from fedgpu_operator.ports import ResourceType

        return explanation(ComputeJob.parse(await hub.get(ResourceType.of(ComputeJob.info), job, where)).to_wire())

    document = with_hub(fetch, context)
    print_data(output, document, lambda: render(document))


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
    """The message that matters most to the asker: of the placement, else of the admission."""
    by_type = {each["type"]: each for each in conditions}
    for kind in ("Placed", "Admitted"):
        if by_type.get(kind, {}).get("message"):
            return str(by_type[kind]["message"])
    return "the operator has not judged this job yet; is it running?"


def render(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = [
        f"{document['namespace']}/{document['name']} is {document['state']}",
        f"  {document['why']}",
    ]
    parts += _placement(document["placement"])
    if document["candidates"]:
        parts += ["", _candidates(document)]
    if len(document["candidates"]) == KEPT:
        parts.append(f"A status keeps the {KEPT} best-judged offers; `fedgpu offers` lists all there are.")
    parts += _money(document["usage"], document["settlement"])
    if document["conditions"]:
        parts += ["", _conditions(document["conditions"])]
    return parts


def _placement(placement: JSONObject | None) -> list[Table | str]:
    if placement is None:
        return []
    policies = ", ".join(placement["policies"]) or "none"
    law = f"; country groups as of {placement['law']}" if placement.get("law") else ""
    attempt = f"attempt {placement['attempt']}, since {placement['placedAt']}"
    return [
        "",
        f"Where     {placement['provider']}, {placement['product']}, {attempt}",
        f"Price     {placement['price']} USD per GPU-hour, frozen; effective {placement['effectivePrice']}",
        f"Policies  {policies}{law}",
        f"Lease     fedgpu-provider-{placement['provider']}/{placement['lease']}",
    ]


def _candidates(document: JSONObject) -> Table:
    chosen = document["placement"] or {}
    table = plain_table("", "PROVIDER", "PRODUCT", "VERDICT", *PRICES, "ON TOP OF THE PRICE", "WHY NOT", right=PRICES)
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
        lines.append(f"Paid      by {settlement['claimTransaction'] or 'nothing yet'}")
    return ["", *lines] if lines else []


def _conditions(conditions: list[JSONObject]) -> Table:
    table = plain_table("CONDITION", "STATUS", "REASON", "MESSAGE")
    for each in conditions:
        table.add_row(each["type"], each["status"], each["reason"], each.get("message") or "-")
    return table
