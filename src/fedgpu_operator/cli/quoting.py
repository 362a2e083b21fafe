"""What a job would get now, worked out with the asker's own rights from what the hub publishes; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import ForbiddenError, InvalidResourceError, NotFoundError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.computeaccount import ComputeAccount
    from fedgpu_operator.api.rules import PlacementPolicy
    from fedgpu_operator.cli.judging import Judged
    from fedgpu_operator.domain.decision import Decision, Verdict
    from fedgpu_operator.domain.job import Job, Policy
    from fedgpu_operator.domain.money import MicroUSD
    from fedgpu_operator.hub.services.market import MarketDocument, QuotedOffer
    from fedgpu_operator.hub.services.priorities import Priorities

FULL: Final = frozenset({"InsufficientGPUs", "ProviderFull"})
"""Reasons that pass when running work ends: what an estimate of the wait can be made from."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """What the asker may read of a namespace: its labels, None where not, and its account, None where it has none.

    `account_known` is whether the hub would have shown an account.
    """

    labels: Mapping[str, str] | None
    account: ComputeAccount | None
    account_known: bool = True


@dataclass(frozen=True, slots=True)
class Hub:
    """What a quote is made from. `policies` and `priorities` are None where the asker may not list them; `settles` is
    whether jobs are paid on chain, so that a namespace without money can run nothing.
    """

    market: MarketDocument
    policies: tuple[PlacementPolicy, ...] | None
    priorities: Priorities | None
    settles: bool
    tenants: Mapping[str, Tenant]


async def read_hub(hub: KubeClient, operator_namespace: str, namespaces: set[str]) -> Hub:
    """Read all of it. Raises NotFoundError where no market is published, and the rest of the KubeError tree."""
    from fedgpu_operator.api.rules import PlacementPolicy
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
    return Hub(market, policies, priorities, settles, {name: await _tenant(hub, name) for name in sorted(namespaces)})


async def _priorities(hub: KubeClient) -> Priorities | None:
    from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES, priorities_of

    try:
        return priorities_of((await hub.list(PRIORITY_CLASSES))[0])
    except ForbiddenError:
        return None


async def _tenant(hub: KubeClient, namespace: str) -> Tenant:
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
    return Tenant(labels, account, known)


def quote(judged: Judged, hub: Hub, now: datetime) -> JSONObject:
    """The job's quote as data. Raises InvalidResourceError where it names what does not exist."""
    from fedgpu_operator.hub.services.snapshot import domain_job
    from fedgpu_operator.hub.views.jobfacts import JobFacts
    from fedgpu_operator.placement import Snapshot, evaluate

    job = judged.job
    namespace = job.metadata.namespace
    tenant = hub.tenants[namespace]
    offers = hub.market.offers
    if offers is None:
        raise InvalidResourceError(
            "TooManyOffers", "the hub has more offers than it publishes: apply the job with dryRun: true instead"
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
        policies={namespace: _policies(hub, namespace)},
        funds={namespace: _funds(hub, tenant)},
        default_deny=hub.market.default_deny and hub.policies is not None,
    )
    decision = evaluate(wanted, snapshot)
    by_name = {each.offer.name: each for each in offers}
    return _document(judged, wanted, decision, by_name, hub)


def _policies(hub: Hub, namespace: str) -> tuple[Policy, ...]:
    """Those that bind the namespace, as far as the asker may know them."""
    # Every namespace carries its name as a label; the others are read where that is allowed.
    labels = {"kubernetes.io/metadata.name": namespace, **(hub.tenants[namespace].labels or {})}
    return tuple(each.to_domain() for each in hub.policies or () if each.binds(labels))


def _funds(hub: Hub, tenant: Tenant) -> MicroUSD | None:
    """What the namespace can still reserve; None where nothing is paid on chain, or that cannot be known."""
    from fedgpu_operator.domain.money import NOTHING, parse_usd

    if not hub.settles or not tenant.account_known:
        return None
    return NOTHING if tenant.account is None else parse_usd(tenant.account.status.available)


def _document(
    judged: Judged, wanted: Job, decision: Decision, offers: Mapping[str, QuotedOffer], hub: Hub
) -> JSONObject:
    from fedgpu_operator.cli.market import instant

    job, chosen = judged.job, optimum(decision, offers)
    return {
        "namespace": job.metadata.namespace,
        "name": job.metadata.name,
        "at": instant(hub.market.at),
        "gpus": wanted.gpus,
        "runLimitSeconds": job.run_limit,
        "billableSeconds": wanted.run_limit,
        "checked": judged.checked,
        "checkedByServer": judged.by_server,
        "priority": wanted.priority if hub.priorities is not None else None,
        "priorityKnown": hub.priorities is not None,
        "fits": chosen is not None,
        "message": decision.message,
        "placement": None if chosen is None else _offer(chosen, offers[_name(chosen)], wanted),
        "wait": wait(wanted, decision, chosen, offers, hub.market),
        "policies": list(decision.policies) if hub.policies is not None else None,
        "namespaceLabelsKnown": hub.tenants[job.metadata.namespace].labels is not None,
        "rulesNotAsked": list(hub.market.own_rules),
        "accountKnown": hub.tenants[job.metadata.namespace].account_known,
        "offers": [_offer(each, offers[_name(each)], wanted) for each in decision.verdicts],
    }


def optimum(decision: Decision, offers: Mapping[str, QuotedOffer]) -> Verdict | None:
    """Where one more job of this kind would go: least effective price plus what others then pay more, then by name.

    Exact for one GPU; for more it prices them all as the first one. An offer whose next GPU would be taken from
    waiting work comes after all that leave nobody without.
    """

    def order(verdict: Verdict) -> tuple[bool, int, str]:
        premium = offers[_name(verdict)].premium
        beyond = premium.low if premium.high is None else premium.high
        return premium.high is None, verdict.effective_price + beyond, _name(verdict)

    return min((each for each in decision.verdicts if each.eligible), key=order, default=None)


def wait(
    wanted: Job,
    decision: Decision,
    chosen: Verdict | None,
    offers: Mapping[str, QuotedOffer],
    market: MarketDocument,
) -> JSONObject:
    """How long until it could be placed: 0 where it fits, else GPUs ahead and its own over GPUs that come free an hour.

    `hours` is None where that is not known; `why` says in words what was counted. All that waits counts as ahead: it is
    published without its priorities.
    """
    from fedgpu_operator.domain.market import GLOBAL

    if chosen is not None:
        contested = offers[_name(chosen)].premium.high is None
        why = "work that waits wants the same GPUs: priority decides" if contested else "it fits now"
        return {"hours": None if contested else 0.0, "why": why}
    full = [each for each in decision.verdicts if each.reason in FULL]
    if not full:
        return {"hours": None, "why": "unknown: it waits for more than a free GPU; see the verdicts"}
    freed = sum(offers[_name(each)].freed for each in full)
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
            "why": f"unknown: nothing came free at these offers in the last {market.window} h",
        }
    rate = freed / market.window
    hours = round((ahead + wanted.gpus) / rate, 1)
    return {
        "hours": hours,
        "gpusAhead": ahead,
        "gpusFreedPerHour": round(rate, 2),
        "why": (
            f"about {hours:g} h: {ahead} GPUs are waited for beside its {wanted.gpus}, all counted as ahead of it "
            f"whatever their priority, and {rate:.2g} an hour came free at these offers in the last {market.window} h"
            + ("; longer, or never, where they must be free together on one node" if wanted.gpus > 1 else "")
        ),
    }


def _name(verdict: Verdict) -> str:
    return f"{verdict.provider}/{verdict.product}"


def _offer(verdict: Verdict, quoted: QuotedOffer, wanted: Job) -> JSONObject:
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
