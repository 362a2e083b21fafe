"""``fedgpu settle dispute``: list, open and close disputes of what an epoch debits."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.account import AccountView, account_document, change_document, change_text
from fedgpu_operator.cli.common import (
    KeyOptions,
    ManifestOption,
    NoWaitOption,
    Output,
    OutputOption,
    TargetOptions,
    address,
    instant,
    open_escrow,
    plain_table,
    print_data,
    register,
    say,
    usd,
)
from fedgpu_operator.cli.manifests import plan_of_root
from fedgpu_operator.cli.wallets import allow, provider_wallet, require_tokens, session
from fedgpu_operator.errors import ChainError, ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import WalletSession
    from fedgpu_operator.domain.settlement import ChainSnapshot, Claim, DisputeState, ExitState
    from fedgpu_operator.domain.terms import EscrowTerms


ZERO: Final = "0x" + "00" * 20

app = typer.Typer(no_args_is_help=True, help="List, open and close disputes of debits.")

_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)

ProviderOption = Annotated[
    str, typer.Option("--provider", help="GPUProvider whose line is disputed, by name or payout address.")
]
UnexplainedOption = Annotated[
    bool, typer.Option("--unexplained", help="Dispute a debit that no line explains, or without a manifest.")
]


@register(app, "list")
def list_disputes(target: TargetOptions, output: OutputOption = Output.TABLE) -> None:
    """List open disputes and exits. With the next step of each and its deadline."""

    async def read() -> JSONObject:
        async with open_escrow(target) as escrow:
            chain = await escrow.snapshot([], [])
            return cases_document(OpenCases(chain, await escrow.terms(), await escrow.disputes(), await escrow.exits()))

    document = asyncio.run(read())
    print_data(output, document, lambda: cases_text(document))


@register(app, "open")
def open_dispute(
    target: TargetOptions,
    keys: KeyOptions,
    provider: ProviderOption = "",
    unexplained: UnexplainedOption = False,
    amount: Annotated[
        int | None, typer.Option("--amount", parser=usd, metavar="USD", help="Amount to dispute; default: all of it.")
    ] = None,
    evidence: Annotated[
        str, typer.Option("--evidence", help="File with evidence, whose hash goes on the chain, or that hash.")
    ] = "",
    approve: Annotated[bool, typer.Option("--approve", help="Approve the bond first, by a transaction.")] = False,
    manifest: ManifestOption = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Open a dispute of what an epoch debits from you.

    Possible while the epoch is in its challenge window; the amount and a bond are held.
    """
    if bool(provider) == unexplained:
        raise ConfigurationError("no single debit to dispute given: give --provider or --unexplained")
    proof = evidence_hash(evidence)
    document = asyncio.run(_opened(target, keys, provider, amount, proof, approve, manifest, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))


@register(app, "close")
def close_dispute(
    target: TargetOptions,
    keys: KeyOptions,
    epoch: Annotated[int, typer.Option("--epoch", min=1, help="Number of the disputed epoch on the chain.")],
    tenant: Annotated[str, typer.Option("--tenant", help="Address of the tenant; default: yours.")] = "",
    provider: ProviderOption = "",
    unexplained: UnexplainedOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """Close a dispute.

    Possible after its ruling or its deadline, or if its epoch was cancelled. Anybody can close it.
    """
    if bool(provider) == unexplained:
        raise ConfigurationError("no single dispute given: give --provider or --unexplained")
    asyncio.run(_closed(target, keys, epoch, tenant, provider, wait=not no_wait))


def evidence_hash(given: str) -> str:
    """The 32 bytes that stand for the evidence on the chain: as given, or keccak-256 of the file; zero for none."""
    from eth_utils.crypto import keccak

    from fedgpu_operator.domain.settlement import ZERO_HASH

    if not given:
        return ZERO_HASH
    if _HASH.fullmatch(given):
        return given.lower()
    try:
        digest = "0x" + keccak(Path(given).read_bytes()).hex()
    except OSError as error:
        raise ConfigurationError(f"--evidence: {given} is neither a hash nor a file: {error.strerror}") from error
    say(f"evidence: {given} has the hash {digest}; keep the file, the arbiter will ask for it")
    return digest


async def _opened(
    given: TargetOptions,
    keys: KeyOptions,
    named: str,
    amount: int | None,
    evidence: str,
    approve: bool,
    place: str,
    *,
    wait: bool,
) -> JSONObject:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.adapters.chain.calls import NOBODY
    from fedgpu_operator.domain.money import format_usd

    keys.check()
    provider = await provider_wallet(named, given.context) if named else ""
    async with session(TenantWallet, given, keys) as at:
        me = str(at.wallet.address)
        # Of one epoch: a dispute in another is another order.
        epoch = (await at.escrow.snapshot([], [], "latest")).head_epoch
        disputed = {"epoch": epoch, "provider": provider or NOBODY, "amount": amount or 0, "evidence": evidence}
        order = at.order("settle dispute open", "dispute", disputed)

        async def act() -> str:
            chain = await at.escrow.snapshot([me], [(me, provider)] if provider else [], "latest")
            if chain.head_is_active:
                raise ChainError("nothing to dispute: no epoch is in its challenge window")
            leaf = await _leaf(given, place, chain, me, provider) if provider else None
            units = _units(chain, me, leaf, amount)
            disputes = {(each.epoch, each.tenant, each.provider) for each in await at.escrow.disputes()}
            if (chain.head_epoch, me, provider or NOBODY) in disputes:
                raise ChainError(f"already disputed in epoch {chain.head_epoch}: one dispute per provider is possible")
            bond = await at.wallet.bond_for(at.escrow.escrow, units)
            order.details.update(
                epoch=chain.head_epoch,
                bond=format_usd(bond),
                before=account_document(AccountView(chain.accounts[me], await at.tokens())),
            )
            say(f"dispute: {format_usd(units)} USD of epoch {chain.head_epoch}, with a bond of {format_usd(bond)} USD")
            await require_tokens(at, bond)
            await at.require_gas()
            await allow(at, bond, approve=approve)
            if leaf is None:
                return await at.wallet.dispute_debit(at.escrow.escrow, units, evidence)
            return await at.wallet.dispute(at.escrow.escrow, leaf, units, evidence)

        sent = await at.once(order, act)
        known = sent.details
        change = await change_document(at, order.what, sent, wait=wait)
        return {"epoch": known["epoch"], "bond": known["bond"], **change}


async def _leaf(given: TargetOptions, place: str, chain: ChainSnapshot, tenant: str, provider: str) -> Claim:
    """The provider's leaf that holds the tenant's line, out of a manifest that has the epoch's very root."""
    from fedgpu_operator.settlement import claims

    plan = await plan_of_root(given, place, chain.head_epoch, chain.head_root)
    for leaf in claims(plan, provider):
        if any(line.tenant == tenant for line in leaf.lines):
            return leaf
    raise ChainError(
        f"epoch {chain.head_epoch} has no line of {tenant} for {provider}; if it debits you nevertheless, use "
        "--unexplained"
    )


def _units(chain: ChainSnapshot, tenant: str, leaf: Claim | None, amount: int | None) -> int:
    """How much to dispute, in µUSD; ChainError if that is nothing, or more than possible."""
    from fedgpu_operator.domain.money import format_usd

    most = _disputable(chain, tenant, leaf)
    units = most if amount is None else amount
    if not most:
        raise ChainError("nothing to dispute: nothing of it is pending")
    if not 0 < units <= most:
        raise ChainError(f"wrong amount: up to {format_usd(most)} USD can be disputed, not {format_usd(units)} USD")
    return units


def _disputable(chain: ChainSnapshot, tenant: str, leaf: Claim | None) -> int:
    """What the contract lets this tenant dispute: of a line what is unpaid, and never more than is pending."""
    pending = chain.accounts[tenant].pending
    if leaf is None:
        return pending
    shown = sum(line.cumulative for line in leaf.lines if line.tenant == tenant)
    return min(pending, max(0, shown - chain.books[tenant, leaf.provider].base))


async def _closed(given: TargetOptions, keys: KeyOptions, epoch: int, tenant: str, named: str, *, wait: bool) -> None:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.adapters.chain.calls import NOBODY

    keys.check()
    provider = await provider_wallet(named, given.context) if named else NOBODY
    async with session(TenantWallet, given, keys) as at:
        who = address("--tenant", tenant) if tenant else str(at.wallet.address)

        async def act() -> str:
            await _closable(at, (epoch, who, provider))
            await at.require_gas()
            return await at.wallet.close(at.escrow.escrow, epoch, who, provider)

        disputed = {"epoch": epoch, "tenant": who, "provider": provider}
        order = at.order("settle dispute close", "close", disputed)
        await at.final("close", await at.once(order, act), wait=wait)


async def _closable(at: WalletSession[TenantWallet], key: tuple[int, str, str]) -> None:
    """ChainError in words if the contract would refuse to close the dispute yet, or there is none."""
    epoch, tenant, _ = key
    cases = OpenCases(await at.escrow.snapshot([], []), at.terms, await at.escrow.disputes(), ())
    found = [each for each in cases.disputes if (each.epoch, each.tenant, each.provider) == key]
    if not found:
        raise ChainError(f"dispute not found: {tenant} has no such dispute of epoch {epoch} that is final and open")
    cancelled = (await at.escrow.finalized_epoch(epoch)).cancelled
    if not (found[0].ruled or cancelled or cases.chain.clock >= found[0].deadline):
        raise ChainError(f"dispute not ruled yet: close it after the ruling, or after {cases.real(found[0].deadline)}")


@dataclass(frozen=True, slots=True)
class OpenCases:
    """What is open at one block. Deadlines are times of the settlement clock, which a pause stops."""

    chain: ChainSnapshot
    terms: EscrowTerms
    disputes: tuple[DisputeState, ...]
    exits: tuple[ExitState, ...]

    def real(self, clock: int) -> str:
        """When the settlement clock will show that time, if nobody pauses it (again)."""
        return instant(self.chain.timestamp + clock - self.chain.clock)


def cases_document(cases: OpenCases) -> JSONObject:
    """Open disputes and exits as data."""
    return {
        "escrow": cases.chain.escrow,
        "block": cases.chain.block_number,
        "at": instant(cases.chain.timestamp),
        "paused": cases.chain.paused,
        "disputes": [_dispute(each, cases) for each in cases.disputes],
        "exits": [_exit(each, cases) for each in cases.exits],
    }


def _dispute(each: DisputeState, cases: OpenCases) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    answers_end, over = each.deadline - cases.terms.periods.ruling // 2, cases.chain.clock >= each.deadline
    if each.ruled or over:
        next_step = "close"
    elif cases.chain.clock < answers_end:
        next_step = f"answer until {cases.real(answers_end)}"
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
        "deadline": cases.real(each.deadline),
        "next": next_step,
    }


def _exit(each: ExitState, cases: OpenCases) -> JSONObject:
    from fedgpu_operator.domain.money import format_usd

    waits = each.disputed and not each.ruled
    due = each.active_at + (cases.terms.periods.ruling if waits else 0)
    return {
        "tenant": each.tenant,
        "provider": each.provider,
        "amount": format_usd(each.amount),
        "disputed": each.disputed,
        "ruled": each.ruled,
        "due": cases.real(due),
        "next": "finish" if cases.chain.clock >= due else "ruling" if waits else "wait, or dispute",
    }


def cases_text(document: JSONObject) -> list[Table | str]:
    """The same for people."""
    head = f"escrow {document['escrow']}, block {document['block']} of {document['at']}, final"
    parts: list[Table | str] = [head]
    if document["paused"]:
        parts.append("Settlement is paused: the deadlines below are postponed until it resumes.")
    if not document["disputes"] and not document["exits"]:
        return [*parts, "No open disputes or exits."]
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
