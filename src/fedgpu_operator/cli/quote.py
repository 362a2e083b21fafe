"""``fedgpu quote -f FILE``: offers, full cost, verdicts and wait of jobs that are not applied; it decides nothing."""

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
from fedgpu_operator.cli.market import counted
from fedgpu_operator.cli.options import OperatorNamespaceOption

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.quoting import Hub

NAME: Final = "quote"
SHOWN: Final = 20
"""Offers in a table; JSON and YAML have all of them."""
PRICES: Final = ("FREE", "PRICE", "EFFECTIVE", "MAX COST", "LATENCY", "SCORE")


def command(
    files: Annotated[
        list[str], typer.Option("--file", "--filename", "-f", help="File or folder with ComputeJobs, or - for stdin.")
    ],
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
    operator_namespace: OperatorNamespaceOption = "fedgpu-system",
    context: ContextOption = None,
) -> None:
    """Quote jobs without applying them: where they would run now, the full cost, every verdict, the likely wait."""
    from datetime import UTC, datetime

    from fedgpu_operator.cli.jobfiles import read_jobs
    from fedgpu_operator.cli.judging import Judged, judge
    from fedgpu_operator.cli.quoting import quote, read_hub

    found = read_jobs(files, namespace, namespace_of(context, None) if namespace is None else namespace)
    namespaces = {job.namespace for job in found.jobs}

    async def fetch(hub: KubeClient) -> tuple[list[Judged], Hub]:
        judged = [await judge(hub, each) for each in found.jobs]
        return judged, await read_hub(hub, operator_namespace, namespaces)

    judged, hub = with_hub(fetch, context)
    now = datetime.now(UTC)
    document: JSONObject = {
        "quotes": [quote(each, hub, now) for each in judged],
        "otherObjects": found.others,
    }
    print_data(output, document, lambda: render(document))


def render(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = []
    for each in document["quotes"]:
        parts += [*([""] if parts else []), *_one(each)]
    if document["otherObjects"]:
        parts += [
            "",
            f"Left out: {counted(document['otherObjects'], 'object')} of other kinds; only ComputeJobs are quoted.",
        ]
    return parts


def _one(each: JSONObject) -> list[Table | str]:
    size = f"{counted(each['gpus'], 'GPU')} for at most {_hours(each['runLimitSeconds'])}"
    head = f"{each['namespace']}/{each['name']}: {size}"
    lines: list[Table | str] = [head, f"  {each['message']}", ""]
    here = each["placement"]
    if here is not None:
        lines += [
            f"Where     {here['provider']}, {here['product']}, {_place(here)}",
            f"Price     {here['price']} USD per GPU-hour; at most {here['maxCost']} USD for the run and its grace",
            f"Weighed   {_sum(here)}",
            f"Full cost {_whole(here)}",
        ]
        if here["clearingPremium"] not in (None, "0.00"):
            lines.append(f"Scarcity  others then pay {here['clearingPremium']} USD more per GPU-hour")
    lines.append(f"Wait      {_wait(each['wait'])}")
    lines.append(f"Checked   {each['checked']}")
    lines += [f"Priority  {_priority(each)}", f"Policies  {_policies(each)}"]
    if each["rulesNotAsked"]:
        lines.append(f"Rules     {', '.join(each['rulesNotAsked'])} of this hub were not asked: dryRun: true asks them")
    if not each["accountKnown"]:
        lines.append("Funds     unknown: you may not read the account of this namespace")
    if each["offers"]:
        lines += ["", _offers(each)]
    if len(each["offers"]) > SHOWN:
        lines.append(f"{len(each['offers']) - SHOWN} more offers: see -o json.")
    lines.append(f"As of {each['at']}. Nothing was applied; prices can change until the job is placed.")
    return lines


def _hours(seconds: int) -> str:
    from fedgpu_operator.api.base import format_duration

    return format_duration(seconds)


def _place(offer: JSONObject) -> str:
    return ", ".join(each for each in (offer["country"], offer["region"]) if each) or "an unnamed place"


def _sum(offer: JSONObject) -> str:
    """``2.52 = 2.49 price + 0.03 latency``."""
    parts = [f"{offer['price']} price", *(f"{amount} {name}" for name, amount in offer["components"].items())]
    return f"{offer['effectivePrice']} = {' + '.join(parts)}, USD per GPU-hour"


def _whole(offer: JSONObject) -> str:
    """The same over the whole run: what is billed here, and what it costs elsewhere or counts as."""
    parts = " + ".join(f"{amount} {name}" for name, amount in offer["fullCost"].items())
    return f"{offer['fullCostTotal']} = {parts}, USD for the whole run; only the price is billed here"


def _wait(wait: JSONObject) -> str:
    return "none: it fits now" if wait["hours"] == 0 else str(wait["why"])


def _priority(each: JSONObject) -> str:
    if not each["priorityKnown"]:
        return "unknown: you may not list PriorityClasses"
    return str(each["priority"])


def _policies(each: JSONObject) -> str:
    if each["policies"] is None:
        return "unknown: you may not list PlacementPolicies, so the verdicts leave them out"
    named = ", ".join(each["policies"]) or "none"
    if not each["namespaceLabelsKnown"]:
        return f"{named}; you may not read this namespace's labels, so some may be missing"
    return named


def _offers(each: JSONObject) -> Table:
    chosen = each["placement"] or {}
    table = plain_table("", "PROVIDER", "PRODUCT", "VERDICT", *PRICES, "WHY NOT", right=PRICES)
    for row in each["offers"][:SHOWN]:
        here = (row["provider"], row["product"]) == (chosen.get("provider"), chosen.get("product"))
        latency = "-" if row["latencyMs"] is None else f"{row['latencyMs']:.1f} ms ({row['latencySource']})"
        table.add_row(
            "*" if here else "",
            row["provider"],
            row["product"],
            "fits" if row["eligible"] else row["reason"],
            str(row["free"]),
            row["price"],
            row["effectivePrice"],
            row["maxCost"],
            latency,
            str(row["score"]),
            row["message"] or "-",
        )
    return table
