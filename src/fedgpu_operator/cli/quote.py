"""``fedgpu quote``: what jobs in files would get now, by what the hub publishes; applies nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.common import (
    OPERATOR_NAMESPACE,
    ContextOption,
    NamespaceOption,
    OperatorNamespaceOption,
    Output,
    OutputOption,
    duration_text,
    instant,
    namespace_of,
    plain_table,
    print_data,
    with_hub,
)
from fedgpu_operator.cli.jobfiles import check_job, read_jobs
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import ForbiddenError, InvalidResourceError, NotFoundError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.api.placementpolicy import PlacementPolicy
    from fedgpu_operator.cli.jobfiles import CheckedJob
    from fedgpu_operator.domain.decision import Decision, Verdict
    from fedgpu_operator.domain.job import Job, Policy
    from fedgpu_operator.domain.money import MicroUSD
    from fedgpu_operator.hub.services.market import MarketDocument, QuotedOffer
    from fedgpu_operator.hub.services.priorities import Priorities

SHOWN: Final = 20
"""Offers in a table; JSON and YAML have all of them."""
COLUMNS: Final = ("FREE", "PRICE", "EFFECTIVE", "MAX COST", "LATENCY", "SCORE")


def quote(
    files: Annotated[
        list[str],
        typer.Option("--file", "--filename", "-f", help="File or folder with ComputeJobs; - for stdin."),
    ],
    namespace: NamespaceOption = None,
    output: OutputOption = Output.TABLE,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
    context: ContextOption = None,
) -> None:
    """Quote jobs without applying them.

    Shows the placement now, the full cost, every offer's verdict and the expected wait.
    """
    found = read_jobs(files, namespace, namespace_of(context, None) if namespace is None else namespace)
    namespaces = {job.namespace for job in found.jobs}

    async def fetch(hub: KubeClient) -> tuple[list[CheckedJob], QuoteInput]:
        judged = [await check_job(hub, each) for each in found.jobs]
        return judged, await read_hub(hub, operator_namespace, namespaces)

    judged, hub = with_hub(fetch, context)
    now = datetime.now(UTC)
    document: JSONObject = {
        "quotes": [quote_document(each, hub, now) for each in judged],
        "otherObjects": found.others,
    }
    print_data(output, document, lambda: quotes_text(document))


@dataclass(frozen=True, slots=True)
class QuotedNamespace:
    """What the user may read of a namespace: its labels, None if not readable, and its account, None if it has none.

    `account_known` is whether the user may read accounts there.
    """

    labels: Mapping[str, str] | None
    account: ComputeAccount | None
    account_known: bool = True


@dataclass(frozen=True, slots=True)
class QuoteInput:
    """What a quote is made from. `policies` and `priorities` are None if the user may not list them; `settles` is
    whether jobs are paid on chain, so that a namespace without money can run nothing.
    """

    market: MarketDocument
    policies: tuple[PlacementPolicy, ...] | None
    priorities: Priorities | None
    settles: bool
    tenants: Mapping[str, QuotedNamespace]


async def read_hub(hub: KubeClient, operator_namespace: str, namespaces: set[str]) -> QuoteInput:
    """Read all of it. Raises NotFoundError if no market is published, and the rest of the KubeError tree."""
    from fedgpu_operator.api.placementpolicy import PlacementPolicy
    from fedgpu_operator.hub.services.escrow import published
    from fedgpu_operator.hub.services.market import published_market
    from fedgpu_operator.ports import ResourceType

    market = await published_market(hub, operator_namespace)
    try:
        found, _ = await hub.list(ResourceType.of(PlacementPolicy.info))
        policies = tuple(PlacementPolicy.parse(each) for each in found)
    except ForbiddenError:
        policies = None
    priorities = await _priorities(hub)
    try:
        await published(hub, operator_namespace)
        settles = True
    except NotFoundError:
        settles = False
    return QuoteInput(
        market, policies, priorities, settles, {name: await _tenant(hub, name) for name in sorted(namespaces)}
    )


async def _priorities(hub: KubeClient) -> Priorities | None:
    from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES, priorities_of

    try:
        return priorities_of((await hub.list(PRIORITY_CLASSES))[0])
    except ForbiddenError:
        return None


async def _tenant(hub: KubeClient, namespace: str) -> QuotedNamespace:
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.ports import NAMESPACES, ResourceType

    labels: Mapping[str, str] | None
    account: ComputeAccount | None = None
    known = True
    try:
        labels = (await hub.get(NAMESPACES, namespace))["metadata"].get("labels") or {}
    except (ForbiddenError, NotFoundError):
        labels = None
    try:
        account = ComputeAccount.parse(await hub.get(ResourceType.of(ComputeAccount.info), "default", namespace))
    except NotFoundError:
        account = None
    except ForbiddenError:
        known = False
    return QuotedNamespace(labels, account, known)


def quote_document(checked: CheckedJob, hub: QuoteInput, now: datetime) -> JSONObject:
    """The job's quote as data. Raises InvalidResourceError if it names what does not exist."""
    from fedgpu_operator.hub.services.snapshot import domain_job
    from fedgpu_operator.hub.views.jobfacts import JobFacts
    from fedgpu_operator.placement import Snapshot, evaluate

    job = checked.job
    namespace = job.metadata.namespace
    tenant = hub.tenants[namespace]
    offers = hub.market.offers
    if offers is None:
        raise InvalidResourceError(
            "TooManyOffers", "more offers on the hub than it publishes: apply the job with dryRun: true instead"
        )
    try:
        wanted = domain_job(
            JobFacts(job),
            tenant.account,
            now,
            timedelta(0),
            hosts={each.offer.provider: each.offer.egress_per_gib for each in offers},
            vantages=hub.market.vantages,
        )
        if hub.priorities is not None:
            wanted = replace(wanted, priority=hub.priorities.of(job).value)
    except InvalidResourceError as error:
        raise InvalidResourceError(error.why, f"ComputeJob {job.key}: {error}") from error
    snapshot = Snapshot(
        now=now,
        jobs=(),
        offers=tuple(each.offer for each in offers),
        policies={namespace: _binding_policies(hub, namespace)},
        funds={namespace: _funds(hub, tenant)},
        default_deny=hub.market.default_deny and hub.policies is not None,
    )
    decision = evaluate(wanted, snapshot)
    by_name = {each.offer.name: each for each in offers}
    return _document(checked, wanted, decision, by_name, hub)


def _binding_policies(hub: QuoteInput, namespace: str) -> tuple[Policy, ...]:
    """Those that bind the namespace, as far as the user may read them."""
    # Every namespace carries its name as a label; the others are read if that is allowed.
    labels = {"kubernetes.io/metadata.name": namespace, **(hub.tenants[namespace].labels or {})}
    return tuple(each.to_domain() for each in hub.policies or () if each.binds(labels))


def _funds(hub: QuoteInput, tenant: QuotedNamespace) -> MicroUSD | None:
    """What the namespace can still reserve; None if nothing is paid on chain, or that cannot be known."""
    from fedgpu_operator.domain.money import NOTHING, parse_usd

    if not hub.settles or not tenant.account_known:
        return None
    return NOTHING if tenant.account is None else parse_usd(tenant.account.status.available)


def _document(
    checked: CheckedJob, wanted: Job, decision: Decision, offers: Mapping[str, QuotedOffer], hub: QuoteInput
) -> JSONObject:

    job, chosen = checked.job, optimum(decision, offers)
    return {
        "namespace": job.metadata.namespace,
        "name": job.metadata.name,
        "at": instant(hub.market.at),
        "gpus": wanted.gpus,
        "runLimitSeconds": job.run_limit,
        "billableSeconds": wanted.run_limit,
        "checked": checked.checked,
        "checkedByServer": checked.by_server,
        "priority": wanted.priority if hub.priorities is not None else None,
        "priorityKnown": hub.priorities is not None,
        "fits": chosen is not None,
        "message": decision.message,
        "placement": None if chosen is None else _offer_row(chosen, offers[chosen.offer], wanted),
        "wait": wait(wanted, decision, chosen, offers, hub.market),
        "policies": list(decision.policies) if hub.policies is not None else None,
        "namespaceLabelsKnown": hub.tenants[job.metadata.namespace].labels is not None,
        "rulesNotAsked": list(hub.market.own_rules),
        "accountKnown": hub.tenants[job.metadata.namespace].account_known,
        "offers": [_offer_row(each, offers[each.offer], wanted) for each in decision.verdicts],
    }


def optimum(decision: Decision, offers: Mapping[str, QuotedOffer]) -> Verdict | None:
    """Where one more job of this kind would go: least effective price plus what others then pay more, then by name.

    Exact for one GPU; for more it prices them all as the first one. An offer whose next GPU would be taken from
    waiting work comes after all others.
    """

    def order(verdict: Verdict) -> tuple[bool, int, str]:
        premium = offers[verdict.offer].premium
        beyond = premium.low if premium.high is None else premium.high
        return premium.high is None, verdict.effective_price + beyond, verdict.offer

    return min((each for each in decision.verdicts if each.eligible), key=order, default=None)


def wait(
    wanted: Job,
    decision: Decision,
    chosen: Verdict | None,
    offers: Mapping[str, QuotedOffer],
    market: MarketDocument,
) -> JSONObject:
    """How long until it could be placed: 0 if it fits, else GPUs ahead and its own over GPUs that come free an hour.

    `hours` is None if that is not known; `why` says in words what was counted. All that waits counts as ahead: it is
    published without its priorities.
    """
    from fedgpu_operator.api.reasons import ConditionReason
    from fedgpu_operator.domain.market import GLOBAL

    if chosen is not None:
        contested = offers[chosen.offer].premium.high is None
        why = "waiting jobs want the same GPUs: priority decides" if contested else "it fits now"
        return {"hours": None if contested else 0.0, "why": why}
    # These pass when running work ends: from them an estimate of the wait can be made.
    passing = (ConditionReason.INSUFFICIENT_GPUS, ConditionReason.PROVIDER_FULL)
    full = [each for each in decision.verdicts if each.reason in passing]
    if not full:
        return {"hours": None, "why": "unknown: more than free GPUs is missing; see the verdicts"}
    freed = sum(offers[each.offer].freed for each in full)
    products = {each.product for each in full}
    ahead = max(
        (each.point.unmet for each in market.markets if each.point.region == GLOBAL and each.point.product in products),
        default=0,
    )
    if not freed:
        return {
            "hours": None,
            "gpusAhead": ahead,
            "gpusFreedPerHour": 0.0,
            "why": f"unknown: no GPU of these offers was freed in the last {market.window} h",
        }
    rate = freed / market.window
    hours = round((ahead + wanted.gpus) / rate, 1)
    return {
        "hours": hours,
        "gpusAhead": ahead,
        "gpusFreedPerHour": round(rate, 2),
        "why": (
            f"about {hours:g} h: {counted(ahead, 'GPU')} queued ahead of this job's {wanted.gpus}, whatever their "
            f"priority, and {rate:.2g} per hour freed at these offers in the last {market.window} h"
            + ("; longer, or never, if they must be free together on one node" if wanted.gpus > 1 else "")
        ),
    }


def _offer_row(verdict: Verdict, quoted: QuotedOffer, wanted: Job) -> JSONObject:
    from fedgpu_operator.domain.money import MicroUSD, charge, format_usd

    parts = {"price": verdict.price, **verdict.components}
    seconds = wanted.gpus * wanted.run_limit
    location, premium = quoted.offer.location, quoted.premium
    return {
        "provider": verdict.provider,
        "product": verdict.product,
        "country": location.country,
        "region": location.region,
        "free": quoted.offer.free_gpus,
        "eligible": verdict.eligible,
        "reason": str(verdict.reason) if verdict.reason is not None else None,
        "message": verdict.message,
        "price": format_usd(verdict.price),
        "components": {name: format_usd(amount) for name, amount in verdict.components.items()},
        "effectivePrice": format_usd(verdict.effective_price),
        "clearingPremium": None if premium.high is None else format_usd(premium.high),
        "maxCost": format_usd(verdict.cost),
        "fullCost": {name: format_usd(charge(MicroUSD(amount), seconds)) for name, amount in parts.items()},
        "fullCostTotal": format_usd(charge(verdict.effective_price, seconds)),
        "latencyMs": verdict.latency_ms,
        "latencySource": verdict.latency_source or None,
        "score": verdict.score,
    }


def quotes_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    parts: list[Table | str] = []
    for each in document["quotes"]:
        parts += [*([""] if parts else []), *_quote_text(each)]
    if document["otherObjects"]:
        parts += [
            "",
            f"Skipped {counted(document['otherObjects'], 'object')} of other kinds; only ComputeJobs are quoted.",
        ]
    return parts


def _quote_text(each: JSONObject) -> list[Table | str]:
    size = f"{counted(each['gpus'], 'GPU')} for at most {duration_text(each['runLimitSeconds'])}"
    head = f"{each['namespace']}/{each['name']}: {size}"
    lines: list[Table | str] = [head, f"  {each['message']}", ""]
    here = each["placement"]
    if here is not None:
        lines += [
            f"Placement {here['provider']}, {here['product']}, {_place(here)}",
            f"Price     {here['price']} USD per GPU-hour; at most {here['maxCost']} USD for run and grace period",
            f"Effective {_sum(here)}",
            f"Full cost {_whole(here)}",
        ]
        if here["clearingPremium"] not in (None, "0.00"):
            lines.append(f"Scarcity  other jobs then pay {here['clearingPremium']} USD more per GPU-hour")
    lines.append(f"Wait      {_wait_text(each['wait'])}")
    lines.append(f"Checked   {each['checked']}")
    lines += [f"Priority  {_priority_text(each)}", f"Policies  {_policies_text(each)}"]
    if each["rulesNotAsked"]:
        lines.append(f"Rules     {', '.join(each['rulesNotAsked'])} not evaluated here; dryRun: true evaluates them")
    if not each["accountKnown"]:
        lines.append("Funds     unknown: you may not read the account of this namespace")
    if each["offers"]:
        lines += ["", _offers_table(each)]
    if len(each["offers"]) > SHOWN:
        lines.append(f"{counted(len(each['offers']) - SHOWN, 'more offer')}: see -o json.")
    lines.append(f"As of {each['at']}. Nothing was applied; prices can change until the job is placed.")
    return lines


def _place(offer: JSONObject) -> str:
    return ", ".join(each for each in (offer["country"], offer["region"]) if each) or "unknown place"


def _sum(offer: JSONObject) -> str:
    """``2.52 = 2.49 price + 0.03 latency``."""
    parts = [f"{offer['price']} price", *(f"{amount} {name}" for name, amount in offer["components"].items())]
    return f"{offer['effectivePrice']} = {' + '.join(parts)}, USD per GPU-hour"


def _whole(offer: JSONObject) -> str:
    """The same over the whole run: what is billed here, and what it costs or counts as elsewhere."""
    parts = " + ".join(f"{amount} {name}" for name, amount in offer["fullCost"].items())
    return f"{offer['fullCostTotal']} = {parts}, USD for the whole run; only the price is billed here"


def _wait_text(wait: JSONObject) -> str:
    return "none: it fits now" if wait["hours"] == 0 else str(wait["why"])


def _priority_text(each: JSONObject) -> str:
    if not each["priorityKnown"]:
        return "unknown: you may not list PriorityClasses"
    return str(each["priority"])


def _policies_text(each: JSONObject) -> str:
    if each["policies"] is None:
        return "unknown: you may not list PlacementPolicies, so the verdicts leave them out"
    named = ", ".join(each["policies"]) or "none"
    if not each["namespaceLabelsKnown"]:
        return f"{named}; you may not read this namespace's labels, so some may be missing"
    return named


def _offers_table(each: JSONObject) -> Table:
    chosen = each["placement"] or {}
    table = plain_table("", "PROVIDER", "PRODUCT", "VERDICT", *COLUMNS, "WHY NOT", right=COLUMNS)
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
