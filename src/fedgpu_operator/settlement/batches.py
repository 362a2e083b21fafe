"""How much one transaction may carry, and how leaves are divided into claims that fit; pure, in gas and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeVar

from fedgpu_operator.domain.settlement import Claim
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.settlement.economy import CLAIM_GAS, CLAIM_GAS_PER_LEAF, CLAIM_GAS_PER_LINE

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
