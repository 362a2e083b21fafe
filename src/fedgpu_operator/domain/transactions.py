"""Transactions as values: what is called, at which price and nonce; no encoding, no signing and no IO.

Gas prices are wei per gas, addresses EIP-55 strings, data and hashes lower-case ``0x…`` strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedgpu_operator.domain.money import MicroUSD


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does: `data` sent to `to`, or a contract created where `to` is None.

    `gas` is its limit, 0 until the call was simulated; `what` names the function for people.
    """

    to: str | None
    data: str
    gas: int = 0
    what: str = ""


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers (EIP-1559): at most `max_fee` in all, `tip` of it to who includes it."""

    max_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class FeeView:
    """What the chain asks now: the newest block's base fee, and the tip that endpoints suggest."""

    base_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class Nonces:
    """The next nonce of an account as counted in finalized blocks, in all blocks, and with what waits in pools.

    Nonces below `finalized` are used up for good.
    """

    finalized: int
    latest: int
    pending: int


@dataclass(frozen=True, slots=True)
class PostedEpoch:
    """An epoch as the chain alone tells it, from the event and the input of the transaction that posted it.

    `debits` is what the post asked for by tenant, in its order; None if the post went through another contract, so
    that the transaction's input does not show it. `skipped` are the tenants from whom nothing was taken.
    """

    number: int
    root: str
    manifest_hash: str
    seq: int
    prev_root: str
    period_end: int
    active_at: int
    total: MicroUSD
    debits: Mapping[str, MicroUSD] | None
    skipped: tuple[str, ...]
    tx_hash: str
    block_number: int
