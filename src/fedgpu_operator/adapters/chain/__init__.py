"""The escrow's chain over JSON-RPC: reads at one block, simulated and signed writes, nothing decided here."""

from __future__ import annotations

from fedgpu_operator.adapters.chain.deploy import deploy
from fedgpu_operator.adapters.chain.escrow import EscrowClient
from fedgpu_operator.adapters.chain.wallet import TenantWallet

__all__ = ["EscrowClient", "TenantWallet", "deploy"]
