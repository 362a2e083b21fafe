"""Opens what settlement needs (signers, endpoints, the escrow's fixed terms) and builds the loops that settle."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.chain.remotesigner import RemoteSigner
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer, load_key
from fedgpu_operator.bootstrap.meter import load_meter
from fedgpu_operator.domain.terms import Role
from fedgpu_operator.errors import ChainUnreachableError, ConfigurationError
from fedgpu_operator.hub.accounts import AccountLoop
from fedgpu_operator.hub.proofs import ProofBook
from fedgpu_operator.hub.receipts import ReceiptLoop
from fedgpu_operator.hub.settlement import SettlementLoop
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics
from fedgpu_operator.settings import ChainSettings, Settings, SignerSettings
from fedgpu_operator.settlement import Terms, Thresholds, lag_of
from fedgpu_operator.settlement.typeddata import escrow_domain

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settling:
    """The escrow with who signs for it; `longest` is the longest epoch in seconds, `lag` see Thresholds."""

    chain: ChainSettings
    escrow: EscrowClient
    meter: LocalSigner | None
    longest: float
    lag: float

    @property
    def own_addresses(self) -> list[str]:
        """The operator's accounts: no provider may sign with one of them."""
        found = (self.escrow.address, self.meter.address if self.meter is not None else None)
        return [address for address in found if address]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.escrow.aclose()


async def open_settling(chain: ChainSettings) -> Settling:
    """Load the keys, open the escrow and check it; raises ConfigurationError or ChainMismatchError.

    A chain that does not answer stops nothing: computing goes on, and it is checked when it is back.
    """
    settler = await _signer(chain.settler)
    meter = await load_meter(chain, settler.address)
    escrow = EscrowClient(chain.rpc_urls, chain.escrow, chain.chain_id, settler, quorum=chain.rpc_quorum)
    longest, lag = chain.max_epoch_seconds, float("inf")
    try:
        await escrow.verify()
        periods = await escrow.periods()
    except ChainUnreachableError as error:
        log.warning("the chain does not answer at start; computing goes on, settlement waits: %s", error)
    except BaseException:
        await escrow.aclose()
        raise
    else:
        # Tenants' notice is built on the contract's longest epoch: to wait longer would let money go that is owed.
        if chain.epoch_seconds > periods.longest_epoch:
            await escrow.aclose()
            raise ConfigurationError(
                f"FEDGPU_EPOCH_SECONDS: the escrow is made for epochs of at most {periods.longest_epoch} s: a tenant "
                "could take out what is not debited by then; set no more than that"
            )
        longest = min(longest, periods.longest_epoch)
        lag = lag_of(longest, periods.challenge)
        await _warn_of_missing_roles(escrow, settler, meter)
    return Settling(chain, escrow, meter, longest, lag)


async def _warn_of_missing_roles(escrow: EscrowClient, settler: Signer, meter: LocalSigner | None) -> None:
    """Say it early: without its role the settler's posts are refused, and the meter's receipts back nothing."""
    holders: list[tuple[Role, str]] = [("SETTLER", settler.address)]
    if meter is not None:
        holders.append(("METER", meter.address))
    for role, account in holders:
        if not await escrow.holds_role(role, account):
            log.warning("%s does not hold the role %s of the escrow %s (yet)", account, role, escrow.escrow)


async def _signer(settings: SignerSettings) -> Signer:
    if settings.key_file is not None:
        return await load_key(settings.key_file)
    if settings.keystore is not None:
        return await load_key(settings.keystore, settings.password_file)
    if not settings.url:
        raise ConfigurationError("the settler has no key: set FEDGPU_SETTLER_KEY_FILE")
    remote = RemoteSigner(settings.url, settings.address)
    await remote.check()
    return remote


def thresholds(settings: Settings, settling: Settling | None) -> Thresholds:
    """When an account counts as running dry."""
    lag = settling.lag if settling is not None else float("inf")
    return Thresholds(warn=settings.funding_warn_seconds, checkpoint=settings.funding_checkpoint_seconds, lag=lag)


def settling_passes(
    settings: Settings,
    settling: Settling,
    kube: Kube,
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
    *,
    proofs: ProofBook,
) -> dict[str, Callable[[], Awaitable[float | None]]]:
    """One pass of each loop that settles, by its name."""
    chain, escrow = settling.chain, settling.escrow
    poll = min(POLL_SECONDS, chain.epoch_seconds)
    accounts = AccountLoop(
        kube, ledger, escrow, clock, proofs=proofs, poll=poll, thresholds=thresholds(settings, settling)
    )
    settlement = SettlementLoop(
        kube,
        ledger,
        escrow,
        clock,
        metrics,
        namespace=settings.namespace,
        terms=_terms(settling),
        fee_cap=chain.fee_cap_wei,
        poll=poll,
        auto_claim=chain.auto_claim,
    )
    passes: dict[str, Callable[[], Awaitable[float | None]]] = {
        "accounts": accounts.pass_once,
        "settlement": settlement.pass_once,
    }
    if settling.meter is not None:
        domain = escrow_domain(escrow.chain_id, escrow.escrow)
        receipts = ReceiptLoop(
            kube,
            ledger,
            clock,
            proofs=proofs,
            meter=settling.meter,
            rules=escrow,
            domain=domain,
            interval=chain.epoch_seconds,
        )
        passes["receipts"] = receipts.pass_once
    return passes


def _terms(settling: Settling) -> Terms:
    chain = settling.chain
    return Terms(
        every=timedelta(seconds=chain.epoch_seconds),
        at_most=timedelta(seconds=settling.longest),
        min_payout=chain.min_payout,
        native_usd=chain.native_usd,
        max_cost_share=chain.max_cost_share,
    )
