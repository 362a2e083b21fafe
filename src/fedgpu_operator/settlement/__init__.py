"""Settlement as arithmetic: what to debit, what to pay, the tree and its manifest; pure, so no IO and no clock."""

from __future__ import annotations

from fedgpu_operator.settlement.batches import (
    GAS_MARGIN,
    MAX_TX_GAS,
    Room,
    batches,
    claim_limit,
    data_size,
    fewer,
    first_batch,
    gas_cap,
    share_that_fits,
)
from fedgpu_operator.settlement.economy import Terms, gas_of, newly_paid, worth_its_gas
from fedgpu_operator.settlement.epoch import build_epoch, claims, parse_manifest
from fedgpu_operator.settlement.fees import (
    Move,
    NonceState,
    bumped,
    first_fees,
    highest,
    next_move,
    replacing,
    underpriced,
)
from fedgpu_operator.settlement.funding import MAX_DEBITS, advances, fund
from fedgpu_operator.settlement.journal import positions
from fedgpu_operator.settlement.merkle import (
    MAX_LINES,
    leaf_hash,
    merkle_proof,
    merkle_root,
    verify_proof,
)
from fedgpu_operator.settlement.protocol import Act, Sight
from fedgpu_operator.settlement.solvency import (
    Burn,
    Cover,
    Plan,
    Stage,
    Thresholds,
    cover_of,
    horizon,
    lag_of,
    plan,
    shortfall,
    stage_of,
)

__all__ = [
    "GAS_MARGIN",
    "MAX_DEBITS",
    "MAX_LINES",
    "MAX_TX_GAS",
    "Act",
    "Burn",
    "Cover",
    "Move",
    "NonceState",
    "Plan",
    "Room",
    "Sight",
    "Stage",
    "Terms",
    "Thresholds",
    "advances",
    "batches",
    "build_epoch",
    "bumped",
    "claim_limit",
    "claims",
    "cover_of",
    "data_size",
    "fewer",
    "first_batch",
    "first_fees",
    "fund",
    "gas_cap",
    "gas_of",
    "highest",
    "horizon",
    "lag_of",
    "leaf_hash",
    "merkle_proof",
    "merkle_root",
    "newly_paid",
    "next_move",
    "parse_manifest",
    "plan",
    "positions",
    "replacing",
    "share_that_fits",
    "shortfall",
    "stage_of",
    "underpriced",
    "verify_proof",
    "worth_its_gas",
]
