"""The plugins in order, law first and passing states last, and how they are asked so that only strangers' may fail.

The order decides which refusal is named. What a third party's plugin does not answer in order is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.placement.context import MAX_COMPONENT, BoolVector, Context, IntVector, OfferRefusal
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
    `reason_index` which of several `reasons` (int64, shape (offers,); any value if nothing is refused). Without them
    `refusal` is asked offer by offer; a third party's `reason_index` is never asked.
    """

    name: str
    refusal: Callable[[Context, Offer], OfferRefusal | None]
    reasons: tuple[str, ...]
    key: Callable[[Context], Hashable]
    allowed: Callable[[Context, OfferTable], BoolVector] | None = None
    reason_index: Callable[[Context, OfferTable], IntVector] | None = None


@dataclass(frozen=True, slots=True)
class Pricer:
    """One part of the effective price, by its name in `Verdict.components`.

    `price` gives µUSD per GPU-hour for all offers (int64, shape (offers,), 0 to MAX_COMPONENT); `key` is everything of
    the job, its policies and the instant that it depends on, None if it adds nothing for such a job.
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
        latency.reason_index,
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
        capacity.reason_index,
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

    Raises ConfigurationError if a name or a reason is not well-formed or already taken.
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


V = TypeVar("V", np.bool_, np.int64)


class Broken(NamedTuple):
    """Stands for the key of a plugin whose key function failed: it refuses everything."""

    message: str


class PluginFailure(NamedTuple):
    """One failure of a third party's plugin in a pass, for the log: its name, and what went wrong."""

    plugin: str
    message: str


class Guard:
    """Asks the plugins of one process; `failures` are those of third parties since the last `drain`."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._failures: dict[PluginFailure, None] = {}
        self._distrusted: set[str] = set()
        self.failed = 0
        """How often a plugin failed since the process began."""
        self.last = ""
        """What went wrong the last time, as a sentence."""

    def drain(self) -> tuple[PluginFailure, ...]:
        """The distinct failures since the last call."""
        found = tuple(self._failures)
        self._failures.clear()
        return found

    def keyed(self, each: Filter | Pricer) -> Callable[[Context], Hashable]:
        """Asks what the plugin's answers for a job depend on; None if it has nothing to say."""
        if each.name not in self.plugins.foreign:
            return each.key

        def key(ctx: Context) -> Hashable:
            try:
                found = each.key(ctx)
                hash(found)
            except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything, and must not end the pass
                return Broken(self._failed(each.name, error).message)
            return found

        return key

    def mask(self, each: Filter, ctx: Context, table: OfferTable) -> BoolVector:
        """Which offers the filter allows; bool, shape (offers,)."""
        if each.name not in self.plugins.foreign:
            return _mask(each, ctx, table)
        if each.allowed is not None and each.name not in self._distrusted:
            try:
                return _checked(each.allowed(ctx, table), np.bool_, len(table))
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(each.name, error)
        return np.array([self.refusal(each, ctx, offer) is None for offer in table.offers], dtype=np.bool_)

    def refusal(self, each: Filter, ctx: Context, offer: Offer) -> OfferRefusal | None:
        """What the filter says of one offer; a failure refuses, and is reported."""
        said = self._asked(each, ctx, offer)
        return self._failed(each.name, said) if isinstance(said, Exception) else said

    def contradicts(self, each: Filter, ctx: Context, offer: Offer) -> bool:
        """Whether a third party's `refusal` does not stand by its `allowed`, which let this offer through.

        From then on that `allowed` is not asked any more: `refusal` is the truth, and is asked offer by offer.
        """
        if each.name not in self.plugins.foreign or each.allowed is None or each.name in self._distrusted:
            return False
        said = self._asked(each, ctx, offer)
        if said is None:
            return False
        lie = ValueError(f"`allowed` accepts {offer.name}, `refusal` does not")
        self._failed(each.name, said if isinstance(said, Exception) else lie)
        self._distrusted.add(each.name)
        return True

    def words(self, each: Filter, ctx: Context, offer: Offer) -> OfferRefusal:
        """Why the filter refused an offer, asked again after the pass: nothing is reported."""
        said = self._asked(each, ctx, offer)
        if isinstance(said, Exception):
            return _failure(each.name, said)
        if said is None:
            return OfferRefusal(Reason.PLUGIN_FAILED, f"plugin {each.name} refused the offer without a reason")
        return said

    def _asked(self, each: Filter, ctx: Context, offer: Offer) -> OfferRefusal | Exception | None:
        if each.name not in self.plugins.foreign:
            return each.refusal(ctx, offer)
        try:
            return _declared(each, each.refusal(ctx, offer))
        except Exception as error:  # noqa: BLE001 - as above
            return error

    def price(self, each: Pricer, ctx: Context, table: OfferTable) -> IntVector:
        """What the pricer adds, int64, shape (offers,); where a third party's fails, zeros that count for nothing."""
        if each.name not in self.plugins.foreign:
            return each.price(ctx, table)
        try:
            row = _bounded(_checked(each.price(ctx, table), np.int64, len(table)))
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(each.name, error)
            return np.zeros(len(table), dtype=np.int64)
        return row

    def _failed(self, name: str, error: Exception) -> OfferRefusal:
        refused = _failure(name, error)
        self._failures[PluginFailure(name, refused.message)] = None
        self.failed += 1
        self.last = refused.message
        return refused


def _failure(name: str, error: Exception) -> OfferRefusal:
    return OfferRefusal(Reason.PLUGIN_FAILED, f"plugin {name} failed: {type(error).__name__}: {str(error)[:200]}")


def _mask(each: Filter, ctx: Context, table: OfferTable) -> BoolVector:
    if each.allowed is not None:
        return each.allowed(ctx, table)
    return np.array([each.refusal(ctx, offer) is None for offer in table.offers], dtype=np.bool_)


def _checked(row: NDArray[V], dtype: type[V], length: int) -> NDArray[V]:
    if not isinstance(row, np.ndarray) or row.dtype != dtype or row.shape != (length,):
        raise TypeError(f"returned {type(row).__name__}, expected {dtype.__name__} of shape ({length},)")
    return row


def _bounded(row: IntVector) -> IntVector:
    if len(row) and not 0 <= row.min() <= row.max() <= MAX_COMPONENT:
        raise ValueError(f"price outside 0 to {MAX_COMPONENT}")
    return row


def _declared(each: Filter, said: OfferRefusal | None) -> OfferRefusal | None:
    if said is not None and said.reason not in each.reasons:
        raise ValueError(f"undeclared reason {said.reason!r}")
    return said
