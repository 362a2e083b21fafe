"""What a transaction costs: how much fits in one, when an epoch is worth its gas, and the fee offered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from fractions import Fraction
from typing import Final, TypeVar

from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import Claim, EpochPlan, Pair
from fedgpu_operator.domain.transactions import Call, Fees, FeeView
from fedgpu_operator.errors import Refusal

WEI: Final = 10**18
"""Wei of one whole native coin."""

# What the transactions cost, measured by `make bench-gas` and rounded up: benchmarks/results/gas.json.
POST_GAS: Final = 92_000
POST_GAS_PER_TENANT: Final = 8_000
CLAIM_GAS: Final = 55_000
CLAIM_GAS_PER_LEAF: Final = 32_000
CLAIM_GAS_PER_LINE: Final = 36_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How often to settle, and for how little.

    An epoch is due `every` so often. It waits while its gas costs more than `max_cost_share` of what it newly pays, at
    `native_usd` µUSD per whole native coin (None: gas is not counted), but never longer than `at_most`: what is not
    debited by then could be withdrawn. Pairs owed less than `min_payout` wait.
    """

    every: timedelta
    at_most: timedelta
    min_payout: MicroUSD = NOTHING
    native_usd: MicroUSD | None = None
    max_cost_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How large some epochs were: each figure is the sum over them, `runs` that of the leases they covered."""

    epochs: int
    tenants: int
    providers: int
    lines: int
    runs: int

    @property
    def gas(self) -> int:
        """What it takes to post and to claim all of them whole, where every pair is new to the contract."""
        return (
            (POST_GAS + CLAIM_GAS) * self.epochs
            + POST_GAS_PER_TENANT * self.tenants
            + CLAIM_GAS_PER_LEAF * self.providers
            + CLAIM_GAS_PER_LINE * self.lines
        )


LONELY: Final = Extent(epochs=1, tenants=1, providers=1, lines=1, runs=1)
"""One run that has an epoch to itself: nobody can cost more gas."""


def gas_of(plan: EpochPlan) -> int:
    """What it takes to post the epoch and to claim it whole, where every pair is new to the contract."""
    lines = sum(len(leaf.lines) for leaf in plan.leaves)
    return Extent(1, len(plan.debits), len(plan.leaves), lines, 0).gas


def share_of_run(past: Extent, wei_per_gas: int, native_usd: MicroUSD) -> MicroUSD:
    """µUSD of gas that one run is expected to bear, rounded up: that of past epochs over the runs that shared them.

    Where nothing was settled yet, a run is taken to have an epoch to itself.
    """
    seen = past if past.runs else LONELY
    return MicroUSD(-(-cost_of(seen.gas, wei_per_gas, native_usd) // seen.runs))


def cost_of(gas: int, wei_per_gas: int, native_usd: MicroUSD) -> MicroUSD:
    """µUSD that so much gas costs, rounded up."""
    return MicroUSD(-(-gas * wei_per_gas * native_usd // WEI))


def newly_paid(plan: EpochPlan, before: Mapping[Pair, MicroUSD]) -> MicroUSD:
    """What the epoch pays beyond `before`: what was paid, or promised by the newest root, of each of its pairs."""
    return MicroUSD(sum(max(0, total - before.get(pair, NOTHING)) for pair, total in plan.pairs.items()))


def worth_its_gas(pays: MicroUSD, gas: int, wei_per_gas: int, terms: Terms, waited: timedelta) -> bool:
    """Whether the epoch goes out now: cheap enough for what it pays, or it has waited as long as it may."""
    if terms.native_usd is None or waited >= terms.at_most:
        return True
    return cost_of(gas, wei_per_gas, terms.native_usd) <= pays * terms.max_cost_share


T = TypeVar("T")

MAX_TX_GAS: Final = 2**24
"""Gas limit that no transaction may exceed since Osaka (EIP-7825); bounding elsewhere costs nothing that matters."""

BLOCK_SHARE: Final = Fraction(1, 2)
"""Of a block's gas, what one transaction may reserve: a larger one would wait for an almost empty block."""

MAX_DATA: Final = 90_000
"""Bytes of calldata. Nitro's sequencer takes 95,000 by default (execution.sequencer.max-tx-data-size), geth's pool
131,072 for the whole transaction (legacypool, txMaxSize); signature and fields need about 200."""

GAS_MARGIN: Final = Fraction(5, 4)
"""A gas limit is the estimate times this: state may have moved by the time the transaction is mined."""

AIM: Final = Fraction(7, 8)
"""Of the gas cap, what a new batch aims at: lines differ in gas, and a batch that misses is estimated again."""

CLAIM_GAS_PER_HASH: Final = 800
"""Gas of one element of a leaf's proof: 32 bytes of calldata at 16 gas (EIP-2028), two Keccak words and the loop."""

_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class Room:
    """What one transaction may have: `gas` as its limit, `data` bytes of calldata.

    `scale` is what a claim was found to need, over the figure of `claim_limit`; 1 until the first one was simulated.
    """

    gas: int
    data: int = MAX_DATA
    scale: Fraction = Fraction(1)

    def holds(self, call: Call, gas: int) -> bool:
        """Whether a call with that gas limit fits."""
        return gas <= self.gas and data_size(call) <= self.data


def gas_cap(block_gas_limit: int) -> int:
    """The most gas that one transaction may be given on a chain whose blocks have that limit."""
    return min(MAX_TX_GAS, int(block_gas_limit * BLOCK_SHARE))


def data_size(call: Call) -> int:
    """Bytes of a call's data."""
    return len(call.data.removeprefix("0x")) // 2


def claim_limit(leaves: Sequence[Claim]) -> int:
    """The gas limit that a claim of these leaves is expected to need, all pairs being new to the contract."""
    return int((CLAIM_GAS + sum(map(_gas, leaves))) * GAS_MARGIN)


def batches(leaves: Sequence[Claim], room: Room) -> Iterator[list[Claim]]:
    """The leaves in their order, as many together as fit; a leaf that alone is too much stands alone."""
    left = list(leaves)
    while left:
        batch = first_batch(left, room)
        yield batch
        left = left[len(batch) :]


def first_batch(leaves: Sequence[Claim], room: Room) -> list[Claim]:
    """The first leaves that one claim can carry, but at least one; nothing of nothing."""
    batch: list[Claim] = []
    gas, data = CLAIM_GAS, 4 + 3 * _WORD
    for leaf in leaves:
        gas, data = gas + _gas(leaf), data + _data(leaf)
        if batch and (gas * GAS_MARGIN * room.scale > room.gas * AIM or data > room.data):
            break
        batch.append(leaf)
    return batch


def share_that_fits(gas: int | None, room: Room) -> Fraction:
    """How much to keep of a call that is too large: by its gas limit, or half if that does not explain it."""
    if gas is None or gas <= room.gas:
        return Fraction(1, 2)
    return room.gas * AIM / gas


def fewer(items: Sequence[T], share: Fraction) -> list[T]:
    """About that share of the items, from the first on, but at least one less than there are; nothing of one."""
    return list(items[: max(1, min(len(items) - 1, int(len(items) * share)))]) if len(items) > 1 else []


def _gas(leaf: Claim) -> int:
    return CLAIM_GAS_PER_LEAF + CLAIM_GAS_PER_LINE * len(leaf.lines) + CLAIM_GAS_PER_HASH * len(leaf.proof)


def _data(leaf: Claim) -> int:
    """Bytes of the leaf in the ABI's encoding: its offset, its three fields, two lengths, lines of two words, proof."""
    return _WORD * (1 + 3 + 2 + 2 * len(leaf.lines) + len(leaf.proof))


BUMP = (9, 8)
"""A replacement offers at least 9/8 of both figures: nodes refuse less than 11/10 (geth's default price bump)."""

BASE_FEE_ROOM = 2
"""The base fee can rise by 1/8 per block (EIP-1559): twice its present value lasts for at least five full blocks."""


FIRST_TIP = 1024
"""A tip that is too low becomes at least this part of the maximum: from there it doubles to all of it in ten steps."""

SAVES = 32
"""A lower offer saves at least this part of the base fee, so that a base fee that creeps down makes few versions."""


class NonceAction(Enum):
    """What to do about a nonce whose transaction is in no block."""

    KEEP = auto()
    """Send the kept bytes again, and wait."""
    REPRICE = auto()
    """Sign the same call with other fees."""
    RESIZE = auto()
    """Sign the same call with a higher gas limit."""
    SHRINK = auto()
    """Sign a smaller call; if there is none, free the nonce if no node will ever take it (TOO_LARGE), else wait."""


@dataclass(frozen=True, slots=True)
class NonceState:
    """How the newest version of a nonce stands.

    `refusal` is why every node refuses it now, None if one has it. `taken` is the highest offer among all versions
    that a node ever took, None if none did: what replaces one of those has to offer more. `waited` is whether it
    was taken longer ago than patience lasts, and blocks have come since. `capped` is the least offer of the same call
    that nodes refused for their own limit on its cost, None if they refused none.
    """

    fees: Fees
    refusal: Refusal | None = None
    taken: Fees | None = None
    waited: bool = False
    capped: int | None = None


def next_action(now: NonceState, view: FeeView, cap: int) -> tuple[NonceAction, Fees]:
    """What to do next, and at which fees; fees rise only where nothing but inclusion is missing.

    That is where a node wants more for this nonce, or has the transaction while blocks go by without it. A node that
    refuses for the sender's balance, for its own limit on the cost, for the size, or in words that nobody knows, gets
    nothing dearer.
    """
    keep = NonceAction.KEEP, now.fees
    if now.refusal is None:
        raises = now.waited or underpriced(now.fees, view)
        higher = bumped(_highest_of(now), view, cap) if raises else None
        return keep if higher is None else (NonceAction.REPRICE, higher)
    if now.refusal is Refusal.UNDERPRICED:
        higher = _wanted_more(now, view, cap)
        return keep if higher is None else (NonceAction.REPRICE, higher)
    if now.refusal is Refusal.GAS_TOO_LOW:
        if now.taken is None or _replaces(now.fees, now.taken):
            return NonceAction.RESIZE, now.fees
        higher = bumped(_highest_of(now), view, cap)
        return keep if higher is None else (NonceAction.RESIZE, higher)
    if now.refusal is Refusal.FEE_CAPPED and (lower := lowered(now.fees, now.taken, view)) is not None:
        return NonceAction.REPRICE, lower
    if now.refusal in (Refusal.FEE_CAPPED, Refusal.TOO_LARGE):
        wanted = replacing(now.taken, view, cap)
        least = _least(now.fees, now.taken, view, _raised(view.base_fee))
        return (
            NonceAction.SHRINK,
            least if now.refusal is Refusal.FEE_CAPPED and least.max_fee < wanted.max_fee else wanted,
        )
    return keep


def _highest_of(now: NonceState) -> Fees:
    return now.fees if now.taken is None else highest([now.fees, now.taken])


def _wanted_more(now: NonceState, view: FeeView, cap: int) -> Fees | None:
    """What follows an offer that nodes call too low; None if nothing more may be offered.

    An offer that pays for whatever blocks may ask lacks a tip: it alone rises, up to the maximum. Else both do. Beyond
    what nodes refused for its cost nothing is offered.
    """
    paid = first_fees(view, cap).max_fee if now.capped is None else min(cap, view.base_fee + view.tip)
    more = _tipped(now, view)
    if now.fees.max_fee < paid or more.max_fee > cap or more.tip <= now.fees.tip:
        offers = _highest_of(now)
        higher = bumped(offers, view, cap)
        if higher is not None and now.capped is not None and higher.max_fee >= now.capped:
            higher = bumped(offers, FeeView(0, 0), cap)
        if higher is None and now.taken is None and now.fees.max_fee < cap:
            higher = Fees(cap, min(cap, _raised(now.fees.tip)))
        if higher is None and more.max_fee <= cap and more.tip > now.fees.tip:
            higher = more
        more = higher if higher is not None else now.fees
    beyond = now.capped is not None and more.max_fee >= now.capped
    return None if more == now.fees or beyond else more


def _tipped(now: NonceState, view: FeeView) -> Fees:
    """The same maximum with at least twice the tip; where a node has a version, what replaces that."""
    max_fee, tip = now.fees.max_fee, max(1, 2 * now.fees.tip, view.tip, now.fees.max_fee // FIRST_TIP)
    if now.taken is not None:
        max_fee, tip = max(max_fee, _raised(now.taken.max_fee)), max(tip, _raised(now.taken.tip))
    return Fees(max_fee, min(max_fee, tip))


def _replaces(new: Fees, old: Fees) -> bool:
    return new.max_fee >= _raised(old.max_fee) and new.tip >= _raised(old.tip)


def replacing(taken: Fees | None, view: FeeView, cap: int) -> Fees:
    """What another call of a nonce offers: as at first, or more than what a node has of it, but never above the cap."""
    if taken is None:
        return first_fees(view, cap)
    higher = bumped(taken, view, cap)
    return higher if higher is not None else Fees(cap, min(cap, _raised(taken.tip)))


def first_fees(view: FeeView, cap: int) -> Fees:
    """What to offer at first, with `max_fee` never above `cap`; ValueError for a cap below 1.

    Under a cap below the present base fee the transaction waits in the pools until the base fee has come down.
    """
    if cap < 1:
        raise ValueError("a fee cap of less than 1 wei per gas allows no transaction at all")
    max_fee = min(cap, BASE_FEE_ROOM * view.base_fee + view.tip)
    return Fees(max_fee=max_fee, tip=min(view.tip, max_fee))


def underpriced(fees: Fees, view: FeeView) -> bool:
    """Whether the next block asks more than is offered, so that waiting alone may not help."""
    return fees.max_fee < view.base_fee + min(fees.tip, view.tip)


def bumped(fees: Fees, view: FeeView, cap: int) -> Fees | None:
    """The least that replaces a transaction with `fees` and suits `view`; None if that would pass `cap`.

    Both figures rise by at least an eighth, and by at least one wei. Where the view asks for more than the cap
    allows, the offer goes as far as the cap. None means: send the same bytes again and wait.
    """
    least = Fees(max_fee=_raised(fees.max_fee), tip=_raised(fees.tip))
    if least.max_fee > cap:
        return None
    wanted = first_fees(view, cap)
    max_fee = max(least.max_fee, wanted.max_fee)
    return Fees(max_fee=max_fee, tip=min(max_fee, max(least.tip, wanted.tip)))


def lowered(fees: Fees, taken: Fees | None, view: FeeView) -> Fees | None:
    """The next lower offer, for a node that refuses `fees` since it allows no more than some gas times fee.

    First the least that the next block takes whatever its base fee, then the least that suits the present one; neither
    less than what replaces `taken`, the highest offer that a node has. None if the least of them was refused: then
    only a smaller call, a lower base fee, or another limit of the node helps.
    """
    for base_fee in (_raised(view.base_fee), view.base_fee):
        least = _least(fees, taken, view, base_fee)
        saved = fees.max_fee - least.max_fee
        if saved > 0 and saved * SAVES >= view.base_fee:
            return least
    return None


def _least(fees: Fees, taken: Fees | None, view: FeeView, base_fee: int) -> Fees:
    """The least that replaces `taken` and suits a block of that base fee; its tip is no less than before."""
    tip, floor = fees.tip, 0
    if taken is not None:
        tip, floor = max(tip, _raised(taken.tip)), max(_raised(taken.max_fee), _raised(taken.tip))
    max_fee = max(floor, base_fee + min(tip, view.tip))
    return Fees(max_fee=max_fee, tip=min(max_fee, tip))


def highest(offers: Iterable[Fees]) -> Fees:
    """The highest of both figures, which a replacement of any of them has to exceed; nothing of no offer."""
    both = list(offers)
    return Fees(max((each.max_fee for each in both), default=0), max((each.tip for each in both), default=0))


def cost_bound(gas: int, fees: Fees) -> int:
    """The most wei that a transaction with that gas limit can cost."""
    return gas * fees.max_fee


def _raised(price: int) -> int:
    return max(price + 1, -(-price * BUMP[0] // BUMP[1]))
