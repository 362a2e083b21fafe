"""The operator's life as activities of Kopf: start, login, probes, end; `fedgpu operator` and `kopf run` share them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Final

import kopf

from fedgpu_operator.adapters.kube.connect import own_configuration
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.bootstrap import Elector, System, build
from fedgpu_operator.domain.text import clean
from fedgpu_operator.errors import ConfigurationError, FedGPUError
from fedgpu_operator.logs import quiet_libraries
from fedgpu_operator.operator.changes import KOPF_KINDS, ObjectChange, dispatch
from fedgpu_operator.operator.outcomes import mapped
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS: Final = 1.0
LAST_BACKOFF_SECONDS: Final = 20.0
"""Between two tries of a request of Kopf's."""


class Process:
    """What runs in this process: nothing until it is built, then a System. Shared by handlers and probes.

    With an `elector` this process is one of several replicas, and builds nothing before it was elected.
    """

    def __init__(self, settings: Settings, elector: Elector | None = None) -> None:
        self.settings = settings
        self.elector = elector
        self.system: System | None = None
        self.metrics = PrometheusMetrics()
        self.metrics.follow_leader(lambda: self.leads)
        self._serves_metrics = False
        self._starting = "the operator is starting"

    async def start(self) -> None:
        """Build and start the system; raises what `build` raises, after which it may be tried again."""
        try:
            # Before the first watch, so that its first list, too, finds whom to call.
            leads = self.elector.check if self.elector is not None else None
            system = await build(self.settings, self._changed, polled=KOPF_KINDS, metrics=self.metrics, leads=leads)
        except FedGPUError as error:
            self._starting = f"the operator cannot start: {error.reason}: {error}"
            raise
        self.system = system
        self.serve_metrics()
        system.start()
        log.info("started; loops: %s", ", ".join(system.loops))

    async def close(self) -> None:
        """End what runs, if anything does; workloads go on."""
        system, self.system = self.system, None
        if system is not None:
            await system.close()

    @property
    def leads(self) -> bool:
        """Whether this process does the operator's work: it runs, and holds the Lease if there is an election."""
        return self.system is not None and (self.elector is None or self.elector.leads)

    def serve_metrics(self) -> None:
        """Serve `/metrics`, unless that is done already; raises ConfigurationError if the port is taken."""
        if self._serves_metrics or not self.settings.metrics_port:
            return
        try:
            self.metrics.serve(self.settings.metrics_port, self.settings.bind_address)
        except OSError as error:
            text = f"FEDGPU_METRICS_PORT: cannot listen on {self.settings.metrics_port}: {error}"
            raise ConfigurationError(text) from error
        self._serves_metrics = True

    def hung(self) -> dict[str, str]:
        """By name, what hangs though it was cancelled, or has ended, and why; nothing outside counts."""
        return {} if self.system is None else _cleaned(self.system.hung())

    def unready(self) -> dict[str, str]:
        """By part, why the operator cannot do its work now, or why a standby could not take over."""
        if self.system is None and self.elector is not None and not self.elector.leads:
            return _cleaned({"election": why} if (why := self.elector.trouble()) else {})
        return _cleaned({"start": self._starting} if self.system is None else self.system.unready())

    def _changed(self, plural: str, namespace: str, before: Any, after: Any) -> None:
        if self.system is not None:
            dispatch(self.system, plural, ObjectChange(namespace, before, after))


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
@mapped
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure Kopf, then start what is not started yet; what may pass is tried again, anything else ends it."""
    _configure(settings)
    if "process" not in memo:
        quiet_libraries()
        found = Settings.from_env(os.environ)
        if found.leader_election:
            raise ConfigurationError("FEDGPU_LEADER_ELECTION: only `fedgpu operator` takes part in an election")
        memo.process = Process(found)
    if memo.process.system is None:
        await memo.process.start()


@kopf.on.cleanup()
async def end(memo: kopf.Memo, **_: Any) -> None:
    """End loops, agents and connections, in this order."""
    await memo.process.close()


@kopf.on.login()
@mapped
async def login(**_: Any) -> kopf.ConnectionInfo:
    """The connection of Kopf's own watches: the same that all else uses."""
    configuration = await own_configuration()
    token = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization") or ""
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=configuration.ca_cert_data,
        insecure=not configuration.verify_ssl,
        scheme="Bearer" if token else None,
        token=token.removeprefix("Bearer ").removeprefix("bearer ") or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


@kopf.on.probe(id="loops")
async def alive(memo: kopf.Memo, **_: Any) -> dict[str, str]:
    """Liveness, the one probe that may fail: a loop has ended, or hangs though it was cancelled."""
    if hung := memo.process.hung():
        raise kopf.PermanentError("; ".join(f"{name}: {why}" for name, why in hung.items()))
    return {}


@kopf.on.probe(id="parts")
async def ready(memo: kopf.Memo, **_: Any) -> dict[str, str]:
    """Readiness, to be read only: by part, what the operator cannot do its work without."""
    found: dict[str, str] = memo.process.unready()
    return found


class _Backoffs:
    """Seconds between tries of a request of Kopf's, without end: by default it ends the process after a minute."""

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff(FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS)
        while True:
            yield backoff.failed()


def _configure(settings: kopf.OperatorSettings) -> None:
    """Raises ConfigurationError for an option of `kopf run` that this operator cannot honour."""
    if not settings.peering.clusterwide:
        raise ConfigurationError(
            "--namespace: the operator serves a whole hub, since all namespaces share its GPUs; use --all-namespaces"
        )
    if settings.peering.mandatory:
        raise ConfigurationError("--peering: `kopf run` runs this operator as one replica; use --standalone")
    settings.peering.standalone = True  # pausing would stop Kopf's watches and no loop
    settings.posting.enabled = False  # the loops write their own Events
    settings.scanning.disabled = True  # our kinds are checked at start; nothing else is looked for
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Backoffs()


def _cleaned(words: dict[str, str]) -> dict[str, str]:
    return {name: clean(why) for name, why in words.items()}
