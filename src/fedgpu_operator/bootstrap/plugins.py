"""Finds third parties' placement rules among the installed packages, and tries each before the operator starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.placement import BUILT_IN, Context, Filter, OfferTable, Plugins, Pricer
from fedgpu_operator.placement.registry import Guard

GROUP: Final = "fedgpu.placement"
"""The entry-point group. An entry point names a Filter, a Pricer, or a sequence of them."""


def load_plugins(names: Sequence[str]) -> Plugins:
    """The built-in rules and those of the entry points with these names, in the order given; no other is imported.

    Raises ConfigurationError if one is not installed, cannot be imported, is no rule, clashes with another in a
    name or reason, or fails on a plain job and offer.
    """
    if not names:
        return BUILT_IN
    installed: dict[str, list[EntryPoint]] = {}
    for each in entry_points(group=GROUP):
        installed.setdefault(each.name, []).append(each)
    rules = [rule for name in names for rule in _rules(name, installed)]
    plugins = Plugins(
        tuple(rule for rule in rules if isinstance(rule, Filter)),
        tuple(rule for rule in rules if isinstance(rule, Pricer)),
    )
    _try(plugins)
    return plugins


def _rules(name: str, installed: dict[str, list[EntryPoint]]) -> list[Filter | Pricer]:
    found = installed.get(name, [])
    if not found:
        known = ", ".join(sorted(installed)) or "none"
        raise ConfigurationError(
            f"FEDGPU_PLUGINS: no installed package has a placement rule {name!r}; there is {known}"
        )
    if len(found) > 1:
        raise ConfigurationError(f"FEDGPU_PLUGINS: {len(found)} installed packages have a placement rule {name!r}")
    try:
        loaded: object = found[0].load()
    except Exception as error:
        raise ConfigurationError(f"FEDGPU_PLUGINS: {name} cannot be imported: {_said(error)}") from error
    rules = list(loaded) if isinstance(loaded, Iterable) else [loaded]
    return [_rule(name, rule) for rule in rules]


def _rule(name: str, rule: object) -> Filter | Pricer:
    if not isinstance(rule, (Filter, Pricer)):
        raise ConfigurationError(f"FEDGPU_PLUGINS: {name} is a {type(rule).__name__}, not a Filter or a Pricer")
    return rule


def _try(plugins: Plugins) -> None:
    """Ask each rule once, as a pass would, about a plain job and two plain offers."""
    guard, table = Guard(plugins), OfferTable(_OFFERS)
    for each in plugins.extra_filters:
        key = guard.keyed(each)(_PLAIN)
        single = [guard.refusal(each, _PLAIN, offer) is None for offer in table.offers]
        allowed = [True] * len(table) if key is None else guard.mask(each, _PLAIN, table).tolist()
        _refuse_failed(guard)
        if allowed != single:
            without = "without a key " if key is None else ""
            raise ConfigurationError(
                f"FEDGPU_PLUGINS: {each.name}: {without}allowed says {allowed} of two offers, refusal {single}"
            )
    for price in plugins.extra_pricers:
        guard.keyed(price)(_PLAIN)
        guard.price(price, _PLAIN, table)
        _refuse_failed(guard)


def _refuse_failed(guard: Guard) -> None:
    for failure in guard.drain():
        raise ConfigurationError(f"FEDGPU_PLUGINS: on a plain job, {failure.message}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


_OFFER = Offer("probe", GpuModel("PROBE-80GB", 81_920, "hopper"), MicroUSD(1_000_000), Location(""), {8: 1})
_OFFERS = (_OFFER, replace(_OFFER, provider="probe-2", location=Location("DE", "eu-central-1", 50.1, 8.7), free={}))
_PLAIN = Context(Job("probe", "default", "probe", GpuNeed(), 1, 3600), (), False, datetime(2026, 1, 1, tzinfo=UTC))
