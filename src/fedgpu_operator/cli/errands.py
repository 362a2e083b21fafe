"""What a command wants from a chain, done once however often it is repeated: finds, resumes and asks; prints nothing.

An errand is a verb and its arguments. A transaction that was signed for it and is not decided by a final block is
gone on with; another is signed only when that one can never count, or at its very nonce.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedgpu_operator.cli.journal import Entry, Journal, Outcome
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
    from fedgpu_operator.domain.transactions import Call

AGAIN_WITHIN_S: Final = 86_400
"""A payment that was signed within this time and is final is not repeated without being asked about."""
LOOK_AGAIN: Final = "run the same command again: it looks for this transaction and sends no second one"


@dataclass
class Errand:
    """One wish: `verb` are the command's words, `arguments` what it was given; equal ones are the same wish.

    `pays` is whether doing it twice moves money twice. `state` names what it sets, where a later errand of that name
    undoes it: only the newest is gone on with. `used_up` is whether nothing is left of it once it is in a block.
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
    """The outbox of a command's wallet: writes down what is signed, and for which errand, and says its hash."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self.journal = journal
        self.tell = tell
        self._errands: list[Errand] = []
        self.kept: Entry | None = None
        """What was signed last."""

    def least_nonce(self) -> int:
        return max((each.nonce + 1 for each in self.journal.unfinished()), default=0)

    async def keep(self, call: Call, signed: SignedTx) -> None:
        """PendingError, and nothing is sent, where an earlier version of it might count as well."""
        errand = self._errands[-1] if self._errands else Errand(call.what, {}, call.what)
        for each in self.journal.of(errand.verb, errand.arguments):
            if each.outcome is None and each.refused and not each.dropped and each.nonce < signed.nonce:
                raise PendingError(f"{each.tx_hash} was refused, but its nonce {each.nonce} is in use: {LOOK_AGAIN}")
        details = {**errand.details, "state": errand.state}
        self.kept = self.journal.signed(signed, errand.verb, errand.arguments, details)
        self.tell(f"{errand.what}: signed as {signed.tx_hash} with nonce {signed.nonce}, sending it")

    @contextmanager
    def doing(self, errand: Errand) -> Iterator[None]:
        """What is signed meanwhile is signed for this errand."""
        self._errands.append(errand)
        try:
            yield
        finally:
            self._errands.pop()


class Errands:
    """The errands of one wallet; `confirm` asks a person, and is None where nobody is there to answer."""

    def __init__(self, wallet: Wallet, outgoing: Outgoing, confirm: Callable[[str], bool] | None) -> None:
        self._wallet = wallet
        self._outgoing = outgoing
        self._journal = outgoing.journal
        self._tell = outgoing.tell
        self._confirm = confirm
        self._decided: set[str] = set()
        """Hashes of which this command was the first to learn that they succeeded."""

    async def once(self, errand: Errand, act: Callable[[], Awaitable[str]], *, again: bool = False) -> Entry:
        """The transaction of the errand, which some endpoint has: the one of before, or the one that `act` sends.

        ConfigurationError where it would pay a second time and nobody confirms that; `again` confirms it. PendingError
        where its fate is not known when patience ends.
        """
        earlier = self.found(errand)
        if earlier is not None and not (errand.used_up and await self._wallet.receipt(earlier.tx_hash) is not None):
            await self.go_on(errand, earlier)
            return earlier
        if errand.pays and not again:
            await self._ask(errand)
        self._outgoing.kept = None
        with self._outgoing.doing(errand), self.judged():
            return self._journal.entries[await act()]

    def found(self, errand: Errand) -> Entry | None:
        """The newest transaction of the errand that may still count, or of which nobody was told that it did."""
        for each in reversed(self._journal.entries.values()):
            if each.dropped or each.refused:
                continue
            if not each.of(errand.verb, errand.arguments):
                if errand.state and each.details.get("state") == errand.state:
                    return None
                continue
            if each.outcome is None or each.tx_hash in self._decided:
                return each
        return None

    async def go_on(self, errand: Errand, entry: Entry) -> None:
        """See that the transaction of before is on its way: the same bytes, unless it is in a block."""
        from fedgpu_operator.cli.wallets import instant

        self._tell(f"{errand.what}: going on with {entry.tx_hash} of {instant(entry.at)}; nothing else is sent")
        if await self._wallet.receipt(entry.tx_hash) is None:
            self._outgoing.kept = entry
            with self.judged():
                await self._wallet.deliver(entry.signed)

    async def look_back(self) -> None:
        """Learn what became of everything that was signed before and was not decided then; send the rest again."""
        waiting = sorted(
            (each for each in self._journal.entries.values() if each.outcome is None), key=lambda each: each.nonce
        )
        if not waiting:
            return
        pending, final = (await self._wallet.nonces()).pending, await self._wallet.finalized()
        for each in waiting:
            receipt = await self._wallet.receipt(each.tx_hash)
            if receipt is not None:
                self._journal.refused(each.tx_hash, "")
                if receipt.block_number <= final:
                    outcome = Outcome.SUCCEEDED if receipt.succeeded else Outcome.FAILED
                    self._journal.ended(each.tx_hash, outcome, receipt.block_number)
                    self._decided |= {each.tx_hash} if receipt.succeeded else set()
            elif await self._wallet.replaced(each.signed):
                self._journal.ended(each.tx_hash, Outcome.REPLACED)
                self._tell(f"{each.verb}: {each.tx_hash} never counts, its nonce went to another transaction")
            elif not each.refused:
                await self._send_again(each)
            elif pending > each.nonce:
                # Something of that nonce waits in a pool, which may be this.
                self._journal.refused(each.tx_hash, "")

    async def _send_again(self, entry: Entry) -> None:
        try:
            await self._wallet.nudge(entry.signed)
        except ChainUnreachableError as error:
            self._tell(f"{entry.tx_hash} may be on its way: {error}")
        except ChainError as error:
            self._tell(f"{entry.verb}: {entry.tx_hash} was refused: {error}")
            self._note(entry, error)

    async def _ask(self, errand: Errand) -> None:
        reasons = [*self._recent(errand), *await self._strangers()]
        if not reasons:
            return
        text = "; ".join(reasons)
        if self._confirm is None:
            raise ConfigurationError(f"{text}: nothing is sent; to {errand.what} all the same, give --again")
        if not self._confirm(f"{text}. {errand.what.capitalize()} again?"):
            raise ConfigurationError("nothing was sent")

    def _recent(self, errand: Errand) -> list[str]:
        from fedgpu_operator.cli.wallets import instant

        since = self._journal.now() - AGAIN_WITHIN_S
        done = [
            each
            for each in self._journal.of(errand.verb, errand.arguments)
            if each.outcome is Outcome.SUCCEEDED and each.at >= since
        ]
        return [f"{each.tx_hash} did just that on {instant(each.at)} and is final" for each in done[-1:]]

    async def _strangers(self) -> list[str]:
        """What waits in pools and was not sent from here: it may be the very same, sent from another machine."""
        nonces = await self._wallet.nonces()
        known = {each.nonce for each in self._journal.unfinished()}
        strange = [nonce for nonce in range(nonces.latest, nonces.pending) if nonce not in known]
        if not strange:
            return []
        some = f"{len(strange)} transactions" if len(strange) > 1 else "a transaction"
        return [f"{some} of {self._wallet.address} not sent from here (nonce {strange[0]}) may do just that"]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Keeps in mind what became of the transaction that is being sent, and words it for its owner."""
        try:
            yield
        except PendingError as error:
            raise PendingError(f"{error}; {LOOK_AGAIN}" if LOOK_AGAIN not in str(error) else str(error)) from None
        except ReplacedError as error:
            if (kept := self._outgoing.kept) is not None:
                self._journal.ended(kept.tx_hash, Outcome.REPLACED)
            raise ReplacedError(f"{error}; run the same command again to send another") from None
        except (ChainUnreachableError, RevertedError):
            raise
        except ChainError as error:
            if (kept := self._outgoing.kept) is not None:
                self._note(kept, error)
            raise

    def _note(self, entry: Entry, error: ChainError) -> None:
        """A nonce that is used says nothing of this transaction: it may be what used it."""
        if not (isinstance(error, NotTakenError) and error.why is Refusal.NONCE_USED):
            self._journal.refused(entry.tx_hash, str(error)[:300])
