"""How open disputes and exits are shown: what is held, and what can happen until when; reads and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedgpu_operator.cli.common import plain_table
from fedgpu_operator.cli.wallets import instant

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.domain.settlement import ChainSnapshot, DisputeState, ExitState
    from fedgpu_operator.domain.terms import EscrowTerms

ZERO = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What is open at one block. Deadlines are times of the settlement clock, which a pause stops."""

    chain: ChainSnapshot
    terms: EscrowTerms
    disputes: tuple[DisputeState, ...]
    exits: tuple[ExitState, ...]

    def real(self, clock: int) -> str:
        """When the settlement clock will show that time, if nobody pauses it (again)."""
        return instant(self.chain.timestamp + clock - self.chain.clock)


def document_of(facts: Facts) -> JSONObject:
    """Open disputes and exits as data."""
    return {
        "escrow": facts.chain.escrow,
        "block": facts.chain.block_number,
        "at": instant(facts.chain.timestamp),
        "paused": facts.chain.paused,
        "disputes": [_dispute(each, facts) for each in facts.disputes],
        "exits": [_exit(each, facts) for each in facts.exits],
    }


def _dispute(each: DisputeState, facts: Facts) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    answers_end, over = each.deadline - facts.terms.periods.ruling // 2, facts.chain.clock >= each.deadline
    if each.ruled or over:
        next_step = "close"
    elif facts.chain.clock < answers_end:
        next_step = f"answer until {facts.real(answers_end)}"
    else:
        next_step = "ruling"
    return {
        "epoch": each.epoch,
        "tenant": each.tenant,
        "provider": None if each.provider == ZERO else each.provider,
        "amount": format_usd(each.amount),
        "shown": format_usd(each.shown),
        "bond": format_usd(each.bond),
        "ruled": each.ruled,
        "deadline": facts.real(each.deadline),
        "next": next_step,
    }


def _exit(each: ExitState, facts: Facts) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    waits = each.disputed and not each.ruled
    due = each.active_at + (facts.terms.periods.ruling if waits else 0)
    return {
        "tenant": each.tenant,
        "provider": each.provider,
        "amount": format_usd(each.amount),
        "disputed": each.disputed,
        "ruled": each.ruled,
        "due": facts.real(due),
        "next": "finish" if facts.chain.clock >= due else "ruling" if waits else "wait, or dispute",
    }


def text_of(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    head = f"escrow {document['escrow']}, block {document['block']} of {document['at']}, final"
    parts: list[Table | str] = [head]
    if document["paused"]:
        parts.append("Settlement is paused: the times below move on with it.")
    if not document["disputes"] and not document["exits"]:
        return [*parts, "Nothing is disputed, and no provider is leaving."]
    if document["disputes"]:
        figures = ("EPOCH", "AMOUNT", "SHOWN", "BOND")
        table = plain_table("EPOCH", "TENANT", "PROVIDER", "AMOUNT", "SHOWN", "BOND", "DEADLINE", "NEXT", right=figures)
        for each in document["disputes"]:
            who = (str(each["epoch"]), each["tenant"], each["provider"] or "unexplained")
            table.add_row(*who, *(each[name] for name in ("amount", "shown", "bond", "deadline", "next")))
        parts += ["", table]
    if document["exits"]:
        table = plain_table("EXIT OF", "FROM TENANT", "AMOUNT", "DUE", "NEXT", right=("AMOUNT",))
        for each in document["exits"]:
            table.add_row(*(each[name] for name in ("provider", "tenant", "amount", "due", "next")))
        parts += ["", table]
    return parts
