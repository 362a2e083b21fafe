"""The escrow contract on its chain: what is read at finalized, and calls to be signed and sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eth_typing import ChecksumAddress

from fedgpu_operator.domain.settlement import (
    Answer,
    ChainSnapshot,
    Claim,
    DisputeState,
    EpochPlan,
    EpochState,
    ExitState,
    Pair,
    SignedTx,
    TxReceipt,
)
from fedgpu_operator.domain.terms import EscrowPeriods, Role
from fedgpu_operator.domain.transactions import Call, Fees, FeeView, Nonces, PostedEpoch


class Escrow(Protocol):
    """The escrow on its chain. Every method returns immediately and raises the ChainError tree and nothing else.

    ChainUnreachableError means unknown: no answer, or endpoints that do not agree. It never means "not done".
    """

    escrow: ChecksumAddress
    """Address of the contract."""
    chain_id: int
    """EIP-155 chain id."""

    @property
    def address(self) -> str | None:
        """Whose signatures it sends; None for a reader."""
        ...

    async def verify(self) -> None:
        """Raises ChainMismatchError unless chain, code and decimals are the expected ones.

        ChainUnreachableError while there is no code at the address at a node that may be behind.
        """
        ...

    async def snapshot(self, tenants: Sequence[str], pairs: Sequence[Pair]) -> ChainSnapshot:
        """Accounts and books at the newest finalized block."""
        ...

    async def finalized_epoch(self, number: int) -> EpochState:
        """One epoch at the newest finalized block; all zero if it does not exist there."""
        ...

    async def periods(self) -> EscrowPeriods:
        """The contract's periods, which never change."""
        ...

    async def check_state(self) -> None:
        """Raises StatePrunedError, with the lag and the cure, unless the finalized block's state is kept."""
        ...

    async def holds_role(self, role: Role, account: str) -> bool:
        """Whether an account holds a role of the escrow at the newest finalized block."""
        ...

    async def signer_of(self, provider: str) -> str:
        """Whose signature a provider's receipts need at the newest finalized block; itself if it named nobody."""
        ...

    async def posted(self, number: int) -> PostedEpoch | None:
        """How an epoch was posted, by finalized blocks alone; None if it does not exist there."""
        ...

    async def disputes(self) -> tuple[DisputeState, ...]:
        """The disputes that are open at the newest finalized block, oldest first."""
        ...

    async def exits(self) -> tuple[ExitState, ...]:
        """The exits that are open at the newest finalized block, oldest first."""
        ...

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        """Whether a contract at that address calls the signature its own (ERC-1271); False if no contract is."""
        ...

    async def has_code(self, account: str) -> bool:
        """Whether an account has code at the newest finalized block: a contract, or a delegation by EIP-7702."""
        ...

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the escrow takes this for the account's signature, at the newest finalized block.

        Its own rule (OpenZeppelin's SignatureChecker): an account with code is asked by ERC-1271 and nothing else
        counts; of one without code the key is recovered.
        """
        ...

    async def batch(self) -> str | None:
        """The contract through which calls that anybody may make are bundled; None if the chain has none that is known.

        It has Multicall3's `aggregate3`, and to those it calls it is the caller.
        """
        ...

    def call_post(self, plan: EpochPlan) -> Call:
        """Post a plan as the settler; encoding needs no connection, here and below."""
        ...

    def call_claim(self, epoch: int, claims: Sequence[Claim]) -> Call:
        """Have the active epoch's leaves paid to their providers."""
        ...

    def claimed(self, call: Call) -> tuple[int, list[Claim]]:
        """The epoch and the leaves of a claim, read back from its data."""
        ...

    def call_close(self, epoch: int, tenant: str, provider: str) -> Call:
        """End a dispute that is decided; the provider is the zero address where none was named."""
        ...

    def call_answer(self, epoch: int, tenant: str, provider: str, answers: Sequence[Answer]) -> Call:
        """Show the receipts that back a disputed amount."""
        ...

    def call_bundle(self, batch: str, bundled: Sequence[Call]) -> Call:
        """Calls as one through that batch contract, in their order; each may fail alone."""
        ...

    def call_bundled(self, call: Call) -> tuple[Call, ...]:
        """The calls that `call_bundle` put into this one, in their order; none of any other call."""
        ...

    async def simulate(self, call: Call) -> int:
        """The gas limit to give a call; RevertedError if the contract would refuse it now, or all of a bundle.

        NotTakenError with Refusal.TOO_LARGE if no node estimates so much gas.
        """
        ...

    async def gas_cap(self) -> int:
        """The most gas to give one transaction on this chain, with head-room (settlement.batches.gas_cap)."""
        ...

    async def height(self) -> int:
        """The number of the newest block, final or not."""
        ...

    async def sign(self, call: Call, nonce: int, fees: Fees) -> SignedTx:
        """Sign a call whose gas is set; sends nothing."""
        ...

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or the same again; NotTakenError if every endpoint that answers refuses them."""
        ...

    async def nonces(self, account: str) -> Nonces:
        """The next nonce of an account, by finalized blocks, by all blocks, and by what waits in pools."""
        ...

    async def balance(self, account: str) -> int:
        """Coins of an account at the newest block, in wei."""
        ...

    async def suggest_fees(self) -> FeeView:
        """What the chain asks now."""
        ...

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """What became of a transaction; None while it is in no block."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...
