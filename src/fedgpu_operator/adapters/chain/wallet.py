"""A person's wallet at a chain: sends calls by its own hand and waits until they count; no operator holds such keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_typing import ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from web3.exceptions import TransactionNotFound

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.endpoint import Patience
from fedgpu_operator.adapters.chain.rpc import Addresses, Rpc, block_at, fees_asked, nonces_of
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer
from fedgpu_operator.artifacts import ContractName
from fedgpu_operator.domain.settlement import SignedTx, TxReceipt
from fedgpu_operator.domain.transactions import Call, Fees, Nonces
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    NotTakenError,
    PendingError,
    Refusal,
    ReplacedError,
    RevertedError,
    StatePrunedError,
)
from fedgpu_operator.settlement.fees import bumped, cost_bound, underpriced

POLL_S: Final = 0.5
PATIENCE_S: Final = 1800.0
"""Two epochs of Ethereum are 13 minutes: finality takes that long on a good day."""
RESEND_S: Final = 60.0
"""How often a transaction that is in no block is sent again: nodes drop what does not fit into their pools."""
NO_CAP: Final = 2**96
"""Wei per gas: a person who repeats a command pays what blocks ask."""
UNCLEAR: Final = frozenset({Refusal.NONCE_USED, Refusal.OTHER})
"""Refusals after which the transaction may be in a block all the same."""
UNCLEAR_S: Final = 60.0
"""How long the receipt is looked for after one of them: nodes behind one address lag by some blocks."""
SLOWEST: Final = 6
"""The pauses between looks grow up to so many times the first while nothing changes: finality takes minutes."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How far a transaction is: `block` None while it is in none; it counts when `head` has reached `needed`.

    `head` is the newest block of the kind that is waited for: finalized, or any.
    """

    tx_hash: str
    block: int | None
    head: int
    needed: int | None
    block_hash: str = ""

    @property
    def done(self) -> bool:
        """Whether it counts."""
        return self.needed is not None and self.head >= self.needed


class Outbox(Protocol):
    """Remembers what a wallet signed, so that a process that ends in between does not send it twice."""

    def next_nonce(self, nonces: Nonces, source: str) -> int:
        """The nonce to sign with, `source` being who told the nonces; a ChainError, and nothing is signed, without."""
        ...

    async def keep(self, call: Call, signed: SignedTx, number: int, block_hash: str) -> None:
        """Write down signed bytes, and a newest block of their chain, by which it is known again.

        Called before they are sent, and nothing is sent unless it returns.
        """
        ...

    def taken(self, signed: SignedTx) -> None:
        """Some endpoint has these bytes, or they are in a block."""
        ...


def offered(signed: SignedTx) -> tuple[Call, Fees]:
    """What signed bytes do, and what they offer for it."""
    fields = TypedTransaction.from_bytes(HexBytes(signed.raw)).as_dict()
    to = bytes(fields["to"])
    call = Call(to_checksum_address(to) if to else None, "0x" + bytes(fields["data"]).hex(), int(fields["gas"]))
    return call, Fees(int(fields["maxFeePerGas"]), int(fields["maxPriorityFeePerGas"]))


def _pending(signed: SignedTx, why: str) -> PendingError:
    return PendingError(f"{signed.tx_hash} may be on its way: no endpoint has confirmed it ({why})")


def _leaves_open(error: ChainError) -> bool:
    """Whether some endpoint may have the transaction all the same."""
    return isinstance(error, ChainUnreachableError) or (isinstance(error, NotTakenError) and not error.certain)


class Wallet:
    """One signer on one connection; `signer` may be a private key in hex, `chain_id` guards against a wrong chain.

    Every call returns a transaction hash as soon as an endpoint has taken the transaction; `wait` waits for its block.
    A call that builds on another, such as a deposit on its approval, needs the other in a block first.

    With `outbox` every transaction is kept there before it is sent. With `patience` reads are repeated while an
    endpoint does not answer, and a transaction whose fate is not known is sent again, byte for byte. Raises the
    ChainError tree; PendingError after that patience.
    """

    def __init__(
        self,
        rpc: Addresses,
        signer: str | Signer,
        timeout: float = 10.0,
        *,
        chain_id: int | None = None,
        quorum: int | None = None,
        outbox: Outbox | None = None,
        patience: Patience | None = None,
    ) -> None:
        holder = LocalSigner(signer) if isinstance(signer, str) else signer
        self._rpc = Rpc(rpc, timeout=timeout, chain_id=chain_id, quorum=quorum, patience=patience)
        self._sender = Sender(self._rpc, holder, chain_id)
        self._outbox = outbox
        self._patience = patience
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address} by {self._rpc!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, the signer's too."""
        await self._rpc.aclose()
        await self._sender.signer.aclose()

    async def approve(self, token: str, spender: str, amount: int) -> str:
        """Let a contract, such as the escrow, take up to `amount` base units of the token."""
        return await self._send(token, "approve", to_checksum_address(spender), amount, name="TestUSD")

    async def collect(self, escrow: str, to: str | None = None) -> str:
        """Fetch what the escrow holds for it: bonds of disputes that it won, and what a refused transfer left."""
        return await self._send(escrow, "collect", to_checksum_address(to or self.address))

    @property
    def address(self) -> ChecksumAddress:
        """The wallet's address."""
        return self._sender.address

    async def coins(self) -> int:
        """What it has for gas, in wei, at the newest block."""
        with self._rpc.speaking("reading a balance"):
            return await self._rpc.w3.eth.get_balance(self.address)

    async def tokens(self, token: str) -> int:
        """What it has of a token, in the token's own base units, at the newest block."""
        return await self._figure(token, "balanceOf", self.address, name="TestUSD")

    async def genesis(self) -> str:
        """The hash of the chain's first block, which tells a test chain from the one before it at the same address."""
        return (await block_at(self._rpc, 0)).hash

    async def nonces(self) -> Nonces:
        """Its next nonce; `finalized` is 0 where the node does not keep the state of the newest final block."""
        try:
            return await nonces_of(self._rpc, self.address)
        except StatePrunedError:
            with self._rpc.speaking("reading a nonce"):
                latest = await self._rpc.w3.eth.get_transaction_count(self.address, "latest")
                pending = await self._rpc.w3.eth.get_transaction_count(self.address, "pending")
            return Nonces(0, latest, max(latest, pending))

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        """What became of a transaction; None while it is in no block, which may also mean dropped."""
        with self._rpc.speaking("reading a receipt"):
            try:
                raw = await self._rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
            except TransactionNotFound:
                return None
            return TxReceipt(
                tx_hash=tx_hash,
                block_number=raw["blockNumber"],
                block_hash=raw["blockHash"].to_0x_hex(),
                succeeded=raw["status"] == 1,
                gas_used=raw["gasUsed"],
                gas_price=raw.get("effectiveGasPrice", 0),
            )

    async def block_hash(self, number: int) -> str | None:
        """The hash of the block of that number; None if the chain is not that long, looked at for a while."""
        for pause in (0.0, POLL_S, 2 * POLL_S):
            # Nodes behind one address lag by some blocks.
            await asyncio.sleep(pause)
            if (await block_at(self._rpc, "latest")).number >= number:
                return (await block_at(self._rpc, number)).hash
        return None

    async def finalized(self) -> int:
        """The number of the newest final block."""
        return (await block_at(self._rpc, "finalized")).number

    async def replaced(self, signed: SignedTx) -> bool:
        """Whether another transaction of the same nonce is final, so that this one can never count."""
        if (await self.nonces()).finalized <= signed.nonce:
            return False
        # Read after the nonce, and once more a little later: a node that lags may not have the receipt yet.
        for pause in (0.0, POLL_S):
            await asyncio.sleep(pause)
            if await self.receipt(signed.tx_hash) is not None:
                return False
        return True

    def most_it_costs(self, signed: SignedTx) -> int:
        """The most wei that a transaction of this wallet can cost it."""
        call, fees = offered(signed)
        return cost_bound(call.gas, fees)

    async def deliver(self, signed: SignedTx) -> None:
        """Send signed bytes until an endpoint has them or they are in a block; the same bytes each time.

        A lost reply is no refusal, and neither is a quorum's while another endpoint is silent or takes them.
        NotTakenError or ChainError if every endpoint refuses them and they are in no block, ReplacedError if
        another transaction of that nonce is final; ChainUnreachableError if too few answered and this wallet has no
        patience; PendingError if it is not known when its patience ends.
        """
        loop, pauses = asyncio.get_running_loop(), (self._patience or Patience()).pauses()
        began, refused_since, lost, doubtful = loop.time(), None, "", False
        patience = self._patience.sending if self._patience is not None else 0.0
        while True:
            fault = await self._attempt(signed)
            if fault is None:
                break
            doubtful = doubtful or _leaves_open(fault)
            if isinstance(fault, ChainUnreachableError):
                if self._patience is None:
                    raise fault
                lost, fault = str(fault), None
            if await self._arrived(signed, fault):
                break
            if fault is not None:
                refused_since = refused_since if refused_since is not None else loop.time()
                # Who lost a reply may have it, whatever the others, or the same one later, answer.
                unclear = doubtful or (isinstance(fault, NotTakenError) and fault.why in UNCLEAR)
                if not unclear or loop.time() - refused_since >= min(patience, UNCLEAR_S):
                    raise _pending(signed, f"{lost}, and then: {fault}" if lost else str(fault)) if doubtful else fault
            if loop.time() - began > patience:
                raise _pending(signed, str(fault) if fault is not None else lost)
            await asyncio.sleep(pauses.failed())
        if self._outbox is not None:
            self._outbox.taken(signed)

    async def _attempt(self, signed: SignedTx) -> ChainError | None:
        """Why signed bytes were not taken, None if they were; who waits is told of what leaves that open."""
        try:
            await self._sender.broadcast(signed)
        except ChainError as error:
            if self._patience is not None and _leaves_open(error):
                self._patience.tell(f"{error}; it may be on its way: looking for {signed.tx_hash}")
            return error
        return None

    async def _arrived(self, signed: SignedTx, fault: ChainError | None) -> bool:
        """Whether the transaction is in a block; unknown counts as not yet. ReplacedError if it can never be."""
        try:
            if await self.receipt(signed.tx_hash) is not None:
                return True
            gone = fault is not None and await self.replaced(signed)
        except ChainError:
            return False
        if gone:
            raise ReplacedError(
                f"nonce {signed.nonce} of {self.address} went to another transaction; {signed.tx_hash} never counts"
            )
        return False

    async def raised(self, signed: SignedTx) -> SignedTx | None:
        """The same call at the same nonce for what blocks ask now, kept and not sent; None if it offers that.

        At most one of the two can ever count.
        """
        call, fees = offered(signed)
        view = await fees_asked(self._rpc)
        if not underpriced(fees, view):
            return None
        more = bumped(fees, view, NO_CAP)
        if more is None:
            return None
        again = await self._sender.sign(call, signed.nonce, more)
        if self._outbox is not None:
            await self._keep(self._outbox, call, again)
        return again

    async def wait(
        self,
        tx_hash: str,
        *,
        confirmations: int | None = None,
        progress: Callable[[Waiting], None] | None = None,
        patience: float = PATIENCE_S,
        poll: float = POLL_S,
        signed: SignedTx | None = None,
    ) -> TxReceipt:
        """Wait until a transaction is finalized or, with `confirmations`, until it has so many blocks (1: its own).

        `progress` is told how far it is, whenever that has changed. Endpoints that do not answer are asked again.
        With `signed` its bytes are sent again now and then while it is in no block, and ReplacedError says that it
        can never be in one. RevertedError if it counts and has failed, PendingError if it does not count after
        `patience` seconds.
        """
        seen: Waiting | None = None
        silence = ""
        loop = asyncio.get_running_loop()
        resent, pause = loop.time(), poll
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        now, receipt = await self._look(tx_hash, confirmations)
                        if signed is not None and receipt is None and loop.time() - resent > RESEND_S:
                            resent = loop.time()
                            await self._resend(signed)
                    except ChainUnreachableError as error:
                        silence = f" ({error})"
                    else:
                        silence = ""
                        if progress is not None and now != seen:
                            progress(now)
                        moved = seen is None or (now.block, now.done) != (seen.block, seen.done)
                        pause = poll if moved else min(SLOWEST * poll, 1.25 * pause)
                        seen = now
                        if receipt is not None and now.done:
                            return self._succeeded(receipt)
                    await asyncio.sleep(pause)
        except TimeoutError:
            where = "in no block" if seen is None or seen.block is None else f"in block {seen.block}, not final"
            raise PendingError(f"{tx_hash} is {where} after {patience:.0f} s{silence}") from None

    async def nudge(self, signed: SignedTx) -> None:
        """Send the same bytes once more, and wait for nothing. ChainError if all endpoints refuse them."""
        await self._sender.broadcast(signed)

    async def _resend(self, signed: SignedTx) -> None:
        """As `nudge`; a refusal says nothing new, unless the nonce is gone."""
        try:
            await self.nudge(signed)
        except ChainUnreachableError:
            raise
        except ChainError as error:
            await self._arrived(signed, error)

    async def _look(self, tx_hash: str, confirmations: int | None) -> tuple[Waiting, TxReceipt | None]:
        head = (await block_at(self._rpc, "finalized" if confirmations is None else "latest")).number
        receipt = await self.receipt(tx_hash)
        if receipt is None:
            return Waiting(tx_hash, None, head, None), None
        needed = receipt.block_number + (0 if confirmations is None else confirmations - 1)
        return Waiting(tx_hash, receipt.block_number, head, needed, receipt.block_hash), receipt

    def _succeeded(self, receipt: TxReceipt) -> TxReceipt:
        if not receipt.succeeded:
            raise RevertedError(f"{receipt.tx_hash} was refused in block {receipt.block_number}")
        return receipt

    async def _send(self, to: str, function: str, *arguments: object, name: ContractName = "ComputeEscrow") -> str:
        return await self._dispatch(calls.encode(to, function, arguments, name))

    async def _dispatch(self, call: Call) -> str:
        """Sign, keep and deliver a call; concurrent calls take their turn. Returns the transaction hash."""
        async with self._turn:
            signed = await self._signed(call)
            await self.deliver(signed)
        return signed.tx_hash

    async def _signed(self, call: Call) -> SignedTx:
        """The call signed and kept, not sent."""
        if self._outbox is None:
            return await self._sender.prepare(call)
        nonce = self._outbox.next_nonce(await self.nonces(), repr(self._rpc))
        signed = await self._sender.prepare(call, nonce)
        await self._keep(self._outbox, call, signed)
        return signed

    async def _keep(self, outbox: Outbox, call: Call, signed: SignedTx) -> None:
        head = await block_at(self._rpc, "latest")
        await outbox.keep(call, signed, head.number, head.hash)

    async def _figure(self, to: str, function: str, *arguments: object, name: ContractName = "ComputeEscrow") -> int:
        """A whole number that a getter returns at the newest block."""
        contract = calls.contract_at(self._rpc, to_checksum_address(to), name)
        with self._rpc.speaking(function):
            said: int = await contract.functions[function](*arguments).call()
        return said
