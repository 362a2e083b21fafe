"""``fedgpu settle dispute``: hold back a debit that is wrong while its epoch is in the window, and end disputes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.account_view import Shown, after_of, change_of, change_text
from fedgpu_operator.cli.account_view import document_of as document_of_account
from fedgpu_operator.cli.common import Output, OutputOption, print_data
from fedgpu_operator.cli.options import KeyOptions, ManifestOption, NoWaitOption, TargetOptions, flat
from fedgpu_operator.cli.settle_disputes import Facts, document_of, text_of
from fedgpu_operator.cli.wallets import allow, holds, say, session, usd
from fedgpu_operator.errors import ChainError, ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import TenantWallet
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.cli.wallets import Session
    from fedgpu_operator.domain.settlement import ChainSnapshot, Claim

app = typer.Typer(no_args_is_help=True, help="List, open and close disputes of what an epoch takes.")

_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)

ProviderOption = Annotated[
    str, typer.Option("--provider", help="Whose line is wrong: name of a GPUProvider, or its payout address.")
]
UnexplainedOption = Annotated[
    bool, typer.Option("--unexplained", help="No line explains the debit, or no manifest was published.")
]


def _list(target: TargetOptions, output: OutputOption = Output.TABLE) -> None:
    """List open disputes and exits, with what can be done about them until when."""
    document = asyncio.run(_listed(target))
    print_data(output, document, lambda: text_of(document))


def _open(
    target: TargetOptions,
    keys: KeyOptions,
    provider: ProviderOption = "",
    unexplained: UnexplainedOption = False,
    amount: Annotated[
        int | None, typer.Option("--amount", parser=usd, metavar="USD", help="How much is wrong; all unless given.")
    ] = None,
    evidence: Annotated[
        str, typer.Option("--evidence", help="A file, whose hash goes on the chain, or such a hash (0x…).")
    ] = "",
    approve: Annotated[bool, typer.Option("--approve", help="Let the escrow take the bond, by a transaction.")] = False,
    manifest: ManifestOption = "",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Dispute what the epoch in its window takes from you; the amount is held, and a bond with it."""
    if bool(provider) == unexplained:
        raise ConfigurationError("say what is wrong: the line of a --provider, or an --unexplained debit")
    proof = evidence_hash(evidence)
    document = asyncio.run(_opened(target, keys, provider, amount, proof, approve, manifest, wait=not no_wait))
    print_data(output, document, lambda: change_text(document))


def _close(
    target: TargetOptions,
    keys: KeyOptions,
    epoch: Annotated[int, typer.Option("--epoch", min=1, help="The disputed epoch, by its number on the chain.")],
    tenant: Annotated[str, typer.Option("--tenant", help="Who disputed, an address; you unless given.")] = "",
    provider: ProviderOption = "",
    unexplained: UnexplainedOption = False,
    no_wait: NoWaitOption = False,
) -> None:
    """End a dispute that is ruled, past its deadline, or of a cancelled epoch; anybody may."""
    if bool(provider) == unexplained:
        raise ConfigurationError("say which dispute: that of a --provider, or the --unexplained one")
    asyncio.run(_closed(target, keys, epoch, tenant, provider, wait=not no_wait))


app.command("list")(flat(_list))
app.command("open")(flat(_open))
app.command("close")(flat(_close))


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
        raise ConfigurationError(f"--evidence: {given} is no hash, and no file that can be read") from error
    say(f"evidence: {given} has the hash {digest}; keep the file, the arbiter will ask for it")
    return digest


async def _listed(given: TargetOptions) -> JSONObject:
    from fedgpu_operator.adapters.chain import EscrowClient
    from fedgpu_operator.cli.target import find_target

    target = await find_target(given)
    async with EscrowClient(target.rpc, target.escrow, target.chain_id) as escrow:
        chain = await escrow.snapshot([], [])
        return document_of(Facts(chain, await escrow.terms(), await escrow.disputes(), await escrow.exits()))


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
    from fedgpu_operator.cli.wallet_names import provider_wallet
    from fedgpu_operator.domain.money import format_usd

    keys.check()
    provider = await provider_wallet(named, given.context) if named else ""
    async with session(TenantWallet, given, keys) as at:
        me = str(at.wallet.address)
        # Of one epoch: what was disputed in another says nothing of this.
        epoch = (await at.escrow.snapshot([], [], "latest")).head_epoch
        disputed = {"epoch": epoch, "provider": provider or NOBODY, "amount": amount or 0, "evidence": evidence}
        order = at.order("settle dispute open", "dispute", disputed)

        async def act() -> str:
            chain = await at.escrow.snapshot([me], [(me, provider)] if provider else [], "latest")
            if chain.head_is_active:
                raise ChainError("no epoch is in its challenge window, so there is nothing to dispute")
            leaf = await _leaf(given, place, chain, me, provider) if provider else None
            units = _units(chain, me, leaf, amount)
            if (chain.head_epoch, me, provider or NOBODY) in await _disputed(at):
                raise ChainError(
                    f"you dispute that in epoch {chain.head_epoch} already: once for each provider is possible"
                )
            bond = await at.wallet.bond_for(at.escrow.escrow, units)
            order.details.update(
                epoch=chain.head_epoch,
                bond=format_usd(bond),
                before=document_of_account(Shown(chain.accounts[me], await at.tokens())),
            )
            say(f"dispute: {format_usd(units)} USD of epoch {chain.head_epoch}, with a bond of {format_usd(bond)} USD")
            await holds(at, bond)
            await at.needs_gas()
            await allow(at, bond, approve=approve)
            return await _sent(at, leaf, units, evidence)

        sent = await at.once(order, act)
        counted = await at.final("dispute", sent, wait=wait)
        after = await after_of(at) if counted else None
        known = sent.details
        return {
            "epoch": known["epoch"],
            "bond": known["bond"],
            **change_of(me, known["before"], after, counted.tx_hash if counted else sent.tx_hash),
        }


async def _disputed(at: Session[TenantWallet]) -> set[tuple[int, str, str]]:
    return {(each.epoch, each.tenant, each.provider) for each in await at.escrow.disputes()}


async def _sent(at: Session[TenantWallet], leaf: Claim | None, units: int, evidence: str) -> str:
    if leaf is None:
        return await at.wallet.dispute_debit(at.escrow.escrow, units, evidence)
    return await at.wallet.dispute(at.escrow.escrow, leaf, units, evidence)


async def _leaf(given: TargetOptions, place: str, chain: ChainSnapshot, tenant: str, provider: str) -> Claim:
    """The provider's leaf that holds the tenant's line, out of a manifest that has the epoch's very root."""
    from fedgpu_operator.cli.manifests import plan_of_root
    from fedgpu_operator.settlement import claims

    plan = await plan_of_root(given, place, chain.head_epoch, chain.head_root)
    for leaf in claims(plan, provider):
        if any(line.tenant == tenant for line in leaf.lines):
            return leaf
    raise ChainError(
        f"epoch {chain.head_epoch} has no line of {tenant} for {provider}: where it debits you all the same, "
        "dispute that with --unexplained"
    )


def _units(chain: ChainSnapshot, tenant: str, leaf: Claim | None, amount: int | None) -> int:
    """How much is to be disputed, in µUSD; ChainError where that is nothing, or more than can be."""
    from fedgpu_operator.domain.money import format_usd

    most = _disputable(chain, tenant, leaf)
    units = most if amount is None else amount
    if not 0 < units <= most:
        raise ChainError(f"{format_usd(most)} USD can be disputed there, asked for are {format_usd(units)} USD")
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
    from fedgpu_operator.cli.target import address
    from fedgpu_operator.cli.wallet_names import provider_wallet

    keys.check()
    provider = await provider_wallet(named, given.context) if named else NOBODY
    async with session(TenantWallet, given, keys) as at:
        who = address("--tenant", tenant) if tenant else str(at.wallet.address)

        async def act() -> str:
            await _closable(at, (epoch, who, provider))
            await at.needs_gas()
            return await at.wallet.close(at.escrow.escrow, epoch, who, provider)

        disputed = {"epoch": epoch, "tenant": who, "provider": provider}
        order = at.order("settle dispute close", "close", disputed)
        await at.final("close", await at.once(order, act), wait=wait)


async def _closable(at: Session[TenantWallet], key: tuple[int, str, str]) -> None:
    """ChainError in words where the contract would refuse to close the dispute yet, or there is none."""
    epoch, tenant, _ = key
    facts = Facts(await at.escrow.snapshot([], []), at.terms, await at.escrow.disputes(), ())
    found = [each for each in facts.disputes if (each.epoch, each.tenant, each.provider) == key]
    if not found:
        raise ChainError(f"{tenant} has no such dispute of epoch {epoch} that is final and open")
    cancelled = (await at.escrow.finalized_epoch(epoch)).cancelled
    if not (found[0].ruled or cancelled or facts.chain.clock >= found[0].deadline):
        raise ChainError(f"it can be closed when it is ruled, or from {facts.real(found[0].deadline)} on")
