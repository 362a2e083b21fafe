"""Transactions as values: intents, what is called, at which price and nonce; no encoding, no signing and no IO.

Gas prices are wei per gas, addresses EIP-55 strings, data and hashes lower-case ``0x…`` strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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


class TxState(StrEnum):
    """Where a transaction stands; only Finalized, Reverted and Replaced are final."""

    SIGNED = "Signed"
    BROADCAST = "Broadcast"
    INCLUDED = "Included"
    FINALIZED = "Finalized"
    REVERTED = "Reverted"
    REPLACED = "Replaced"


@dataclass(frozen=True, slots=True)
class ChainTx:
    """One transaction; `raw` are the signed bytes where the caller has them, so that the same can be sent again.

    `intent` is what it is a version of: same sender and nonce. `max_fee` and `tip` are its fees in wei per gas, `call`
    is the number of the intent's call that it carries, `gas` its limit (0: signed by a release that kept none).
    `broadcast_at` is when a node first took it; None before that.
    """

    tx_hash: str
    kind: str
    epoch: int | None
    provider_wallet: str | None
    sender: str
    nonce: int | None = None
    raw: bytes = b""
    state: TxState = TxState.SIGNED
    block_number: int | None = None
    intent: int | None = None
    max_fee: int = 0
    tip: int = 0
    call: int = 0
    gas: int = 0
    broadcast_at: datetime | None = None


FINAL_TX = frozenset({TxState.FINALIZED, TxState.REVERTED, TxState.REPLACED})
"""States that a transaction never leaves."""


class IntentState(StrEnum):
    """Open: may still take effect. Done: one version of it is finalized. Dead: no version of it ever will be."""

    OPEN = "Open"
    DONE = "Done"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing to do on chain, written before anything is signed for it.

    All its transactions are versions of one another: same sender, same nonce, so at most one of them can ever count.
    `to` and `data` are the call as it was first meant; IntentCall has those that took its place.
    `key` says what it is for, such as ``post:12``; `epoch` is the ledger's number. `to` is the called contract.
    """

    id: int
    key: str
    kind: str
    epoch: int | None
    sender: str
    nonce: int
    to: str
    data: bytes
    created_at: datetime
    state: IntentState = IntentState.OPEN


@dataclass(frozen=True, slots=True)
class IntentCall:
    """A call of an intent: number 0 is the one it was written with, each later one replaced the one before it.

    `why` is what stood against the one before: the words of the nodes, or the limit that it exceeded.
    """

    number: int
    to: str
    data: bytes
    why: str
    created_at: datetime
