"""What is seen of a root that stands, and which of its pairs a claim would pay: pure, from ledger and chain."""

from __future__ import annotations

from fedgpu_operator.domain.books import Epoch
from fedgpu_operator.domain.settlement import ChainSnapshot, EpochPlan, EpochState, Pair
from fedgpu_operator.settlement import Sight


def look_at_root(
    epoch: Epoch, plan: EpochPlan, chain: ChainSnapshot, state: EpochState, *, ours: bool
) -> tuple[Sight, set[Pair]]:
    """What is seen of a finalized root, and the pairs that a claim would pay; `ours`: the active root is."""
    if state.cancelled:
        return Sight.CANCELLED, set()
    active = chain.active_epoch == epoch.chain_epoch
    if not active and chain.clock < state.active_at:
        return Sight.IN_WINDOW, set()
    number = epoch.chain_epoch or 0
    # A line that a closed dispute made void in this root is brought again by the next one.
    books = {pair: chain.books[pair] for pair in plan.pairs if chain.books[pair].dead < number}
    unpaid = {pair for pair, book in books.items() if book.base < plan.pairs[pair]}
    if not active:
        if unpaid and not ours:
            return Sight.SUPERSEDED, set()
        # A later root carries what this one leaves; claims go against that one.
        return (Sight.PAYABLE if unpaid else Sight.PAID_UP), set()
    # A line is paid up to what was taken of its tenant: where nothing is left, a later epoch has to bring it.
    claimable = {pair for pair in unpaid if chain.accounts[pair[0]].allocated}
    return (Sight.PAYABLE if claimable else Sight.PAID_UP), claimable
