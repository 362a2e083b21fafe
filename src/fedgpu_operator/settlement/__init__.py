"""Settlement as arithmetic: what to debit, what to pay, the tree and its manifest; pure, so no IO and no clock."""

from __future__ import annotations

from fedgpu_operator.settlement.economy import Terms, gas_of, newly_paid, worth_its_gas
from fedgpu_operator.settlement.epoch import build_epoch, claims, parse_manifest
from fedgpu_operator.settlement.fees import bumped, first_fees, underpriced
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
    "MAX_DEBITS",
    "MAX_LINES",
    "Act",
    "Burn",
    "Cover",
    "Plan",
    "Sight",
    "Stage",
    "Terms",
    "Thresholds",
    "advances",
    "build_epoch",
    "bumped",
    "claims",
    "cover_of",
    "first_fees",
    "fund",
    "gas_of",
    "horizon",
    "lag_of",
    "leaf_hash",
    "merkle_proof",
    "merkle_root",
    "newly_paid",
    "parse_manifest",
    "plan",
    "positions",
    "shortfall",
    "stage_of",
    "underpriced",
    "verify_proof",
    "worth_its_gas",
]
