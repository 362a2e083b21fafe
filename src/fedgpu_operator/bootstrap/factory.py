"""The composition root: makes every service and loop, each once, from the settings and what the operator talks to."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Final, Protocol

from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.bootstrap.health import PING_SECONDS, HealthCheck, Pingable
from fedgpu_operator.bootstrap.plugins import load_plugins
from fedgpu_operator.bootstrap.settlement import EscrowAccess, SettlementPass
from fedgpu_operator.hub.loops.accounts import AccountLoop
from fedgpu_operator.hub.loops.jobs import JobLoop, JobMemory
from fedgpu_operator.hub.loops.loop import Loop
from fedgpu_operator.hub.loops.market import MarketLoop
from fedgpu_operator.hub.loops.providers import ProviderLoop
from fedgpu_operator.hub.loops.reports import ReceiptLoop, VantageLoop
from fedgpu_operator.hub.loops.retention import EpochShelf, RetentionLoop
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.hub.services.attempts import AttemptKeeper
from fedgpu_operator.hub.services.billing import UsageBiller
from fedgpu_operator.hub.services.costs import CostBook, FaultBook
from fedgpu_operator.hub.services.dispute_answers import DisputeKeeper
from fedgpu_operator.hub.services.epochs import Planner
from fedgpu_operator.hub.services.moves import Mover
from fedgpu_operator.hub.services.priorities import PriorityBook
from fedgpu_operator.hub.services.recovery import EscrowAddress, LedgerCheck, Reconciler
from fedgpu_operator.hub.services.scheduler import JobPlacer
from fedgpu_operator.hub.services.settler import SettlerWatch
from fedgpu_operator.hub.services.signatures import SignerBook, UsageVerifier
from fedgpu_operator.hub.services.snapshot import SETTLE, JobReader
from fedgpu_operator.hub.services.solvency import MoneyWatch, ObligationBook
from fedgpu_operator.hub.services.transactions import IntentSender, smaller_calls
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.writes import Writers
from fedgpu_operator.placement import Plugins
from fedgpu_operator.ports import Clock, Escrow, Kube, LeaderCheck, Ledger, Metrics, TypedSigner, always
from fedgpu_operator.pulse import Pass
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement import Terms, Thresholds
from fedgpu_operator.settlement.typeddata import escrow_domain, hub_domain

POLL_SECONDS: Final = 10.0
"""Between two looks at the chain, or an epoch's length if that is shorter."""
LEAST_SECONDS: Final = {"providers": 1.0, "market": 1.0, "retention": 1.0, "receipts": 1.0}
"""Between two passes of a loop that shows things to people, tidies up or looks at all pairs, however much happens."""
PASS_SECONDS: Final = dict.fromkeys(("accounts", "settlement", "receipts"), 900.0)
"""Time limit of a pass that asks a chain: a first look at a long log is many requests."""


class PingableLedger(Ledger, Pingable, Protocol):
    """A ledger that can be asked whether it answers."""


class Factory:
    """Services and loops over one hub and one ledger; handlers, CLI and tests take them from here.

    A service is made when it is first asked for, and shared from then on; one that is set before is used instead.
    `access` is None if nothing is settled on chain. `escrow` is the contract to read, and `place` the one that usage
    is signed for; both are by default that of `access`. `leads` is asked before something changes on a
    member; `kube` and `access` have been given theirs.
    """

    def __init__(
        self,
        settings: Settings,
        kube: Kube,
        ledger: PingableLedger,
        *,
        hub_uid: str = "",
        access: EscrowAccess | None = None,
        escrow: Escrow | None = None,
        place: EscrowAddress | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        leads: LeaderCheck = always,
    ) -> None:
        self.settings = settings
        self.kube = kube
        self.ledger = ledger
        self.hub_uid = hub_uid
        self.access = access
        self.escrow: Escrow | None = access.escrow if access is not None else escrow
        self.place = EscrowAddress(self.escrow.chain_id, self.escrow.escrow) if self.escrow is not None else place
        self.clock: Clock = clock or SystemClock()
        if isinstance(metrics, PrometheusMetrics):
            self.prometheus = metrics
        self.metrics: Metrics = metrics or self.prometheus
        self.leads = leads

    # ---- services

    @cached_property
    def prometheus(self) -> PrometheusMetrics:
        """What `/metrics` serves."""
        return PrometheusMetrics()

    @cached_property
    def plugins(self) -> Plugins:
        """Placement rules; raises ConfigurationError for one that cannot be used."""
        return load_plugins(self.settings.plugins)

    @cached_property
    def proofs(self) -> ProofBook | None:
        """What wallets have signed; None without a chain."""
        return ProofBook(self.escrow, self.clock, hub=self.hub_uid) if self.escrow is not None else None

    @cached_property
    def writers(self) -> Writers:
        """The writer of each kind of the hub."""
        return Writers(self.kube, self.clock, settlement=self.proofs is not None)

    @cached_property
    def verifier(self) -> UsageVerifier:
        """Checks signatures under usage."""
        return UsageVerifier(hub_domain(self.place.chain_id, self.place.escrow) if self.place is not None else None)

    @cached_property
    def costs(self) -> CostBook:
        """What running somewhere costs beyond its price."""
        chain = self.settings.chain
        return CostBook(self.ledger, self.clock, self.escrow, chain.native_usd if chain is not None else None)

    @cached_property
    def priorities(self) -> PriorityBook:
        """What PriorityClasses there are."""
        return PriorityBook(self.kube, self.clock)

    @cached_property
    def faults(self) -> FaultBook:
        """Where attempts failed a short time ago."""
        return FaultBook(self.ledger, self.clock, timedelta(seconds=self.settings.cooldown_seconds))

    @cached_property
    def obligations(self) -> ObligationBook:
        """What tenants owe and what their running attempts may still cost."""
        return ObligationBook(self.ledger, self.clock)

    @cached_property
    def biller(self) -> UsageBiller:
        """Enters readings into the ledger, as far as they are payable."""
        return UsageBiller(self.writers, self.ledger, self.clock, self.metrics, self.verifier)

    @cached_property
    def keeper(self) -> AttemptKeeper:
        """Opens, stops, bills and ends attempts."""
        return AttemptKeeper(
            self.kube,
            self.writers,
            self.ledger,
            self.clock,
            self.metrics,
            self.biller,
            moved=self.obligations.moved,
        )

    @cached_property
    def money(self) -> MoneyWatch:
        """Finds what runs and cannot be paid for."""
        return MoneyWatch(self.kube, self.writers, self.obligations, self.clock, self.thresholds)

    @cached_property
    def memory(self) -> JobMemory:
        """Which jobs are at rest, and what the ledger holds of the others."""
        return JobMemory()

    @cached_property
    def placer(self) -> JobPlacer:
        """Decides where jobs go, and has them go there."""
        settings = self.settings
        reader = JobReader(
            self.priorities,
            self.faults,
            cooldown=timedelta(seconds=settings.cooldown_seconds),
            vantages=settings.vantages,
        )
        return JobPlacer(
            self.kube,
            self.clock,
            self.metrics,
            self.keeper,
            self.writers.jobs,
            reader,
            self.obligations,
            default_deny=settings.default_deny,
            forget=self.memory.forget,
            plugins=self.plugins,
        )

    @cached_property
    def mover(self) -> Mover:
        """Announces moves of running jobs, and takes their steps."""
        return Mover(
            self.writers,
            self.clock,
            self.metrics,
            self.keeper,
            self.placer.view,
            forget=self.memory.forget,
            rules=self.settings.rebalance,
            plugins=self.plugins,
        )

    @cached_property
    def signers(self) -> SignerBook | None:
        """Whether the escrow takes what providers sign; None without a chain."""
        return SignerBook(self.escrow, self.ledger, self.clock) if self.escrow is not None else None

    @cached_property
    def check(self) -> LedgerCheck:
        """Compares the ledger with hub and chain, and holds back what must not run on a ledger that is behind."""
        return LedgerCheck(
            self.kube,
            self.writers,
            self.ledger,
            self.clock,
            self.metrics,
            namespace=self.settings.namespace,
            escrow=self.escrow,
        )

    @cached_property
    def supervisor(self) -> AgentSupervisor:
        """Runs the Push agents."""
        reserved = self.access.own_addresses if self.access is not None else []
        return AgentSupervisor(self.kube, self.clock, self.settings, self.hub_uid, reserved=reserved, leads=self.leads)

    @cached_property
    def thresholds(self) -> Callable[[], Thresholds]:
        """When an account counts as running dry, as far as the escrow's terms are known at each call."""
        settings, access = self.settings, self.access

        def now() -> Thresholds:
            lag = access.terms.lag if access is not None else float("inf")
            return Thresholds(
                warn=settings.funding_warn_seconds, checkpoint=settings.funding_checkpoint_seconds, lag=lag
            )

        return now

    def reconciler(self) -> Reconciler:
        """Puts back into the ledger what the hub's objects prove."""
        return Reconciler(self.kube, self.ledger, self.clock, self.biller)

    @cached_property
    def health(self) -> HealthCheck:
        """Asks whether hub and ledger answer."""
        return HealthCheck(self.kube, self.ledger)

    # ---- loops

    def loops(self) -> dict[str, Loop]:
        """Every loop of the operator by its name; those that settle only with a chain."""
        passes: dict[str, Pass] = {
            "agents": self.supervisor.pass_once,
            "providers": self.provider_loop().pass_once,
            "jobs": self.check.jobs_held_back(_then_frozen(self.job_loop().pass_once)),
            "vantages": VantageLoop(self.kube, self.writers, self.settings.vantages).pass_once,
            "market": self.market_loop().pass_once,
            # What it would delete is what a ledger that is behind is reconciled from.
            "retention": self.check.held_back(self.retention_loop().pass_once),
        }
        if self.access is not None and self.proofs is not None:
            passes |= self._settling_passes(self.access, self.proofs)
        passes["health"] = self.health.pass_once
        resync = {"market": self.settings.market_seconds, "health": PING_SECONDS}
        return {
            name: Loop(
                name,
                pass_once,
                resync=resync.get(name, self.settings.resync_seconds),
                metrics=self.metrics,
                least=LEAST_SECONDS.get(name, 0.0),
                limit=PASS_SECONDS.get(name),
            )
            for name, pass_once in passes.items()
        }

    def provider_loop(self) -> ProviderLoop:
        """Judges providers and shows their state."""
        settings = self.settings
        return ProviderLoop(
            self.kube,
            self.writers,
            self.ledger,
            self.clock,
            proofs=self.proofs,
            acceptance=settings.acceptance,
            enforced=settings.acceptance_enforced,
            audits=settings.location_audit,
            heartbeat_timeout=settings.heartbeat_timeout_seconds,
            refusals=self.supervisor.refusals,
            verifier=self.verifier,
            signers=self.signers,
        )

    def job_loop(self) -> JobLoop:
        """Follows, places, bills and moves jobs."""
        return JobLoop(
            self.kube,
            self.ledger,
            self.clock,
            self.metrics,
            writers=self.writers,
            proofs=self.proofs,
            costs=self.costs,
            faults=self.faults,
            money=self.money,
            keeper=self.keeper,
            placer=self.placer,
            mover=self.mover,
            memory=self.memory,
            keep=self.settings.workload_retention_seconds,
        )

    def market_loop(self, *, settle: timedelta = SETTLE) -> MarketLoop:
        """Publishes clearing prices; for as long as `settle` after a start, agents are waited for."""
        settings = self.settings
        return MarketLoop(
            self.kube,
            self.ledger,
            self.clock,
            self.metrics,
            namespace=settings.namespace,
            proofs=self.proofs,
            costs=self.costs,
            priorities=self.priorities,
            plugins=self.plugins,
            default_deny=settings.default_deny,
            vantages=settings.vantages,
            settle=settle,
        )

    def retention_loop(self) -> RetentionLoop:
        """Deletes what has been kept long enough."""
        shelf = None
        if self.access is not None:
            shelf = EpochShelf(
                self.kube,
                self.writers,
                self.ledger,
                self.access.escrow,
                self.clock,
                namespace=self.settings.namespace,
                keep=self.access.chain.epoch_retention_seconds,
            )
        return RetentionLoop(
            self.kube,
            self.writers,
            self.ledger,
            self.clock,
            settlement=self.escrow is not None,
            keep=self.settings.workload_retention_seconds,
            shelf=shelf,
        )

    def account_loop(self, escrow: Escrow, proofs: ProofBook, *, poll: float) -> AccountLoop:
        """Shows how accounts stand."""
        return AccountLoop(
            self.kube,
            self.writers,
            self.ledger,
            escrow,
            self.clock,
            proofs=proofs,
            poll=poll,
            thresholds=self.thresholds,
        )

    def settlement_loop(
        self,
        escrow: Escrow,
        terms: Terms,
        *,
        fee_cap: int,
        poll: float,
        auto_claim: bool,
        opens: Callable[[], bool] | None = None,
    ) -> SettlementLoop:
        """Posts epochs and claims them; unless `opens` says otherwise, none on a ledger that is behind."""
        return SettlementLoop(
            self.kube,
            self.writers,
            self.ledger,
            escrow,
            self.clock,
            self.metrics,
            sender=IntentSender(self.ledger, escrow, self.clock, fee_cap=fee_cap, smaller=smaller_calls(escrow)),
            planner=Planner(self.ledger, escrow, self.clock, terms),
            disputes=DisputeKeeper(self.ledger, escrow, self.clock),
            namespace=self.settings.namespace,
            terms=terms,
            poll=poll,
            auto_claim=auto_claim,
            opens=opens or (lambda: self.check.settles),
        )

    def receipt_loop(self, escrow: Escrow, proofs: ProofBook, meter: TypedSigner, *, interval: float) -> ReceiptLoop:
        """Has receipts signed by both sides."""
        return ReceiptLoop(
            self.kube,
            self.writers,
            self.ledger,
            self.clock,
            proofs=proofs,
            meter=meter,
            rules=escrow,
            domain=escrow_domain(escrow.chain_id, escrow.escrow),
            interval=interval,
        )

    def _settling_passes(self, access: EscrowAccess, proofs: ProofBook) -> dict[str, Pass]:
        chain, escrow = access.chain, access.escrow
        poll = min(POLL_SECONDS, chain.epoch_seconds)
        coins = SettlerWatch(
            self.kube,
            self.writers,
            self.ledger,
            escrow,
            self.clock,
            self.metrics,
            fee_cap=chain.fee_cap_wei,
            warn=chain.settler_warn_seconds,
        )
        settlement = SettlementPass(
            access.terms,
            coins,
            self.metrics,
            lambda: self.settlement_loop(
                escrow,
                access.settlement_terms(),
                fee_cap=chain.fee_cap_wei,
                poll=poll,
                auto_claim=chain.auto_claim,
            ),
        )
        passes: dict[str, Pass] = {
            "accounts": self.account_loop(escrow, proofs, poll=poll).pass_once,
            "settlement": self.check.looked_at(settlement.pass_once),
        }
        if access.meter is not None:
            receipts = self.receipt_loop(escrow, proofs, access.meter, interval=chain.epoch_seconds)
            passes["receipts"] = self.check.held_back(receipts.pass_once)
        return passes


def _then_frozen(pass_once: Pass) -> Pass:
    """That pass; once the first one is done, all that is held then is left out of the collector's rounds.

    It is every object of the hub, which stays or is freed by its count of references; a round over those of 2,000
    running and 2,000 waiting jobs takes 0.5 s, during which nothing else runs.
    """
    frozen = False

    async def passed() -> float | None:
        nonlocal frozen
        delay = await pass_once()
        if not frozen:
            frozen = True
            gc.collect()
            gc.freeze()
        return delay

    return passed
