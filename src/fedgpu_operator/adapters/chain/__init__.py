"""The escrow's chain over JSON-RPC: reads at one block, simulated and signed writes, nothing decided here."""

from __future__ import annotations

import sys

from fedgpu_operator.adapters.chain.deploy import Deployer, Periods, Roles, deploy
from fedgpu_operator.adapters.chain.endpoint import Patience
from fedgpu_operator.adapters.chain.escrow import EscrowClient
from fedgpu_operator.adapters.chain.parties import Authorization, ProviderWallet, TenantWallet, Transfer
from fedgpu_operator.adapters.chain.signers import LocalSigner, RemoteSigner, Signer, load_key
from fedgpu_operator.adapters.chain.wallet import Waiting, Wallet

DEEPEST = 1_000
"""Python's own recursion limit, put back here: web3 imports py_ecc, which raises it to 100,000 for the whole process.

JSON nested that deep, as any endpoint or member may answer, then ends the process by a segmentation fault, where it
should be a RecursionError.
"""
sys.setrecursionlimit(min(sys.getrecursionlimit(), DEEPEST))

__all__ = [
    "Authorization",
    "Deployer",
    "EscrowClient",
    "LocalSigner",
    "Patience",
    "Periods",
    "ProviderWallet",
    "RemoteSigner",
    "Roles",
    "Signer",
    "TenantWallet",
    "Transfer",
    "Waiting",
    "Wallet",
    "deploy",
    "load_key",
]
