"""What the hub does about disputes on chain: shows the receipts that answer them, closes those whose time has come.

Both are open to anybody; a hub that keeps receipts of both sides has no reason to wait for somebody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar, cast

from fedgpu_operator.domain.ledger import SignedReceipt
from fedgpu_operator.domain.settlement import ChainSnapshot, DisputeState, EpochPlan, EpochState, Pair
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, RevertedError
from fedgpu_operator.hub.answering import Shown, answers_to, backed
from fedgpu_operator.hub.receiptrule import judge_receipt
from fedgpu_operator.hub.write import for_each
from fedgpu_operator.ports import Clock, Escrow, Ledger
from fedgpu_operator.settlement import parse_manifest
from fedgpu_operator.settlement.typeddata import escrow_domain

log = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["answer", "close"]

_READ: Final = "read"
_CLOSE: Final = "close"

AT_ONCE: Final = 16
"""Disputes that are looked at together."""
PATIENCE: Final = 2
"""Passes that a dispute waits for the judgement of all its receipts; then it is answered with those that are known."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One call that somebody should make, with the key of its intent."""

    key: str
    kind: str
    call: Call


@dataclass(frozen=True, slots=True)
class _Step:
    """What helps one dispute on now; `content` names it among all that the same dispute may need."""

    name: str
    kind: Kind
    content: str
    call: Call
    urgent: bool

    @property
    def errand(self) -> Errand:
        return Errand(f"{self.kind}:{self.name}{self.content}", self.kind, self.call)


@dataclass(frozen=True, slots=True)
class Pause:
    """How long something rests after it failed, and how long at most: twice as long each time in a row."""

    first: timedelta
    longest: timedelta


REFUSED: Final = Pause(timedelta(minutes=1), timedelta(minutes=16))
"""Of what the contract refused: a delegation can be undone, a role given back, and answers are taken for days."""
UNREAD: Final = Pause(timedelta(seconds=5), timedelta(minutes=2))
"""Of a dispute that could not be read."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """Tries in a row that failed, the time before which there is no other, and the newest final block of the last."""

    tries: int
    until: datetime
    block: int


class Rests:
    """What failed and rests for a growing pause, by dispute and part; nothing rests for the life of the process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Rest] = {}

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these disputes."""
        self._known = {key: rest for key, rest in self._known.items() if key[0] in names}

    def failed(self, name: str, part: str, now: datetime, block: int = 0, pause: Pause = REFUSED) -> None:
        """Let it rest; `block` is the newest finalized one, and no try follows before the next."""
        tries = self.tries(name, part) + 1
        self._known[name, part] = _Rest(tries, now + min(pause.first * 2 ** min(tries - 1, 16), pause.longest), block)

    def well(self, name: str, part: str) -> None:
        """It did not fail this time."""
        self._known.pop((name, part), None)

    def tries(self, name: str, part: str) -> int:
        """How often in a row it failed."""
        known = self._known.get((name, part))
        return known.tries if known is not None else 0

    def resting(self, name: str, part: str, now: datetime, block: int | None = None) -> bool:
        """Whether its pause is not over, or no block became final since."""
        known = self._known.get((name, part))
        return known is not None and (now < known.until or (block is not None and block <= known.block))


class DisputeKeeper:
    """Finds the next thing to do about a dispute."""

    def __init__(self, ledger: Ledger, escrow: Escrow, clock: Clock) -> None:
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._domain = escrow_domain(escrow.chain_id, escrow.escrow)
        self._rests = Rests()
        self._refusals: dict[tuple[str, str], str] = {}
        """Why receipts were left out, by dispute and provider, so that each reason is logged once."""

    async def errands(self) -> tuple[Errand | None, Errand | None]:
        """What cannot wait, and what can.

        Answers end, and a cancelled epoch must be closed before money is billed again. Other closings can wait: whoever
        opens many disputes must not put off everybody's next epoch. A dispute that cannot be read now is left for a
        later pass, and the others are served.
        """
        disputes = await self._escrow.disputes()
        names = {_name(dispute) for dispute in disputes}
        self._rests.keep(names)
        self._refusals = {key: why for key, why in self._refusals.items() if key[0] in names}
        if not disputes:
            return None, None
        look = _Look(self._escrow, self._ledger, disputes, await self._ledger.receipts(), self._clock.now())
        ordered = sorted(disputes, key=lambda each: (each.deadline, each.epoch, each.tenant, each.provider))
        due = [each for each in ordered if not self._rests.resting(_name(each), _READ, look.now)]
        waiting: Errand | None = None
        for start in range(0, len(due), AT_ONCE):
            some, unread = due[start : start + AT_ONCE], look.unread
            for step in await for_each(lambda each: self._next(each, look), some):
                if step is not None and step.urgent:
                    return step.errand, waiting
                if step is not None:
                    waiting = waiting or step.errand
            if look.unread - unread == len(some):
                # The chain is silent; the next pass begins with others.
                break
        return None, waiting

    async def _next(self, dispute: DisputeState, look: _Look) -> _Step | None:
        """What would help this dispute on now, if anything, and if it can be found out now."""
        name = _name(dispute)
        try:
            step = await self._step(dispute, look)
        except ChainMismatchError:
            raise
        except ChainError as error:
            log.warning("dispute %s is left for a later pass: %s", name, error)
            self._rests.failed(name, _READ, look.now, pause=UNREAD)
            look.unread += 1
            return None
        self._rests.well(name, _READ)
        return step

    async def _step(self, dispute: DisputeState, look: _Look) -> _Step | None:
        state = await look.epoch(dispute.epoch)
        chain = await look.chain(dispute)
        if chain.paused:
            return None
        if state.cancelled or dispute.ruled or chain.clock >= dispute.deadline:
            return await self._close(dispute, look, chain, urgent=state.cancelled)
        if chain.clock >= dispute.deadline - await look.ruling() // 2:
            # No more receipts are taken: the arbiter has the other half to look at them.
            return None
        return await self._answer(dispute, look, chain)

    async def _close(self, dispute: DisputeState, look: _Look, chain: ChainSnapshot, *, urgent: bool) -> _Step | None:
        name = _name(dispute)
        if self._rests.resting(name, _CLOSE, look.now, chain.block_number):
            return None
        call = self._escrow.call_close(dispute.epoch, dispute.tenant, dispute.provider)
        try:
            gas = await self._escrow.simulate(call)
        except RevertedError as error:
            log.warning("dispute %s cannot be closed now: %s", name, error)
            self._rests.failed(name, _CLOSE, look.now, chain.block_number)
            return None
        return _Step(name, "close", "", replace(call, gas=gas), urgent)

    # ---------------------------------------------------------------- answers

    async def _answer(self, dispute: DisputeState, look: _Look, chain: ChainSnapshot) -> _Step | None:
        """Show the receipts that the contract takes now, if they back more than was shown before."""
        name = _name(dispute)
        found = list(
            answers_to(self._domain, await look.plan(dispute.epoch), dispute, look.receipts_of(dispute.tenant))
        )
        if self._backs(dispute, look, found, chain) <= dispute.shown:
            return None
        found = [each for each in found if not self._rests.resting(name, _part(each), look.now, chain.block_number)]
        judged = await asyncio.gather(*(self._counts(name, each) for each in found))
        found = [each for each, counts in zip(found, judged, strict=True) if counts]
        if self._backs(dispute, look, found, chain) <= dispute.shown:
            return None
        found, call = await self._taken(dispute, found, look, chain)
        shows = self._backs(dispute, look, found, chain)
        if call is None or shows <= dispute.shown:
            return None
        return _Step(name, "answer", f":{shows}", call, urgent=True)

    def _backs(self, dispute: DisputeState, look: _Look, found: Sequence[Shown], chain: ChainSnapshot) -> int:
        return backed(dispute, look.disputes, found, chain)

    async def _counts(self, name: str, shown: Shown) -> bool:
        """Whether the contract takes both signatures now: one that it does not would void the answer of all others."""
        key = name, shown.answer.provider
        try:
            verdict = await judge_receipt(self._escrow, shown.kept)
        except ChainUnreachableError as error:
            if self._rests.tries(name, _READ) < PATIENCE:
                raise
            # A contract that signs may answer each endpoint differently: that must not hold up the others.
            log.warning("dispute %s: the receipt of %s is left out, it cannot be judged now: %s", *key, error)
            return False
        if verdict.accepted:
            self._refusals.pop(key, None)
        elif self._refusals.get(key) != verdict.why:
            self._refusals[key] = verdict.why
            log.warning("dispute %s: the receipt of %s is left out: %s", *key, verdict.why)
        return verdict.accepted

    async def _taken(
        self, dispute: DisputeState, found: list[Shown], look: _Look, chain: ChainSnapshot
    ) -> tuple[list[Shown], Call | None]:
        """What of these the contract takes at the newest block, with the call that shows it and its gas.

        The state moves between the finalized block and the newest: a signer may have delegated a moment ago. Which
        receipts are refused is found by halves, and only they rest.
        """
        name = _name(dispute)
        call, why = await self._simulated(dispute, found)
        if call is not None:
            return found, call
        if len(found) > 1 and (await self._simulated(dispute, ()))[0] is None:
            # Not even without a receipt: it is the dispute itself, which somebody closed, or ruled on, a moment ago.
            for each in found:
                self._rests.failed(name, _part(each), look.now, chain.block_number)
            log.warning("dispute %s takes no answer now: %s", name, why)
            return [], None
        good = await self._sound(dispute, found, look, chain, why)
        if not good or len(good) == len(found):
            return [], None
        call, why = await self._simulated(dispute, good)
        if call is None:
            log.warning("dispute %s: the answer is refused as a whole, and no part of it: %s", name, why)
        return good, call

    async def _sound(
        self, dispute: DisputeState, found: list[Shown], look: _Look, chain: ChainSnapshot, why: str
    ) -> list[Shown]:
        """The receipts that are not refused, of some that are refused together for that reason."""
        if len(found) == 1:
            log.warning("dispute %s: the receipt of %s is refused: %s", _name(dispute), found[0].answer.provider, why)
            self._rests.failed(_name(dispute), _part(found[0]), look.now, chain.block_number)
            return []
        good: list[Shown] = []
        middle = len(found) // 2
        for half in (found[:middle], found[middle:]):
            call, reason = await self._simulated(dispute, half)
            good += half if call is not None else await self._sound(dispute, half, look, chain, reason)
        return good

    async def _simulated(self, dispute: DisputeState, found: Sequence[Shown]) -> tuple[Call | None, str]:
        """The call with its gas, or why the contract refuses it."""
        answers = tuple(each.answer for each in found)
        call = self._escrow.call_answer(dispute.epoch, dispute.tenant, dispute.provider, answers)
        try:
            return replace(call, gas=await self._escrow.simulate(call)), ""
        except RevertedError as error:
            return None, str(error)


class _Look:
    """What one pass reads, each thing once: disputes of one epoch or tenant share their reads."""

    def __init__(
        self,
        escrow: Escrow,
        ledger: Ledger,
        disputes: Sequence[DisputeState],
        receipts: Sequence[SignedReceipt],
        now: datetime,
    ) -> None:
        self.disputes = disputes
        self.now = now
        self.unread = 0
        """Disputes that could not be read in this pass."""
        self._escrow = escrow
        self._ledger = ledger
        self._receipts: dict[str, dict[Pair, SignedReceipt]] = {}
        for kept in receipts:
            self._receipts.setdefault(kept.receipt.tenant, {})[kept.pair] = kept
        self._reads: dict[tuple[object, ...], asyncio.Task[Any]] = {}

    def receipts_of(self, tenant: str) -> Mapping[Pair, SignedReceipt]:
        """The newest receipt of each of the tenant's pairs."""
        return self._receipts.get(tenant, {})

    async def epoch(self, number: int) -> EpochState:
        """One epoch at finalized."""
        return await self._once(("epoch", number), self._escrow.finalized_epoch(number))

    async def ruling(self) -> int:
        """How long the arbiter has, in seconds of the settlement clock."""
        return (await self._once(("periods",), self._escrow.periods())).ruling

    async def plan(self, number: int) -> EpochPlan | None:
        """What was posted as that epoch of the contract; None for a post that is not ours."""
        return await self._once(("plan", number), self._parsed(number))

    async def chain(self, dispute: DisputeState) -> ChainSnapshot:
        """The tenant's account, and its books with every provider of the disputed epoch."""
        return await self._once(("chain", dispute.epoch, dispute.tenant), self._snapshot(dispute.epoch, dispute.tenant))

    async def _snapshot(self, epoch: int, tenant: str) -> ChainSnapshot:
        plan = await self.plan(epoch)
        pairs = [pair for pair in plan.pairs if pair[0] == tenant] if plan is not None else []
        return await self._escrow.snapshot([tenant], pairs)

    async def _parsed(self, number: int) -> EpochPlan | None:
        for epoch in await self._once(("epochs",), self._ledger.epochs()):
            if epoch.chain_epoch == number:
                return parse_manifest(epoch.draft.manifest)
        return None

    async def _once(self, key: tuple[object, ...], read: Coroutine[Any, Any, T]) -> T:
        if key in self._reads:
            read.close()
        else:
            self._reads[key] = asyncio.ensure_future(read)
        return cast("T", await self._reads[key])


def _name(dispute: DisputeState) -> str:
    return f"{dispute.epoch}:{dispute.tenant}:{dispute.provider}"


def _part(shown: Shown) -> str:
    """A receipt's name among those of one dispute; a newer receipt of the same provider does not rest for it."""
    return f"{shown.answer.provider}:{shown.kept.receipt.cumulative}"
