"""What the protocol itself charges, each constant with its source, and floors computed from them; nothing measured.

A floor is what any contract of the same meaning would have to pay: the words that must be written, the bytes that must
come in, the events that must be logged. Arithmetic, memory, hashing of leaves, dispatch and safety checks are not in
it, so no contract reaches it; the distance is what ours spends beyond the unavoidable.
"""

from __future__ import annotations

from dataclasses import dataclass

TX = 21_000
"""A transaction (Yellow Paper, appendix G, G_transaction)."""

ZERO_BYTE, NONZERO_BYTE = 4, 16
"""Calldata (EIP-2028)."""

FLOOR_PER_TOKEN = 10
"""EIP-7623: a transaction pays at least 21,000 + 10 per token, a zero byte being one token and any other four."""

COLD_SLOAD, WARM_READ = 2_100, 100
"""First and later reads of a slot in a transaction (EIP-2929)."""

SSTORE_SET, SSTORE_CHANGE = 20_000, 2_900
"""Writing zero -> nonzero, and nonzero -> nonzero, apart from the cold access (EIP-2200 as changed by EIP-2929)."""

COLD_ACCOUNT = 2_600
"""First call of an address (EIP-2929)."""

LOG, LOG_TOPIC, LOG_BYTE = 375, 375, 8
"""An event (Yellow Paper, appendix G)."""

ECRECOVER = 3_000
"""The precompile at address 1 (Yellow Paper, appendix E)."""

SLOT_READ = COLD_SLOAD
SLOT_CHANGED = COLD_SLOAD + SSTORE_CHANGE
SLOT_FILLED = COLD_SLOAD + SSTORE_SET


@dataclass(frozen=True, slots=True)
class Work:
    """What a call cannot do without, beside its calldata."""

    read: int = 0
    changed: int = 0
    filled: int = 0
    calls: int = 0
    recovers: int = 0
    logs: tuple[tuple[int, int], ...] = ()
    """(topics, words of data) of each event."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.read + other.read,
            self.changed + other.changed,
            self.filled + other.filled,
            self.calls + other.calls,
            self.recovers + other.recovers,
            self.logs + other.logs,
        )

    def __mul__(self, times: int) -> Work:
        return Work(
            self.read * times,
            self.changed * times,
            self.filled * times,
            self.calls * times,
            self.recovers * times,
            self.logs * times,
        )

    @property
    def gas(self) -> int:
        """Gas of all of it, without the transaction."""
        events = sum(LOG + topics * LOG_TOPIC + words * 32 * LOG_BYTE for topics, words in self.logs)
        slots = self.read * SLOT_READ + self.changed * SLOT_CHANGED + self.filled * SLOT_FILLED
        return slots + events + self.calls * COLD_ACCOUNT + self.recovers * ECRECOVER


def intrinsic(data: bytes) -> tuple[int, int]:
    """The transaction with its calldata, and the least it may cost in all (EIP-7623)."""
    zeros = data.count(0)
    others = len(data) - zeros
    return TX + zeros * ZERO_BYTE + others * NONZERO_BYTE, TX + FLOOR_PER_TOKEN * (zeros + 4 * others)


def floor(data: bytes, work: Work) -> int:
    """The least gas of a transaction with this calldata that does this work."""
    base, least = intrinsic(data)
    return max(base + work.gas, least)


TRANSFER = Work(changed=1, logs=((3, 1),))
"""Inside a token, for each payee that holds some already; the sender's own slot is counted once per transaction."""

PAYER = Work(changed=1)
"""The payer's balance in the token."""

# The escrow, as its specification in docs/settlement.md has it. A role is one slot.
DEPOSIT = Work(changed=1, calls=1, logs=((3, 1),)) + Work(changed=2, logs=((3, 1),)) + Work(changed=1)
"""Account; the token's allowance and two balances; two events."""

POST = Work(read=1 + 2, changed=1, filled=2, logs=((4, 5),))
"""The settler's role, the head's two slots; state; the new epoch's two slots; one event."""

POST_TENANT = Work(changed=1)
"""One account slot for each debit; the slots of the epoch it belonged to are read once per epoch, so not counted."""

CLAIM = Work(read=1 + 2, calls=1) + PAYER
"""State, the active epoch's two slots; the call to the token and the escrow's balance there."""

CLAIM_LEAF = Work(read=1, logs=((4, 1),)) + TRANSFER
"""The payee; CreditPaid; one transfer."""

CLAIM_LINE = Work(changed=2, logs=((4, 2),))
"""Account and pair; LinePaid."""

NEW_PAIR = SSTORE_SET - SSTORE_CHANGE
"""What a pair's first payment costs more."""
