"""Disputes on chain: shows the receipts that answer them, and closes those whose time has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal, TypeVar, cast

from fedgpu_operator.domain.ledger import CountersignedReceipt
from fedgpu_operator.domain.settlement import (
    NO_BOOKS,
    Answer,
    ChainSnapshot,
    DisputeState,
    EpochPlan,
    EpochState,
    Pair,
)
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)
from fedgpu_operator.hub.services.signatures import ReceiptVerdict, judge_receipt
from fedgpu_operator.hub.services.writes import for_each
from fedgpu_operator.ports import Clock, Escrow, Ledger
from fedgpu_operator.settlement import MAX_TX_GAS, Room, claims, data_size, fewer, parse_manifest, share_that_fits
from fedgpu_operator.settlement.typeddata import NO_ADDRESS, SigningDomain, escrow_domain, receipt, recover

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReceiptAnswer:
    """One receipt as the ledger keeps it, and as it is shown to the contract."""

    kept: CountersignedReceipt
    answer: Answer


def answers_to(
    domain: SigningDomain, plan: EpochPlan | None, dispute: DisputeState, receipts: Mapping[Pair, CountersignedReceipt]
) -> Iterator[ReceiptAnswer]:
    """What backs the dispute: the pair's receipt, or every line of the tenant in order if no provider is named."""
    if dispute.provider != NO_ADDRESS:
        kept = receipts.get((dispute.tenant, dispute.provider))
        if kept is not None:
            # The contract kept what it needs of the line when the dispute was opened.
            yield ReceiptAnswer(kept, _answer(domain, kept))
        return
    for claim in sorted(claims(plan) if plan is not None else (), key=lambda claim: claim.provider.lower()):
        kept = receipts.get((dispute.tenant, claim.provider))
        index = next((index for index, line in enumerate(claim.lines) if line.tenant == dispute.tenant), None)
        if kept is not None and index is not None:
            yield ReceiptAnswer(kept, replace(_answer(domain, kept), lines=claim.lines, index=index, proof=claim.proof))


def backed(
    dispute: DisputeState, disputes: Sequence[DisputeState], answers: Sequence[ReceiptAnswer], chain: ChainSnapshot
) -> int:
    """How much of the disputed amount these receipts back, by the contract's own rule (ComputeEscrow.answer)."""
    if dispute.provider != NO_ADDRESS:
        return max(
            (_clamp(each.kept.receipt.cumulative - dispute.floor, dispute.amount) for each in answers), default=0
        )
    account = chain.accounts[dispute.tenant]
    # A debit of a later epoch belongs to later lines.
    there = account.allocated + (account.pending if chain.head_epoch == dispute.epoch else 0)
    there += sum(
        each.shown
        for each in disputes
        if (each.tenant, each.provider) == (dispute.tenant, NO_ADDRESS) and each.epoch != dispute.epoch
    )
    return _clamp(sum(_unpaid(dispute, each, chain) for each in answers) - there, dispute.amount)


def most_telling(
    dispute: DisputeState, answers: Sequence[ReceiptAnswer], count: int, chain: ChainSnapshot
) -> list[ReceiptAnswer]:
    """So many of the receipts for a dispute that names no provider, those that back the most, in their order."""
    ranked = sorted(range(len(answers)), key=lambda at: _unpaid(dispute, answers[at], chain), reverse=True)
    return [answers[at] for at in sorted(ranked[:count])]


def _unpaid(dispute: DisputeState, shown: ReceiptAnswer, chain: ChainSnapshot) -> int:
    """What root and receipt agree on beyond what the pair's books hold."""
    answer = shown.answer
    books = chain.books.get((dispute.tenant, answer.provider), NO_BOOKS)
    return max(0, min(answer.lines[answer.index].cumulative, answer.receipt.cumulative) - books.base)


def _answer(domain: SigningDomain, kept: CountersignedReceipt) -> Answer:
    return Answer(
        provider=kept.receipt.provider,
        lines=(),
        index=0,
        proof=(),
        receipt=kept.receipt,
        meter=recover(receipt(domain, kept.receipt).digest, kept.meter_signature),
        meter_signature=kept.meter_signature,
        provider_signature=kept.provider_signature,
    )


def _clamp(value: int, most: int) -> int:
    return max(0, min(value, most))


T = TypeVar("T")
Kind = Literal["answer", "close"]
ANSWER: Final = "answer"
CLOSE: Final = "close"

_READ: Final = "read"

CALL_GAS: Final = 21_000
"""Part of every call that was simulated alone, and of a bundle once (yellow paper, G_transaction)."""
ITEM_DATA: Final = 192
"""Bytes around one call in a bundle, as the ABI encodes it: five words, and what fills its data up to whole words."""
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
    """What helps one dispute on now; `content` names it among all that the same dispute may need.

    `shows` is what an answer makes payable, `signers` by whose signatures, with each whether its account has code.
    """

    name: str
    kind: Kind
    content: str
    call: Call
    urgent: bool
    shows: int = 0
    signers: Mapping[str, bool] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}{self.content}"

    @property
    def coded(self) -> bool:
        """Whether accounts with code are asked in it, which may use up whatever gas they are given."""
        return any(self.signers.values())


class _Load:
    """What goes into one transaction: steps of one kind, in the order of their deadlines, as many as there is room for.

    At most one in which an account with code is asked, and that one last, so that the gas it burns is nobody else's.
    """

    def __init__(self, room: Room, *, bundled: bool) -> None:
        self.steps: list[_Step] = []
        self.full = False
        self._room = room
        self._bundled = bundled
        self._gas, self._data = CALL_GAS, 0

    def add(self, step: _Step) -> None:
        """Take a step along, if it goes with those that are there."""
        if self.steps and (step.kind != self.steps[0].kind or (step.coded and any(each.coded for each in self.steps))):
            return
        gas, data = max(0, step.call.gas - CALL_GAS), data_size(step.call) + ITEM_DATA
        fits = self._gas + gas <= self._room.gas and self._data + data <= self._room.data
        if self.steps and not (self._bundled and fits):
            self.full = True
            return
        self.steps.append(step)
        self._gas, self._data = self._gas + gas, self._data + data
        self.full = not self._bundled

    def errand(self, escrow: Escrow, batch: str | None) -> Errand | None:
        """The transaction, if there is anything to do."""
        if not self.steps:
            return None
        if batch is None or len(self.steps) == 1:
            first = self.steps[0]
            return Errand(first.key, first.kind, first.call)
        steps = sorted(self.steps, key=lambda each: each.coded)
        content = sha256("\n".join(each.key for each in steps).encode()).hexdigest()[:32]
        call = escrow.call_bundle(batch, [each.call for each in steps])
        return Errand(f"{steps[0].kind}:bundle:{content}", steps[0].kind, call)


@dataclass(frozen=True, slots=True)
class _Tried:
    """An answer that was handed out: what it was to make payable, and how many transactions each signer had then."""

    shows: int
    nonces: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pause:
    """How long something rests after it failed, and how long at most: twice as long each time."""

    first: timedelta
    longest: timedelta


REFUSED: Final = Pause(timedelta(minutes=1), timedelta(minutes=16))
"""Of what the contract refused: a delegation can be undone, a role given back, and answers are taken for days."""
UNREAD: Final = Pause(timedelta(seconds=5), timedelta(minutes=2))
"""Of a dispute that could not be read."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """Tries that failed, the time before which there is no other, and the newest final block of the last."""

    tries: int
    until: datetime
    block: int


class DisputeBackoff:
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
        """Begin to count its failures once more."""
        self._known.pop((name, part), None)

    def tries(self, name: str, part: str) -> int:
        """How often it failed."""
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
        self._rests = DisputeBackoff()
        self._refusals: dict[tuple[str, str], str] = {}
        """Why receipts were left out, by dispute and provider, so that each reason is logged once."""
        self._tried: dict[str, _Tried] = {}
        """The last answer to each dispute that was handed out."""
        self._pruned: dict[str, str] = {}
        """Disputes for which the state was missing when they were last read, with the words of that."""

    @property
    def pruned(self) -> str:
        """Why disputes cannot be judged, if the chain's nodes lack the state for it; empty if none was found so."""
        return next(iter(self._pruned.values()), "")

    async def errands(
        self, ask_room: Callable[[], Awaitable[Room]], *, hand_out: bool = True
    ) -> tuple[Errand | None, Errand | None]:
        """What cannot wait, and what can, each in one transaction with the room that `ask_room` gives.

        Answers end, and a cancelled epoch must be closed before money is billed again. Other closings can wait: whoever
        opens many disputes must not put off everybody's next epoch. A dispute that cannot be read now is left for a
        later pass, and the others are served. Where a batch contract is, errands of one kind go into one transaction.
        With `hand_out` false they are only looked at: none of them counts as tried.
        """
        disputes = await self._escrow.disputes()
        names = {_name(dispute) for dispute in disputes}
        self._rests.keep(names)
        self._refusals = {key: why for key, why in self._refusals.items() if key[0] in names}
        self._tried = {name: tried for name, tried in self._tried.items() if name in names}
        self._pruned = {name: why for name, why in self._pruned.items() if name in names}
        if not disputes:
            return None, None
        room = await ask_room()
        batch = await self._batch() if len(disputes) > 1 else None
        look = _Look(self._escrow, self._ledger, disputes, await self._ledger.receipts(), self._clock.now(), room)
        ordered = sorted(disputes, key=lambda each: (each.deadline, each.epoch, each.tenant, each.provider))
        due = [each for each in ordered if not self._rests.resting(_name(each), _READ, look.now)]
        urgent, waiting = (_Load(room, bundled=batch is not None) for _ in range(2))
        for start in range(0, len(due), AT_ONCE):
            some, unread = due[start : start + AT_ONCE], look.unread
            for step in await for_each(lambda each: self._next(each, look), some):
                if step is not None:
                    (urgent if step.urgent else waiting).add(step)
            look.enough = waiting.full
            if urgent.full or look.unread - unread == len(some):
                # No more fits, or the chain is silent: then the next pass begins with others.
                break
        if hand_out:
            await self._remember(urgent.steps)
        return await self._errand(urgent, batch), await self._errand(waiting, batch)

    async def _errand(self, load: _Load, batch: str | None) -> Errand | None:
        """The transaction of a load; its first step alone if the bundle is refused though none of its steps was."""
        if batch is None or len(load.steps) < 2:
            return load.errand(self._escrow, None)
        bundle = load.errand(self._escrow, batch)
        try:
            if bundle is not None:
                await self._escrow.simulate(bundle.call)
        except (RevertedError, NotTakenError) as error:
            log.warning("the batch contract %s serves for nothing now, one step is taken alone: %s", batch, error)
            return load.errand(self._escrow, None)
        return bundle

    async def _batch(self) -> str | None:
        """The contract to bundle through; what is not known to be there is not used."""
        try:
            return await self._escrow.batch()
        except ChainUnreachableError as error:
            log.info("nothing is bundled now: %s", error)
            return None

    async def _remember(self, steps: Sequence[_Step]) -> None:
        """Keep what the signers of these answers had sent until now; without that nobody is suspected later."""
        signers = sorted({signer for step in steps for signer in step.signers})
        try:
            found = await for_each(self._escrow.nonces, signers, at_once=AT_ONCE)
        except ChainUnreachableError as error:
            log.info("the accounts of signers cannot be read now: %s", error)
            return
        nonces = {signer: each.latest for signer, each in zip(signers, found, strict=True)}
        for step in steps:
            if step.kind == ANSWER:
                self._tried[step.name] = _Tried(step.shows, {signer: nonces[signer] for signer in step.signers})

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
            if isinstance(error, StatePrunedError):
                self._pruned[name] = str(error)
            return None
        self._rests.well(name, _READ)
        self._pruned.pop(name, None)
        return step

    async def _step(self, dispute: DisputeState, look: _Look) -> _Step | None:
        state = await look.epoch(dispute.epoch)
        chain = await look.chain(dispute)
        if chain.paused:
            return None
        if state.cancelled or dispute.ruled or chain.clock >= dispute.deadline:
            if look.enough and not state.cancelled:
                return None
            return await self._close(dispute, look, chain, urgent=state.cancelled)
        if chain.clock >= dispute.deadline - await look.ruling() // 2:
            # No more receipts are taken: the arbiter has the other half to look at them.
            return None
        return await self._answer(dispute, look, chain)

    async def _close(self, dispute: DisputeState, look: _Look, chain: ChainSnapshot, *, urgent: bool) -> _Step | None:
        name = _name(dispute)
        if self._rests.resting(name, CLOSE, look.now, chain.block_number):
            return None
        call = self._escrow.call_close(dispute.epoch, dispute.tenant, dispute.provider)
        try:
            gas = await self._escrow.simulate(call)
        except RevertedError as error:
            log.warning("dispute %s cannot be closed now: %s", name, error)
            self._rests.failed(name, CLOSE, look.now, chain.block_number)
            return None
        return _Step(name, CLOSE, "", replace(call, gas=gas), urgent)

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
        judged = await asyncio.gather(*(self._verdict(name, each) for each in found))
        verdicts = {_part(each): verdict for each, verdict in zip(found, judged, strict=True) if verdict is not None}
        found = [each for each in found if _part(each) in verdicts]
        suspects = await self._suspects(dispute, verdicts)
        for part in suspects:
            self._rests.failed(name, part, look.now, chain.block_number)
        found = [each for each in found if _part(each) not in suspects]
        if self._backs(dispute, look, found, chain) <= dispute.shown:
            return None
        found, call = await self._fitting(dispute, found, look, chain)
        shows = self._backs(dispute, look, found, chain)
        if call is None or shows <= dispute.shown:
            return None
        signers = {verdicts[_part(each)].signer: verdicts[_part(each)].coded for each in found}
        return _Step(name, ANSWER, f":{shows}", call, urgent=True, shows=shows, signers=signers)

    def _backs(self, dispute: DisputeState, look: _Look, found: Sequence[ReceiptAnswer], chain: ChainSnapshot) -> int:
        return backed(dispute, look.disputes, found, chain)

    async def _suspects(self, dispute: DisputeState, verdicts: Mapping[str, ReceiptVerdict]) -> set[str]:
        """After an answer that came to nothing: the receipts that may have been in its way.

        They are those of accounts with code, which can change their mind, and of accounts that sent or authorized
        something since: each delegation counts as a transaction of its account (EIP-7702), also one that was undone
        before anybody could see it.
        """
        tried = self._tried.pop(_name(dispute), None)
        if tried is None or dispute.shown >= tried.shows:
            return set()
        log.warning("dispute %s: an answer that was sent had no effect", _name(dispute))
        nonces = await asyncio.gather(*(self._escrow.nonces(each.signer) for each in verdicts.values()))
        return {
            part
            for (part, verdict), each in zip(verdicts.items(), nonces, strict=True)
            if verdict.coded or each.latest != tried.nonces.get(verdict.signer, each.latest)
        }

    async def _verdict(self, name: str, shown: ReceiptAnswer) -> ReceiptVerdict | None:
        """The contract's word on both signatures if it takes them now: one that it does not would void all others."""
        key = name, shown.answer.provider
        try:
            verdict = await judge_receipt(self._escrow, shown.kept)
        except ChainUnreachableError as error:
            if self._rests.tries(name, _READ) < PATIENCE:
                raise
            # A contract that signs may answer each endpoint differently: that must not hold up the others.
            log.warning("dispute %s: the receipt of %s is left out, it cannot be judged now: %s", *key, error)
            return None
        if verdict.accepted:
            self._refusals.pop(key, None)
        elif self._refusals.get(key) != verdict.why:
            self._refusals[key] = verdict.why
            log.warning("dispute %s: the receipt of %s is left out: %s", *key, verdict.why)
        return verdict if verdict.accepted else None

    async def _fitting(
        self, dispute: DisputeState, found: list[ReceiptAnswer], look: _Look, chain: ChainSnapshot
    ) -> tuple[list[ReceiptAnswer], Call | None]:
        """What of these one transaction can show; several would not add up, as each has to show all that it backs."""
        while True:
            found, call = await self._taken(dispute, found, look, chain)
            if call is None or look.room.holds(call, call.gas) or len(found) == 1:
                return found, call
            count = len(fewer(found, share_that_fits(call.gas or None, look.room)))
            log.warning(
                "dispute %s: %d of %d receipts fit into one transaction; those that back the most are shown",
                _name(dispute),
                count,
                len(found),
            )
            found = most_telling(dispute, found, count, chain)

    async def _taken(
        self, dispute: DisputeState, found: list[ReceiptAnswer], look: _Look, chain: ChainSnapshot
    ) -> tuple[list[ReceiptAnswer], Call | None]:
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
        self, dispute: DisputeState, found: list[ReceiptAnswer], look: _Look, chain: ChainSnapshot, why: str
    ) -> list[ReceiptAnswer]:
        """The receipts that are not refused, of some that are refused together for that reason."""
        if len(found) == 1:
            log.warning("dispute %s: the receipt of %s is refused: %s", _name(dispute), found[0].answer.provider, why)
            self._rests.failed(_name(dispute), _part(found[0]), look.now, chain.block_number)
            return []
        good: list[ReceiptAnswer] = []
        middle = len(found) // 2
        for half in (found[:middle], found[middle:]):
            call, reason = await self._simulated(dispute, half)
            good += half if call is not None else await self._sound(dispute, half, look, chain, reason)
        return good

    async def _simulated(self, dispute: DisputeState, found: Sequence[ReceiptAnswer]) -> tuple[Call | None, str]:
        """The call with its gas, or why the contract refuses it; twice what fits for what no node would take."""
        answers = tuple(each.answer for each in found)
        call = self._escrow.call_answer(dispute.epoch, dispute.tenant, dispute.provider, answers)
        try:
            return replace(call, gas=await self._escrow.simulate(call)), ""
        except RevertedError as error:
            return None, str(error)
        except NotTakenError as error:
            if error.why is not Refusal.TOO_LARGE or len(found) < 2:
                raise
            return replace(call, gas=2 * MAX_TX_GAS), ""


class _Look:
    """What one pass reads, each thing once: disputes of one epoch or tenant share their reads."""

    def __init__(
        self,
        escrow: Escrow,
        ledger: Ledger,
        disputes: Sequence[DisputeState],
        receipts: Sequence[CountersignedReceipt],
        now: datetime,
        room: Room,
    ) -> None:
        self.disputes = disputes
        self.now = now
        self.room = room
        self.unread = 0
        """Disputes that could not be read in this pass."""
        self.enough = False
        """Whether no more closings are looked for that can wait."""
        self._escrow = escrow
        self._ledger = ledger
        self._receipts: dict[str, dict[Pair, CountersignedReceipt]] = {}
        for kept in receipts:
            self._receipts.setdefault(kept.receipt.tenant, {})[kept.pair] = kept
        self._reads: dict[tuple[object, ...], asyncio.Task[Any]] = {}

    def receipts_of(self, tenant: str) -> Mapping[Pair, CountersignedReceipt]:
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
        for header in await self._once(("epochs",), self._ledger.epoch_headers()):
            if header.chain_epoch == number:
                epoch = await self._ledger.epoch(header.number)
                return None if epoch is None else parse_manifest(epoch.draft.manifest)
        return None

    async def _once(self, key: tuple[object, ...], read: Coroutine[Any, Any, T]) -> T:
        if key in self._reads:
            read.close()
        else:
            self._reads[key] = asyncio.ensure_future(read)
        return cast("T", await self._reads[key])


def _name(dispute: DisputeState) -> str:
    return f"{dispute.epoch}:{dispute.tenant}:{dispute.provider}"


def _part(shown: ReceiptAnswer) -> str:
    """A receipt's name among those of one dispute; a newer receipt of the same provider does not rest for it."""
    return f"{shown.answer.provider}:{shown.kept.receipt.cumulative}"
