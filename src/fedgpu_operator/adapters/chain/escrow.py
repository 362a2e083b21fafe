"""EscrowClient: ComputeEscrow read at one block, and written as the settler or as anybody; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3.exceptions import TransactionNotFound
from web3.types import BlockIdentifier, TxParams

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.endpoint import Patience
from fedgpu_operator.adapters.chain.errors import AnswerError
from fedgpu_operator.adapters.chain.history import History
from fedgpu_operator.adapters.chain.reader import EscrowReader, read_receipt
from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc, behind, block_at, fees_asked, nonces_of, state_kept
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer
from fedgpu_operator.adapters.chain.wordings import Meaning
from fedgpu_operator.artifacts import load
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
from fedgpu_operator.domain.terms import EscrowPeriods, EscrowTerms, Role
from fedgpu_operator.domain.transactions import Call, Fees, FeeView, Nonces, PostedEpoch
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, ConfigurationError
from fedgpu_operator.ports import LeaderCheck, always
from fedgpu_operator.settlement import gas_cap
from fedgpu_operator.settlement.typeddata import signed_by

ERC1271_MAGIC = bytes.fromhex("1626ba7e")
"""What isValidSignature(bytes32,bytes) answers for a signature of its own (ERC-1271)."""

ERC1271_GAS = 2_000_000
"""Enough for any multisig; a contract that burns more has not called the signature its own."""

LOOKS: Final = 8
"""So often an address is found without code before a newest block that is old is the chain's own slowness."""


class EscrowClient:
    """One escrow on a chain, as one signer or, without one, as a reader.

    `rpc` is an endpoint's URL or several of which `quorum` (default: more than half) must agree; `signer` may be a
    private key in hex; `timeout` is seconds per request; `from_block` is one from which on the escrow exists; `batch`
    is the contract that bundles calls, by default the canonical Multicall3 if the chain has it. Nothing is sent unless
    `leads` lets it. No method waits for a block. Raises ChainUnreachableError if no answer came or too few agree
    (which never means "not done"), RevertedError with the decoded reason if the contract refuses, ChainMismatchError
    if the chain is not the one configured.
    """

    def __init__(
        self,
        rpc: Addresses,
        escrow: str,
        chain_id: int,
        signer: str | Signer | None = None,
        timeout: float = 10.0,
        *,
        quorum: int | None = None,
        from_block: int | None = None,
        batch: str | None = None,
        patience: Patience | None = None,
        leads: LeaderCheck = always,
    ) -> None:
        holder = LocalSigner(signer) if isinstance(signer, str) else signer
        self._rpc = Rpc(rpc, quorum=quorum, timeout=timeout, chain_id=chain_id, patience=patience)
        self.chain_id = chain_id
        self._sender = Sender(self._rpc, holder, chain_id, leads) if holder is not None else None
        self._verified = False
        """Set by the first verification that passed: a chain that was away at the start is checked when it is back."""
        self.escrow: ChecksumAddress = to_checksum_address(escrow)
        self._looks = 0
        """How often an address that must have code was found without."""
        self._contract = calls.contract_at(self._rpc, self.escrow)
        self._reader = EscrowReader(self._rpc, self._contract, chain_id)
        self._history = History(self._rpc, self._contract, self._reader, from_block)
        self._named_batch = to_checksum_address(batch) if batch else None
        self._batch: str | None = None
        """The contract that bundles calls, once it answered as one."""

    def __repr__(self) -> str:
        return f"EscrowClient({self.escrow} on chain {self.chain_id} by {self._rpc!r}, signer {self.address})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, the signer's too."""
        await self._rpc.aclose()
        if self._sender is not None:
            await self._sender.signer.aclose()

    @property
    def address(self) -> str | None:
        """The signer's address; None for a reader."""
        return self._sender.address if self._sender else None

    # ---------------------------------------------------------------- reads

    async def verify(self) -> None:
        """Refuse to go on (ChainMismatchError) unless chain id, deployed code and the token's decimals are right.

        ChainUnreachableError for an address without code while the node that says so may be behind.
        """
        w3 = self._rpc.w3
        with self._rpc.speaking("verifying the escrow"):
            chain_id = await w3.eth.chain_id
        if chain_id != self.chain_id:
            raise ChainMismatchError(f"the endpoint serves chain {chain_id}, configured is {self.chain_id}")
        with self._rpc.speaking("verifying the escrow"):
            code = await w3.eth.get_code(self.escrow)
        if not code:
            raise await self._bare(f"{self.escrow} on chain {chain_id} holds no contract, not this ComputeEscrow")
        if not load("ComputeEscrow").is_deployed_as(bytes(code)):
            found = f"{len(code)} bytes of other code"
            raise ChainMismatchError(f"{self.escrow} on chain {chain_id} holds {found}, not this ComputeEscrow")
        token, decimals, scale = await self._reader.coin()
        if scale != 10 ** (decimals - 6):
            raise ChainMismatchError(f"the token {token.address} has {decimals} decimals, the escrow scales by {scale}")
        if self._named_batch is not None:
            with self._rpc.speaking("verifying the batch contract"):
                there = await w3.eth.get_code(self._named_batch)
            if not there:
                raise await self._bare(f"{self._named_batch} on chain {chain_id} holds no batch contract")
        self._verified = True

    async def _bare(self, words: str) -> ChainError:
        """What an address without code comes to: nothing yet at a node that is behind, else a wrong address.

        A chain that makes no blocks looks like a node that is behind; it is none after LOOKS times the same.
        """
        self._looks += 1
        lag = await behind(self._rpc, self._looks < LOOKS)
        if not lag:
            return ChainMismatchError(words)
        return ChainUnreachableError(f"{words}; perhaps not yet: {lag}")

    async def check_state(self) -> None:
        """Refuse to go on (StatePrunedError, with the lag and the cure) unless the finalized block's state is kept."""
        await state_kept(self._rpc, self.escrow)

    async def snapshot(
        self, tenants: Sequence[str], pairs: Sequence[Pair], block: BlockIdentifier = "finalized"
    ) -> ChainSnapshot:
        """Read the escrow, these tenants' accounts and these pairs' books, all at the one block that `block` names."""
        if not self._verified:
            await self.verify()
        return await self._reader.snapshot(tenants, pairs, block)

    async def epoch(self, number: int, block: BlockIdentifier = "latest") -> EpochState:
        """One epoch; all zero for a number that does not exist."""
        return await self._reader.epoch(number, block)

    async def finalized_epoch(self, number: int) -> EpochState:
        """One epoch at the newest finalized block; all zero if it is not there (yet)."""
        return await self._reader.epoch(number, "finalized")

    async def periods(self) -> EscrowPeriods:
        """The contract's periods, which never change."""
        return await self._reader.periods()

    async def terms(self) -> EscrowTerms:
        """All that the deployment fixed: the token, the reserve and the periods."""
        return await self._reader.terms()

    async def holds_role(self, role: Role, account: str) -> bool:
        """Whether an account holds a role of the escrow at the newest finalized block."""
        return bool(await self._reader.read("hasRole", keccak(text=role), to_checksum_address(account), at="finalized"))

    async def signer_of(self, provider: str) -> str:
        """Whose signature a provider's receipts need at the newest finalized block; itself if it named nobody."""
        return str(await self._reader.read("signerOf", to_checksum_address(provider), at="finalized"))

    async def posted(self, number: int) -> PostedEpoch | None:
        """How an epoch was posted, by finalized blocks alone; None if it is not there (yet)."""
        return await self._history.posted(number)

    async def disputes(self) -> tuple[DisputeState, ...]:
        """The disputes that are open at the newest finalized block, oldest first."""
        return await self._history.disputes()

    async def exits(self) -> tuple[ExitState, ...]:
        """The exits that are open at the newest finalized block, oldest first."""
        return await self._history.exits()

    async def nonces(self, account: str) -> Nonces:
        """The next nonce of an account, by finalized blocks, by all blocks, and by what waits in pools."""
        return await nonces_of(self._rpc, account)

    async def balance(self, account: str) -> int:
        """Coins of an account at the newest block, in wei."""
        with self._rpc.speaking("reading a balance"):
            return await self._rpc.w3.eth.get_balance(to_checksum_address(account), "latest")

    async def suggest_fees(self) -> FeeView:
        """The base fee of the newest block and the tip that endpoints suggest."""
        return await fees_asked(self._rpc)

    async def gas_cap(self) -> int:
        """The most gas to give one transaction: within EIP-7825's limit, and half of what the newest block holds."""
        with self._rpc.speaking("reading a block"):
            return gas_cap((await self._rpc.w3.eth.get_block("latest"))["gasLimit"])

    async def height(self) -> int:
        """The number of the newest block."""
        return (await block_at(self._rpc, "latest")).number

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """What became of a transaction; None while a quorum has it in no block, which may also mean dropped."""
        with self._rpc.speaking("reading a receipt"):
            try:
                raw = await self._rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
            except TransactionNotFound:
                return None
            return read_receipt(raw, self._contract, self.escrow)

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        """Whether a contract at that address calls the signature its own (ERC-1271); False if no contract is."""
        at = (await block_at(self._rpc, "finalized")).number
        return await self._has_code(address, at) and await self._asked(address, digest, signature, at)

    async def has_code(self, account: str) -> bool:
        """Whether an account has code at the newest finalized block: a contract, or a delegation by EIP-7702."""
        return await self._has_code(account, (await block_at(self._rpc, "finalized")).number)

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the escrow takes this for the account's signature, at the newest finalized block.

        As OpenZeppelin's SignatureChecker: ERC-1271 alone where the account has code, else the key is recovered.
        """
        at = (await block_at(self._rpc, "finalized")).number
        if not await self._has_code(account, at):
            return signed_by(account, digest, signature)
        return await self._asked(account, digest, signature, at)

    async def batch(self) -> str | None:
        """The contract through which calls are bundled, as configured or the canonical Multicall3; None without one."""
        for place in (self._named_batch, calls.MULTICALL3):
            if self._batch is None and place is not None and await calls.is_batch(self._rpc, place):
                self._batch = place
        return self._batch

    async def _has_code(self, account: str, at: int) -> bool:
        with self._rpc.speaking("reading an account's code"):
            return bool(await self._rpc.w3.eth.get_code(to_checksum_address(account), at))

    async def _asked(self, account: str, digest: bytes, signature: bytes, at: int) -> bool:
        """What an account with code answers by ERC-1271; whatever is not the magic word is a no, as on chain."""
        call: TxParams = {
            "to": to_checksum_address(account),
            "data": HexStr(calls.erc1271(digest, signature)),
            "gas": ERC1271_GAS,
        }
        with self._rpc.speaking("asking a wallet for its signature"):
            try:
                said = await self._rpc.w3.eth.call(call, at)
            except AnswerError as error:
                # A quorum agreed on that block a moment ago, so what they refuse alike is the call.
                if error.fault.meaning in {Meaning.REVERTED, Meaning.REFUSED}:
                    return False
                raise
        return bytes(said[:32]) == ERC1271_MAGIC.ljust(32, b"\0")

    # ---------------------------------------------------------------- calls, encoded without a connection

    def call_post(self, plan: EpochPlan) -> Call:
        """Post a plan as the settler; ChainMismatchError for a plan of another escrow or chain."""
        if (plan.chain_id, plan.escrow) != (self.chain_id, self.escrow):
            raise ChainMismatchError(f"the epoch is for {plan.escrow} on chain {plan.chain_id}, this is {self!r}")
        return calls.post(self.escrow, plan)

    def call_claim(self, epoch: int, claims: Sequence[Claim]) -> Call:
        """Have the active epoch's leaves paid to their providers, whoever sends it."""
        return calls.claim(self.escrow, epoch, claims)

    def claimed(self, call: Call) -> tuple[int, list[Claim]]:
        """The epoch and the leaves of a claim; ValueError for any other call."""
        return calls.claimed(call)

    def call_close(self, epoch: int, tenant: str, provider: str) -> Call:
        """Close a dispute, whoever sends it."""
        return calls.of_dispute(self.escrow, "close", epoch, tenant, provider)

    def call_answer(self, epoch: int, tenant: str, provider: str, answers: Sequence[Answer]) -> Call:
        """Show the receipts that back a disputed amount, whoever sends it."""
        return calls.answer(self.escrow, epoch, tenant, provider, answers)

    def call_bundle(self, batch: str, bundled: Sequence[Call]) -> Call:
        """Calls that anybody may make as one through a batch contract, each of which may fail alone."""
        return calls.bundle(batch, bundled)

    def call_bundled(self, call: Call) -> tuple[Call, ...]:
        """The calls that `call_bundle` put into this one, in their order; none of any other call."""
        return calls.bundled(call)

    # ---------------------------------------------------------------- writes

    async def simulate(self, call: Call) -> int:
        """The gas limit to give the call; RevertedError with the decoded reason if the contract would refuse.

        A bundle is refused if every call in it would fail.
        """
        return await self._signing().simulate(call)

    async def sign(self, call: Call, nonce: int, fees: Fees) -> SignedTx:
        """Sign a call whose gas is known; sends nothing, so that the bytes can be kept first."""
        return await self._signing().sign(call, nonce, fees)

    async def self_transfer(self, nonce: int, fees: Fees) -> SignedTx:
        """Sign nothing to itself, which uses up a nonce that something else holds; sends nothing."""
        return await self._signing().self_transfer(nonce, fees)

    async def broadcast(self, signed: SignedTx) -> str:
        """Send signed bytes, or the same again, to every endpoint; returns the transaction hash."""
        return await self._signing().broadcast(signed)

    async def prepare(self, call: Call) -> SignedTx:
        """Simulate and sign for the next pending nonce at what the chain asks; for who keeps no record of nonces."""
        return await self._signing().prepare(call)

    async def send(self, call: Call) -> str:
        """Prepare and broadcast; concurrent calls take their turn. Returns the transaction hash."""
        return await self._signing().send(call)

    def _signing(self) -> Sender:
        if self._sender is None:
            raise ConfigurationError("this client reads only: it was made without a signer")
        return self._sender
