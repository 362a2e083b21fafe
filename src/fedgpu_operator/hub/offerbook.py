"""Every offer of the hub, kept from pass to pass: only what a changed object concerns is reckoned again."""

from __future__ import annotations

from dataclasses import dataclass

from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.hub.costs import UNKNOWN, RunCosts
from fedgpu_operator.hub.placing import offers_of
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.hub.watched import Watched, same_objects


@dataclass(frozen=True, slots=True)
class _Known:
    """The offers of one provider, and the objects that they follow from."""

    rests_on: tuple[object, ...]
    costs: object
    payable: bool
    offers: tuple[Offer, ...]


class OfferBook:
    """Answers with the same tuple as long as no offer changed, and with the same Offer as long as it did not.

    What is remembered spares work and decides nothing: a new book gives the same offers.
    """

    def __init__(self) -> None:
        self._objects = Watched()
        self._costs: RunCosts = UNKNOWN
        self._known: dict[str, _Known] = {}
        self._all: tuple[Offer, ...] = ()

    def look(self, state: HubState) -> tuple[Offer, ...]:
        """What is for sale, the hub's own leases subtracted, by provider as the state holds them."""
        objects = (state.wallets, *state.providers.values(), *state.reports.values(), *state.leases.values())
        if self._objects.changed(objects) or state.costs is not self._costs:
            self._costs = state.costs
            self._known = {name: self._look(name, state) for name in state.providers}
            found = tuple(offer for known in self._known.values() for offer in known.offers)
            if not same_objects(self._all, found):
                self._all = found
        return self._all

    def _look(self, name: str, state: HubState) -> _Known:
        rests_on = (state.providers[name], state.reports.get(name), *state.leases_of(name))
        costs = state.costs.gas_share, state.costs.interruptions_per_mh.get(name)
        payable = state.wallets is None or name in state.wallets.payouts
        known = self._known.get(name)
        if known is None:
            return _Known(rests_on, costs, payable, offers_of(name, state))
        same = (known.costs, known.payable) == (costs, payable)
        if same and same_objects(known.rests_on, rests_on):
            return known
        before = {offer.gpu.product: offer for offer in known.offers}
        found = tuple(
            old if (old := before.get(offer.gpu.product)) == offer else offer for offer in offers_of(name, state)
        )
        return _Known(rests_on, costs, payable, found)
