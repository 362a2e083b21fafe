"""Builds the snapshot that placement decides on from a reading of the hub; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.faults import avoided
from fedgpu_operator.domain.job import DataSet, Job, Policy
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.domain.vantage import Vantage, with_vantages
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.faults import ending_of
from fedgpu_operator.hub.funds import standing
from fedgpu_operator.hub.inventory import offers
from fedgpu_operator.hub.jobfacts import JobFacts
from fedgpu_operator.hub.obligations import Obligations
from fedgpu_operator.hub.providers import is_ready
from fedgpu_operator.hub.store import HubState

SHOWN: Final = 256
"""Letters of a member's message that a verdict shows; the status cuts the whole at as many."""
NOT_COOLING: Final[Mapping[str, str]] = MappingProxyType({})


def domain_job(
    facts: JobFacts,
    account: ComputeAccount | None,
    now: datetime,
    cooldown: timedelta,
    *,
    hosts: Mapping[str, MicroUSD | None],
    vantages: tuple[Vantage, ...] = (),
    cooling: Mapping[str, str] = NOT_COOLING,
) -> Job:
    """The job as placement sees it: an account's cap per job tightens its budget, places that failed are avoided.

    `cooling` maps offers at which no job of the tenant is placed now to why; `cooldown` is the first one's length.
    `hosts` maps every provider to what it charges for one GiB that leaves (µUSD, None where not stated); `vantages` are
    the hub's measuring points. Raises InvalidResourceError where the job names what does not exist, or where its data
    leaves it no lawful place.
    """
    job = facts.job.to_domain(spent=facts.cost, avoid=_avoid(facts, now, cooldown, cooling))
    if job.data:
        job = replace(job, data=tuple(_hosted(each, hosts) for each in job.data))
    if job.latency is not None:
        try:
            job = replace(job, latency=with_vantages(job.latency, vantages))
        except ValueError as error:
            raise InvalidResourceError("UnknownPlace", f"spec.latency.from.vantage: {error}") from error
    cap = account.spec.max_per_job if account is not None else None
    if cap is None:
        return job
    left = MicroUSD(max(0, parse_usd(cap) - facts.cost))
    return job.within(left)


def hosts_of(providers: Mapping[str, GPUProvider]) -> dict[str, MicroUSD | None]:
    """What each provider charges for one GiB that leaves (µUSD), None where it does not say."""
    tariffs = {
        name: each.spec.network.egress_price_per_gi_b if each.spec.network else None for name, each in providers.items()
    }
    return {name: None if usd is None else parse_usd(usd) for name, usd in tariffs.items()}


def _hosted(data: DataSet, hosts: Mapping[str, MicroUSD | None]) -> DataSet:
    """The data set with the egress price of the provider at which it lies, where the job names none."""
    if not data.provider:
        return data
    if data.provider not in hosts:
        raise InvalidResourceError(
            "UnknownProvider",
            f"spec.data.sets[{data.name}].provider: this hub has no GPUProvider {data.provider}; name one that "
            "`kubectl get gpup` lists, or the country in which the data lies",
        )
    return replace(data, egress_per_gib=hosts[data.provider]) if data.egress_per_gib is None else data


def _avoid(facts: JobFacts, now: datetime, cooldown: timedelta, cooling: Mapping[str, str]) -> Mapping[str, str]:
    """Offers that the job keeps away from, and why; what it runs at is never among them."""
    own = avoided(filter(None, map(ending_of, facts.attempts)), now, cooldown)
    newest, lease = facts.newest, facts.lease
    at = f"{newest.terms.provider}/{newest.terms.product}" if newest is not None else ""
    if newest is not None and newest.is_open:
        own.pop(at, None)
        cooling = {offer: why for offer, why in cooling.items() if offer != at} if at in cooling else cooling
    elif at in own and lease is not None and lease.status.exit_message:
        own[at] += f": {lease.status.exit_message[:SHOWN]}"
    return {**cooling, **own} if own else cooling


def all_offers(state: HubState) -> tuple[Offer, ...]:
    """Every offer of every provider, the hub's own leases subtracted; what cannot be paid for is not ready."""
    return tuple(offer for name in state.providers for offer in offers_of(name, state))


def offers_of(name: str, state: HubState) -> tuple[Offer, ...]:
    """The offers of one provider of the state, as `all_offers` has them."""
    provider = state.providers[name]
    payable = state.wallets is None or name in state.wallets.payouts
    ready = is_ready(provider) and not provider.draining and payable
    return tuple(offers(provider, state.reports.get(name), state.leases_of(name), ready=ready, costs=state.costs))


def policies_by_namespace(
    state: HubState, namespaces: Iterable[str]
) -> tuple[dict[str, tuple[Policy, ...]], dict[str, InvalidResourceError]]:
    """The policies that bind each namespace, and the namespaces whose law cannot be read: nothing is placed there."""
    bound: dict[str, tuple[Policy, ...]] = {}
    broken: dict[str, InvalidResourceError] = {}
    for namespace in set(namespaces):
        for name in state.unreadable_policies:
            text = f"PlacementPolicy {name} cannot be read by this version, so it is not known what it forbids"
            broken[namespace] = InvalidResourceError("InvalidPolicy", text)
        labels = dict(state.namespaces.get(namespace, {}))
        policies = []
        for policy in state.policies:
            if policy.binds(labels):
                try:
                    policies.append(policy.to_domain())
                except InvalidResourceError as error:
                    text = (
                        f"PlacementPolicy {policy.metadata.name} binds this namespace and cannot be honoured: {error}"
                    )
                    broken[namespace] = InvalidResourceError("InvalidPolicy", text)
        bound[namespace] = tuple(policies)
    return bound, broken


def funds_by_namespace(state: HubState, namespaces: Iterable[str], owed: Obligations) -> dict[str, MicroUSD | None]:
    """What each namespace may still commit; None (unlimited) where nothing is settled on chain at all."""
    if state.wallets is None:
        return dict.fromkeys(namespaces)
    funds: dict[str, MicroUSD | None] = {}
    for namespace in set(namespaces):
        wallet = state.wallets.tenants.get(namespace)
        known = standing(state.accounts[namespace]) if wallet is not None else None
        funds[namespace] = known.available(owed.exposure(wallet or "")) if known is not None else MicroUSD(0)
    return funds
