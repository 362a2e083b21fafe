"""The plugins in order, one line each: the order decides which refusal is named, law first, passing states last."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.placement.context import BoolVector, Context, IntVector, OfferRefusal
from fedgpu_operator.placement.plugins import (
    budget,
    capacity,
    carbon,
    compliance,
    cooldown,
    deadline,
    egress,
    gas,
    hardware,
    latency,
    policy,
    price_cap,
    readiness,
    rerun,
    residency,
    selector,
)
from fedgpu_operator.placement.table import OfferTable

_NAME: Final = re.compile(r"[a-z][A-Za-z0-9]{0,62}", re.ASCII)
_REASON: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: which offers a job may not have.

    `name` is what users see (lowerCamelCase), `reasons` every word it may give. `refusal` is the truth. `key` is
    everything of the job, its policies and the instant that the answers depend on; None says that it refuses nothing
    for such a job. `allowed` says for all offers at once what `refusal` says one by one (bool, shape (offers,));
    `told` which of several `reasons` (int64, shape (offers,), any value where nothing is refused). Without them
    `refusal` is asked offer by offer; a third party's `told` is never asked.
    """

    name: str
    refusal: Callable[[Context, Offer], OfferRefusal | None]
    reasons: tuple[str, ...]
    key: Callable[[Context], Hashable]
    allowed: Callable[[Context, OfferTable], BoolVector] | None = None
    told: Callable[[Context, OfferTable], IntVector] | None = None


@dataclass(frozen=True, slots=True)
class Pricer:
    """One part of the effective price, by its name in `Verdict.components`.

    `price` gives µUSD per GPU-hour for all offers (int64, shape (offers,), 0 to MAX_COMPONENT); `key` is everything of
    the job, its policies and the instant that it depends on, None where it adds nothing for such a job.
    """

    name: str
    price: Callable[[Context, OfferTable], IntVector]
    key: Callable[[Context], Hashable]


RULES: Final = (
    Filter("residency", residency.refusal, (Reason.RESIDENCY_DENIED,), residency.key, residency.allowed),
    Filter("compliance", compliance.refusal, (Reason.COMPLIANCE_MISSING,), compliance.key, compliance.allowed),
    Filter("policy", policy.refusal, (Reason.POLICY_DENIED,), policy.key, policy.allowed),
    Filter("selector", selector.refusal, (Reason.SELECTOR_MISMATCH,), selector.key, selector.allowed),
    Filter("hardware", hardware.refusal, (Reason.HARDWARE_MISMATCH,), hardware.key, hardware.allowed),
    Filter("priceCap", price_cap.refusal, (Reason.PRICE_ABOVE_LIMIT,), price_cap.key, price_cap.allowed),
    Filter(
        "latency",
        latency.refusal,
        latency.REASONS,
        latency.key,
        latency.allowed,
        latency.told,
    ),
    Filter("budget", budget.refusal, (Reason.OVER_BUDGET,), budget.key, budget.allowed),
    Filter("deadline", deadline.refusal, (Reason.DEADLINE_TOO_NEAR,), deadline.key, deadline.allowed),
)
"""What the job and its policies say; the filters of third parties come right after these."""

STATES: Final = (
    Filter("readiness", readiness.refusal, (Reason.PROVIDER_NOT_READY,), readiness.key, readiness.allowed),
    Filter("cooldown", cooldown.refusal, (Reason.COOLING_DOWN,), cooldown.key, cooldown.allowed),
    Filter(
        "capacity",
        capacity.refusal,
        (Reason.INSUFFICIENT_GPUS, Reason.PROVIDER_FULL),
        capacity.key,
        capacity.allowed,
        capacity.told,
    ),
)
"""What passes by itself."""

PRICERS: Final = (
    Pricer("latency", latency.known_price, latency.price_key),
    Pricer("latencyAssumed", latency.assumed_price, latency.price_key),
    Pricer("carbon", carbon.stated_price, carbon.key),
    Pricer("carbonAssumed", carbon.assumed_price, carbon.key),
    Pricer("egress", egress.stated_price, egress.key),
    Pricer("egressAssumed", egress.assumed_price, egress.key),
    Pricer("rerun", rerun.price, rerun.key),
    Pricer("gas", gas.price, gas.key),
)


@dataclass(frozen=True)
class Plugins:
    """All plugins of one process: the built-in ones and those of third parties, which must fail safely.

    Raises ConfigurationError where a name or a reason is not well-formed or already taken.
    """

    extra_filters: tuple[Filter, ...] = ()
    extra_pricers: tuple[Pricer, ...] = ()

    def __post_init__(self) -> None:
        # One name stands for one plugin in `foreign`, whatever it does: a pricer may not be called as a filter is.
        ours = {each.name for each in (*RULES, *STATES, *PRICERS)}
        filters = [each.name for each in self.extra_filters]
        _distinct("filter", ours, filters, _NAME)
        _distinct("price component", ours.union(filters), (each.name for each in self.extra_pricers), _NAME)
        given = {reason for each in self.extra_filters for reason in each.reasons}
        _distinct("reason", Reason, given, _REASON)

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """In the order in which they are asked: the first refusal is the one named."""
        return (*RULES, *self.extra_filters, *STATES)

    @property
    def states(self) -> tuple[Filter, ...]:
        """The filters of what passes by itself: the last ones."""
        return STATES

    @cached_property
    def pricers(self) -> tuple[Pricer, ...]:
        """In the order in which their components are listed."""
        return (*PRICERS, *self.extra_pricers)

    @cached_property
    def foreign(self) -> frozenset[str]:
        """Names of the plugins that are not ours: they may fail without ending the pass."""
        names = [each.name for each in self.extra_filters]
        return frozenset(names + [each.name for each in self.extra_pricers])

    @cached_property
    def reason_order(self) -> tuple[str, ...]:
        """Reasons from the first filter to the solver: the later one is the nearer miss."""
        rules, states = (*RULES, *self.extra_filters), STATES
        before = [reason for each in rules for reason in each.reasons]
        after = [reason for each in states for reason in each.reasons]
        return tuple(dict.fromkeys([*before, Reason.PLUGIN_FAILED, *after, Reason.UNFUNDED, Reason.OUTBID]))

    @cached_property
    def depth(self) -> Mapping[str, int]:
        """Position of each reason in `reason_order`."""
        return {reason: depth for depth, reason in enumerate(self.reason_order)}


def _distinct(what: str, ours: Iterable[str], theirs: Iterable[str], form: re.Pattern[str]) -> None:
    taken = set(ours)
    for name in theirs:
        if not form.fullmatch(name):
            raise ConfigurationError(f"the {what} {name!r} of a placement plugin does not match {form.pattern}")
        if name in taken:
            raise ConfigurationError(f"the {what} {name!r} of a placement plugin is already taken")
        taken.add(name)


BUILT_IN: Final = Plugins()
FILTERS: Final = BUILT_IN.filters
REASON_ORDER: Final = BUILT_IN.reason_order
