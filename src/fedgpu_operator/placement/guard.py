"""Asks plugins and lets only those of third parties fail: what such a one does not answer in order is refused."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement.context import MAX_COMPONENT, BoolVector, Context, IntVector, OfferRefusal
from fedgpu_operator.placement.registry import Filter, Plugins, Pricer
from fedgpu_operator.placement.table import OfferTable

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
        """Asks what the plugin's answers for a job depend on; None where it has nothing to say."""
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
