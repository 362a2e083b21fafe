"""What a command wants from a chain, done once however often it is repeated: finds, resumes and asks; prints nothing.

An order is a verb and its arguments. A transaction that was signed for it and is not decided by a final block is
resumed; another is signed only if that one can never take effect, or at its very nonce.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedgpu_operator.cli.common import instant
from fedgpu_operator.cli.journal import AGAIN_WITHIN_S, Entry, Journal, Mark, TxOutcome
from fedgpu_operator.errors import (
    ChainError,
    ChainUnreachableError,
    ConfigurationError,
    NotTakenError,
    PendingError,
    Refusal,
    ReplacedError,
    RevertedError,
)

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain.wallet import Wallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import SignedTx
    from fedgpu_operator.domain.transactions import Call, Nonces

MOST_STRANGERS: Final = 64
"""So many transactions of one account from other machines are believed: what geth queues (`--txpool.accountqueue`)."""
RAISE_AFTER_S: Final = 1800
"""A transaction that waits for so long below what blocks ask is signed again for more: as long as a command waits."""
REPEAT: Final = "run the same command again: it signs a replacement at the same nonce, so at most one takes effect"
LOOK_AGAIN: Final = "run the same command again: it looks for this transaction and sends no second one"


@dataclass
class Order:
    """What a command is to do: `verb` are its words, `arguments` what it was given; equal ones are the same order.

    `pays` is whether doing it twice moves money twice. `state` names what it sets, where a later order of that name
    undoes it: only the newest is resumed. `used_up` is whether nothing is left of it once it is in a block.
    `what` is how progress calls it; `details` are kept with the transaction and may be filled in until it is signed.
    """

    verb: str
    arguments: JSONObject
    what: str
    pays: bool = False
    state: str = ""
    used_up: bool = False
    details: JSONObject = field(default_factory=dict)


class Outgoing:
    """The outbox of a command's wallet: records what is signed, and for which order, and reports its hash."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self.journal = journal
        self.tell = tell
        self._orders: list[Order] = []
        self.kept: Entry | None = None
        """What is being sent; None when no endpoint is known not to have it."""

    def next_nonce(self, nonces: Nonces, source: str) -> int:
        """The lowest nonce that nothing holds, here or in a pool; that of an earlier version where there is one.

        PendingError if the earlier version's nonce is used already, or would leave one free below it.
        ChainUnreachableError if `source` reports more pending transactions than anybody sends.
        """
        held = {each.nonce for each in self.journal.unfinished()}
        if len(_unknown(nonces, held)) > MOST_STRANGERS:
            raise ChainUnreachableError(
                f"{source}: reports {nonces.pending - nonces.latest} pending transactions, nonces {nonces.latest} to "
                f"{nonces.pending - 1}, of which the record {self.journal.path} has {len(held)}; nothing is signed "
                "after them: use another endpoint"
            )
        free = self.free_nonce(nonces)
        for each in self._versions():
            if each.nonce < free:
                raise PendingError(f"{each.tx_hash} was rejected, but its nonce {each.nonce} is in use: {LOOK_AGAIN}")
            if each.nonce > free:
                raise PendingError(
                    f"{each.tx_hash} may still take effect with nonce {each.nonce}, but nonce {free} before it is free"
                    f"{self._refused_at(free)}: use that first, then {LOOK_AGAIN}"
                )
            return each.nonce
        return free

    def free_nonce(self, nonces: Nonces) -> int:
        """The lowest nonce that nothing holds: the nonce of a rejected transaction is free for another order."""
        held = {each.nonce for each in self.journal.unfinished()}
        free = max(nonces.latest, nonces.pending)
        while free in held:
            free += 1
        return free

    async def keep(self, call: Call, signed: SignedTx, number: int, block_hash: str) -> None:
        """PendingError, and nothing is sent, if an earlier version of it might take effect as well.

        The block is the newest of the chain it is signed for.
        """
        order = self._order or Order(call.what, {}, call.what)
        for each in self._versions():
            if each.nonce != signed.nonce:
                raise PendingError(f"{each.tx_hash} may still take effect with nonce {each.nonce}: {LOOK_AGAIN}")
        details = {**order.details, "state": order.state}
        mark = Mark(number, block_hash)
        self.kept = self.journal.signed(signed, order.verb, order.arguments, details, mark)
        self.tell(f"{order.what}: signed as {signed.tx_hash} with nonce {signed.nonce}; sending it")

    @property
    def _order(self) -> Order | None:
        return self._orders[-1] if self._orders else None

    def _versions(self) -> list[Entry]:
        """What was signed for the present order before and could take effect in addition to another of it."""
        if self._order is None:
            return []
        return [
            each
            for each in self.journal.of(self._order.verb, self._order.arguments)
            if each.outcome is None and not each.dropped and not each.adrift and (each.refused or self._order.pays)
        ]

    def _refused_at(self, nonce: int) -> str:
        there = [each for each in self.journal.entries.values() if each.nonce == nonce and each.outcome is None]
        return "".join(f" (`{each.verb}` was rejected there: run that again first)" for each in there[-1:])

    def taken(self, signed: SignedTx) -> None:
        if self.kept is not None and self.kept.tx_hash == signed.tx_hash:
            self.kept = None

    @contextmanager
    def doing(self, order: Order) -> Iterator[None]:
        """What is signed meanwhile is signed for this order."""
        self._orders.append(order)
        try:
            yield
        finally:
            self._orders.pop()


class Orders:
    """The orders of one wallet; `confirm` asks the person, and is None without a terminal."""

    def __init__(self, wallet: Wallet, outgoing: Outgoing, confirm: Callable[[str], bool] | None) -> None:
        self._wallet = wallet
        self._outgoing = outgoing
        self._journal = outgoing.journal
        self._tell = outgoing.tell
        self._confirm = confirm
        self._decided: set[str] = set()
        """Hashes of which this command was the first to learn that they succeeded."""

    async def once(self, order: Order, act: Callable[[], Awaitable[str]], *, again: bool = False) -> Entry:
        """The transaction of the order, which some endpoint has: the earlier one, or the one that `act` sends.

        ConfigurationError if it would pay a second time and nobody confirms that; `again` confirms it. PendingError
        if its fate is not known when patience ends.
        """
        earlier = self.found(order)
        if earlier is not None and not (order.used_up and await self._wallet.receipt(earlier.tx_hash) is not None):
            return await self.resume(order, earlier)
        if order.pays and not again:
            await self._ask(order)
        self._outgoing.kept = None
        with self._outgoing.doing(order), self.judged():
            return self._journal.entries[await act()]

    def found(self, order: Order) -> Entry | None:
        """The newest transaction of the order that may still take effect, or whose success was not reported yet."""
        for each in reversed(self._journal.entries.values()):
            if each.dropped or each.refused or each.adrift:
                continue
            if not each.of(order.verb, order.arguments):
                if order.state and each.details.get("state") == order.state:
                    return None
                continue
            # However long ago it was signed: its success was not reported yet.
            recent = order.pays or each.at >= self._journal.now() - AGAIN_WITHIN_S
            if each.outcome is None or (each.tx_hash in self._decided and recent):
                return each
        return None

    async def resume(self, order: Order, entry: Entry) -> Entry:
        """Send the earlier transaction again, the same bytes, unless it is in a block.

        One that waits for longer than RAISE_AFTER_S below the fee of blocks is replaced at its nonce with a higher one.
        """
        more = "; to pay again, give --again once this is final" if order.pays else ""
        self._tell(f"{order.what}: resuming {entry.tx_hash} of {instant(entry.at)}; no other is sent{more}")
        if (receipt := await self._wallet.receipt(entry.tx_hash)) is not None:
            self._journal.seen(entry.tx_hash, Mark(receipt.block_number, receipt.block_hash))
            return entry
        self._outgoing.kept = entry
        with self.judged():
            if self._journal.now() - entry.at > RAISE_AFTER_S:
                order.details = {**entry.details}
                with self._outgoing.doing(order):
                    raised = await self._wallet.raised(entry.signed)
                if raised is not None:
                    self._tell(
                        f"{order.what}: fee of {entry.tx_hash} is below that of blocks; replaced with a higher fee"
                    )
                    entry = self._journal.entries[raised.tx_hash]
            await self._wallet.deliver(entry.signed)
        return entry

    async def counted_instead(self, entry: Entry) -> Entry | None:
        """Another version of the same order and nonce that is in a block; None if there is none."""
        for each in self._journal.of(entry.verb, entry.arguments):
            other = each.nonce == entry.nonce and each.tx_hash != entry.tx_hash
            if other and await self._wallet.receipt(each.tx_hash) is not None:
                return each
        return None

    async def look_back(self) -> None:
        """Find out what became of everything that was signed before and not decided then; send the rest again.

        Only what was signed for this very chain is sent: one that a test chain went on from has the same first block.
        """
        waiting = sorted(
            (each for each in self._journal.entries.values() if each.outcome is None), key=lambda each: each.nonce
        )
        if not waiting:
            return
        nonces, final = await self._wallet.nonces(), await self._wallet.finalized()
        left = [each for each in waiting if not await self._decided_now(each, final)]
        await self.set_adrift(left)
        following = nonces.latest
        for each in [self._journal.entries[each.tx_hash] for each in left]:
            if each.adrift:
                continue
            if not each.refused:
                await self._send_again(each)
            elif any(other.nonce == each.nonce for other in self._journal.unfinished()):
                continue
            elif nonces.pending > each.nonce:
                # Something of that nonce waits in a pool, which may be this.
                self._journal.refused(each.tx_hash, "")
            elif each.nonce == following and not each.dropped and self._holds_up(each):
                self._tell(f"{each.verb}: resending {each.tx_hash}, others wait for its nonce {each.nonce}")
                await self._send_again(each)
            if each.nonce == following and self._journal.entries[each.tx_hash].waits:
                following += 1

    async def _decided_now(self, entry: Entry, final: int) -> bool:
        """Whether it is in a block, or can never be in one; written down."""
        if (receipt := await self._wallet.receipt(entry.tx_hash)) is not None:
            self._journal.refused(entry.tx_hash, "")
            self._journal.seen(entry.tx_hash, Mark(receipt.block_number, receipt.block_hash))
            if receipt.block_number <= final:
                outcome = TxOutcome.SUCCEEDED if receipt.succeeded else TxOutcome.FAILED
                self._journal.ended(entry.tx_hash, outcome, receipt.block_number)
                self._decided |= {entry.tx_hash} if receipt.succeeded else set()
            return True
        if await self._wallet.replaced(entry.signed):
            self._journal.ended(entry.tx_hash, TxOutcome.REPLACED)
            self._tell(f"{entry.verb}: {entry.tx_hash} was replaced: another transaction used its nonce")
            return True
        return False

    async def set_adrift(self, entries: Iterable[Entry]) -> None:
        """Set aside, for this command, what is not known to belong to this chain."""
        hashes: dict[int, str | None] = {}
        for each in entries:
            number = each.mark.number
            if number not in hashes:
                try:
                    hashes[number] = await self._wallet.block_hash(number)
                except ChainError as error:
                    self._tell(f"block {number} cannot be read, so transactions of its time are not resent: {error}")
                    hashes[number] = None
            if hashes[number] != each.mark.hash:
                self._journal.adrift(each.tx_hash)
                if each.outcome is None:
                    self._tell(
                        f"{each.verb}: {each.tx_hash} with nonce {each.nonce} is not resent: it was signed for a chain "
                        f"whose block {number} is {each.mark.hash}, which is not known of this chain"
                    )

    def _holds_up(self, entry: Entry) -> bool:
        """Whether something was signed for a later nonce and can only take effect after it."""
        entries = self._journal.entries.values()
        behind = [each for each in entries if each.outcome is None and not each.adrift and not each.dropped]
        return any(each.nonce > entry.nonce for each in behind)

    async def _send_again(self, entry: Entry) -> None:
        try:
            await self._wallet.nudge(entry.signed)
        except ChainUnreachableError as error:
            self._tell(f"{entry.tx_hash} may have been sent: {error}")
        except ChainError as error:
            self._tell(f"{entry.verb}: {entry.tx_hash} was rejected: {error}")
            self._note(entry, error)

    async def _ask(self, order: Order) -> None:
        nonces = await self._wallet.nonces()
        reasons = [*self._recent(order), *self._strangers(nonces), *self._adrift(order, nonces)]
        if not reasons:
            return
        text = "; ".join(reasons)
        if self._confirm is None:
            raise ConfigurationError(f"{text}; nothing was sent: to {order.what} nevertheless, give --again")
        if not self._confirm(f"{text}. {order.what.capitalize()} again?"):
            raise ConfigurationError("not confirmed: nothing was sent")

    def _recent(self, order: Order) -> list[str]:

        since = self._journal.now() - AGAIN_WITHIN_S
        done = [
            each
            for each in self._journal.of(order.verb, order.arguments)
            if each.outcome is TxOutcome.SUCCEEDED and each.ended_at >= since
        ]
        return [f"already done by {each.tx_hash} of {instant(each.at)}, which is final" for each in done[-1:]]

    def _adrift(self, order: Order, nonces: Nonces) -> list[str]:
        """Of those that are not resent, one that could take effect in addition to the new one, if of this chain."""
        free = self._outgoing.free_nonce(nonces)
        found = [
            each
            for each in self._journal.of(order.verb, order.arguments)
            if each.adrift and each.outcome is None and each.nonce >= nonces.latest and each.nonce != free
        ]
        return [f"{each.tx_hash} was signed for the same and may be of this chain" for each in found[-1:]]

    def _strangers(self, nonces: Nonces) -> list[str]:
        """What is pending and was not sent from here: it may be the same order, sent from another machine."""
        known = {each.nonce for each in self._journal.unfinished()}
        strange = _unknown(nonces, known)
        if not strange:
            return []
        some = f"{len(strange)} transactions" if len(strange) > 1 else "a transaction"
        return [f"{some} of {self._wallet.address} sent from elsewhere (nonce {strange[0]}) may do the same"]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Records what became of the transaction that is being sent, and words it for its owner."""
        try:
            yield
        except PendingError as error:
            raise PendingError(f"{error}; {LOOK_AGAIN}" if LOOK_AGAIN not in str(error) else str(error)) from None
        except ReplacedError as error:
            if (kept := self._outgoing.kept) is not None:
                self._journal.ended(kept.tx_hash, TxOutcome.REPLACED)
            raise ReplacedError(f"{error}; run the same command again to send a new one") from None
        except (ChainUnreachableError, RevertedError):
            raise
        except NotTakenError as error:
            if (kept := self._outgoing.kept) is not None:
                self._note(kept, error)
            raise self._explained(error, kept) from None
        except ChainError as error:
            if (kept := self._outgoing.kept) is not None:
                self._note(kept, error)
            raise

    def _explained(self, error: NotTakenError, kept: Entry | None) -> ChainError:
        """The node's words, and what to do about them."""
        me = self._wallet.address
        if "run the same command again" in str(error):
            # An order within an order has explained it.
            return error
        if error.why is Refusal.POOR:
            much = f"up to {self._wallet.most_it_costs(kept.signed) / 10**18:.6f} " if kept is not None else ""
            coins = f"{much}coins of chain {self._journal.chain_id}"
            return NotTakenError(
                f"{me} needs {coins} for gas; send it some and run the same command again: {error}", error.why
            )
        if kept is None:
            return error
        if error.why is Refusal.NONCE_USED:
            used = f"nonce {kept.nonce} of {me} is used, by {kept.tx_hash} or by another transaction"
            return PendingError(f"{used}, without a receipt yet ({error}); {LOOK_AGAIN}")
        if error.why is Refusal.UNDERPRICED:
            others = [each.tx_hash for each in self._journal.entries.values() if each.nonce == kept.nonce]
            known = ", ".join(each for each in others if each != kept.tx_hash)
            waits = f"another transaction of nonce {kept.nonce} may be pending{f' ({known})' if known else ''}"
            return NotTakenError(f"{error}; {waits}, or the fee of {kept.tx_hash} is too low: {REPEAT}", error.why)
        return NotTakenError(f"{error}; {REPEAT}", error.why)

    def _note(self, entry: Entry, error: ChainError) -> None:
        """Not of a nonce that is used, which it may have used itself; nor if some of the nodes may have it."""
        if not (isinstance(error, NotTakenError) and (error.why is Refusal.NONCE_USED or not error.certain)):
            self._journal.refused(entry.tx_hash, str(error)[:300])


def _unknown(nonces: Nonces, known: set[int]) -> Sequence[int]:
    """Nonces that are pending and not known; no more of them than show that there are too many."""
    until = min(nonces.pending, nonces.latest + len(known) + MOST_STRANGERS + 1)
    return [nonce for nonce in range(nonces.latest, until) if nonce not in known]
