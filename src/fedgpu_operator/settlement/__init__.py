"""Settlement as arithmetic: what to debit, what to pay, the tree and its manifest; pure, so no IO and no clock."""

from __future__ import annotations

from fedgpu_operator.settlement.epoch import build_epoch, claims, parse_manifest
from fedgpu_operator.settlement.funding import MAX_DEBITS, advances, fund
from fedgpu_operator.settlement.merkle import (
    MAX_LINES,
    leaf_hash,
    merkle_proof,
    merkle_root,
    verify_proof,
)

__all__ = [
    "MAX_DEBITS",
    "MAX_LINES",
    "advances",
    "build_epoch",
    "claims",
    "fund",
    "leaf_hash",
    "merkle_proof",
    "merkle_root",
    "parse_manifest",
    "verify_proof",
]
