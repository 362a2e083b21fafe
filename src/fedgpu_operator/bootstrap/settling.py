"""Opens what settlement needs (signers, endpoints, the escrow's fixed terms) and builds the loops that settle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.chain.remotesigner import RemoteSigner
from fedgpu_operator.adapters.chain.rpc import Endpoints
from fedgpu_operator.adapters.chain.signers import LocalSigner, Signer, load_key
from fedgpu_operator.bootstrap.meter import load_meter
from fedgpu_operator.domain.terms import Role
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ConfigurationError,
    StatePrunedError,
)
from fedgpu_operator.hub.loops.accounts import AccountLoop
from fedgpu_operator.hub.loops.receipts import ReceiptLoop
from fedgpu_operator.hub.loops.retention import EpochShelf
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.hub.loops.settler import SettlerWatch
from fedgpu_operator.hub.services.recovery import LedgerCheck
from fedgpu_operator.hub.services.terms import FATAL, Obstacle, TermsSource
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics
from fedgpu_operator.pulse import Pass
from fedgpu_operator.settings import ChainSettings, Settings, SignerSettings
from fedgpu_operator.settlement import Terms, Thresholds
from fedgpu_operator.settlement.typeddata import escrow_domain

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0


PATIENCE_SECONDS = 15.0
"""How long the start waits for a chain or a signer that does not answer; after that the operator starts without."""
LONGEST_READ_SECONDS = 15.0
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Settling:
    """The escrow with who signs for it, and what is known of its terms."""

    chain: ChainSettings
    escrow: EscrowClient
    meter: LocalSigner | None
    terms: TermsSource

    @property
    def own_addresses(self) -> list[str]:
        """The operator's accounts: no provider may sign with one of them."""
        found = (self.escrow.address, self.meter.address if self.meter is not None else None)
        return [address for address in found if address]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.escrow.aclose()


async def open_settling(chain: ChainSettings, clock: Clock) -> Settling:
    """Load the keys, open the escrow and check it; raises ConfigurationError or ChainMismatchError.

    A chain or a signer that does not answer within PATIENCE_SECONDS stops nothing: computing goes on, and what is not
    known is read again before anything is settled.
    """
    settler = await _signer(chain.settler, chain.ca_file)
    meter = await load_meter(chain, settler.address)
    escrow = EscrowClient(
        Endpoints(tuple(url.get_secret_value() for url in chain.rpc_urls), chain.ca_file),
        chain.escrow,
        chain.chain_id,
        settler,
        quorum=chain.rpc_quorum,
        from_block=chain.first_block,
        batch=chain.batch,
    )
    holders: dict[Role, str] = {"SETTLER": settler.address}
    if meter is not None:
        holders["METER"] = meter.address
    terms = TermsSource(
        escrow,
        clock,
        every=chain.epoch_seconds,
        at_most=chain.max_epoch_seconds,
        holders=holders,
        check_signer=settler.check if isinstance(settler, RemoteSigner) else None,
    )
    try:
        await await_terms(terms)
    except BaseException:
        await escrow.aclose()
        raise
    return Settling(chain, escrow, meter, terms)


async def await_terms(terms: TermsSource) -> None:
    """Read all terms, or what answers within PATIENCE_SECONDS.

    Raises ChainMismatchError for another escrow, ConfigurationError for terms that the settings contradict.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while True:
        trouble = await _try_to_read(terms)
        for obstacle in FATAL:
            if text := terms.obstacles.get(obstacle):
                raise ConfigurationError(text)
        if terms.complete:
            return
        if loop.time() >= deadline:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    if text := terms.obstacles.get(Obstacle.STATE_PRUNED):
        raise ConfigurationError(text)
    if trouble:
        log.warning("the chain does not answer at start; computing goes on, settlement waits: %s", trouble)
    else:
        log.warning("roles or signer could not be checked at start and are checked later: %s", terms.unchecked)


async def _try_to_read(terms: TermsSource) -> str:
    """Why the terms are not all known, empty if they are; raises ChainMismatchError."""
    try:
        # Each request has its own limit, and many that are slow are a long time: probes end a start that hangs.
        async with asyncio.timeout(LONGEST_READ_SECONDS):
            await terms.read()
    except ChainMismatchError:
        raise
    except ChainError as error:
        return str(error)
    except TimeoutError:
        return f"not everything was answered within {LONGEST_READ_SECONDS:g} s"
    return ""


async def _signer(settings: SignerSettings, ca_file: Path | None) -> Signer:
    if settings.key_file is not None:
        return await load_key(settings.key_file)
    if settings.keystore is not None:
        return await load_key(settings.keystore, settings.password_file)
    if settings.url is None or settings.address is None:
        raise ConfigurationError("the settler has no key: set FEDGPU_SETTLER_KEY_FILE")
    return RemoteSigner(settings.url.get_secret_value(), settings.address, ca_file=ca_file)


def thresholds(settings: Settings, settling: Settling | None) -> Callable[[], Thresholds]:
    """When an account counts as running dry, as far as the escrow's terms are known at each call."""

    def now() -> Thresholds:
        lag = settling.terms.lag if settling is not None else float("inf")
        return Thresholds(warn=settings.funding_warn_seconds, checkpoint=settings.funding_checkpoint_seconds, lag=lag)

    return now


class SettlementPass:
    """One pass of the settlement loop, which is made once the escrow's terms are known: nothing is sent before."""

    def __init__(
        self, terms: TermsSource, coins: SettlerWatch, metrics: Metrics, make: Callable[[], SettlementLoop]
    ) -> None:
        self._terms = terms
        self._coins = coins
        self._metrics = metrics
        self._make = make
        self._loop: SettlementLoop | None = None

    async def pass_once(self) -> float | None:
        """Read what of the terms is missing, then settle; raises ChainError while they are not known."""
        pruned = False
        try:
            await self._terms.read()
            if self._loop is None:
                self._loop = self._make()
            # First, because a settler without coins is why a pass may fail.
            await self._coins.look()
            return await self._loop.pass_once()
        except StatePrunedError:
            pruned = True
            raise
        finally:
            pruned = pruned or bool(self._loop is not None and self._loop.pruned)
            now = {*self._terms.obstacles, *([Obstacle.STATE_PRUNED] if pruned else [])}
            self._metrics.obstacles({each.value: each in now for each in Obstacle})


def settling_passes(
    settings: Settings,
    settling: Settling,
    kube: Kube,
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
    *,
    proofs: ProofBook,
    check: LedgerCheck,
) -> dict[str, Pass]:
    """One pass of each loop that settles, by its name."""
    chain, escrow = settling.chain, settling.escrow
    poll = min(POLL_SECONDS, chain.epoch_seconds)
    accounts = AccountLoop(
        kube, ledger, escrow, clock, proofs=proofs, poll=poll, thresholds=thresholds(settings, settling)
    )

    def settlement() -> SettlementLoop:
        return SettlementLoop(
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
            opens=lambda: check.settles,
        )

    coins = SettlerWatch(
        kube, ledger, escrow, clock, metrics, fee_cap=chain.fee_cap_wei, warn=chain.settler_warn_seconds
    )
    passes: dict[str, Pass] = {
        "accounts": accounts.pass_once,
        "settlement": check.looked_at(SettlementPass(settling.terms, coins, metrics, settlement).pass_once),
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
        passes["receipts"] = check.held_back(receipts.pass_once)
    return passes


def epoch_shelf(settings: Settings, settling: Settling, kube: Kube, ledger: Ledger, clock: Clock) -> EpochShelf:
    """What deletes the objects of old epochs."""
    return EpochShelf(
        kube,
        ledger,
        settling.escrow,
        clock,
        namespace=settings.namespace,
        keep=settling.chain.epoch_retention_seconds,
    )


def _terms(settling: Settling) -> Terms:
    chain = settling.chain
    return Terms(
        every=timedelta(seconds=settling.terms.every),
        at_most=timedelta(seconds=settling.terms.longest),
        min_payout=chain.min_payout,
        native_usd=chain.native_usd,
        max_cost_share=chain.max_cost_share,
    )
