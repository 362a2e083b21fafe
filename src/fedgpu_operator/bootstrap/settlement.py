"""Opens what settlement needs: signers, endpoints and the escrow's terms; nothing is settled before these are known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.chain.rpc import Endpoints
from fedgpu_operator.adapters.chain.signers import LocalSigner, RemoteSigner, Signer, load_key
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.domain.terms import Role
from fedgpu_operator.errors import ChainError, ChainMismatchError, ConfigurationError, StatePrunedError
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.hub.services.escrow import FATAL, Obstacle, TermsSource
from fedgpu_operator.hub.services.settler import SettlerWatch
from fedgpu_operator.ports import Clock, LeaderCheck, Metrics, always
from fedgpu_operator.settings import ChainSettings, SignerSettings
from fedgpu_operator.settlement import Terms

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 15.0
"""How long the start waits for a chain or a signer that does not answer; after that the operator starts without."""
LONGEST_READ_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 4.0
"""Between two tries at start."""


@dataclass(frozen=True, slots=True)
class EscrowAccess:
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

    def settlement_terms(self) -> Terms:
        """How often and how much is settled, as configured and as far as the contract lets."""
        return Terms(
            every=timedelta(seconds=self.terms.every),
            at_most=timedelta(seconds=self.terms.longest),
            min_payout=self.chain.min_payout,
            native_usd=self.chain.native_usd,
            max_cost_share=self.chain.max_cost_share,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self.escrow.aclose()


async def open_escrow(chain: ChainSettings, clock: Clock, leads: LeaderCheck = always) -> EscrowAccess:
    """Load the keys, open the escrow and check it; raises ConfigurationError or ChainMismatchError.

    Nothing is sent unless `leads` lets it.

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
        leads=leads,
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
    return EscrowAccess(chain, escrow, meter, terms)


async def await_terms(terms: TermsSource) -> None:
    """Read all terms, or what answers within PATIENCE_SECONDS.

    Raises ChainMismatchError for another escrow, ConfigurationError for terms that the settings contradict.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        trouble = await _try_to_read(terms)
        for obstacle in FATAL:
            if text := terms.obstacles.get(obstacle):
                raise ConfigurationError(text)
        if terms.complete:
            return
        if loop.time() >= deadline:
            break
        await asyncio.sleep(backoff.failed())
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


async def load_meter(chain: ChainSettings, settler: str) -> LocalSigner | None:
    """The signer with the METER role; None if no key file is set, and then no receipt is made.

    Raises ConfigurationError if the key is that of `settler`: one key that both meters and settles could show a
    receipt for whatever it posted.
    """
    if chain.meter_key_file is None:
        return None
    meter = await load_key(chain.meter_key_file)
    if meter.address.lower() == settler.lower():
        raise ConfigurationError(
            f"FEDGPU_METER_KEY_FILE: holds the settler's key ({meter.address}); receipts need a key of their own"
        )
    return meter


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
