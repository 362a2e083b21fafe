"""Runs the operator: Kopf holds its life, from start to probes to the end; the system's loops do the work."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import kopf

from fedgpu_operator import logs
from fedgpu_operator.adapters.kube.connect import own_configuration
from fedgpu_operator.bootstrap import System, build
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError
from fedgpu_operator.operator.probes import ProbeSite
from fedgpu_operator.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status, 2 for a configuration that can never work."""
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_main(settings))
    except (ConfigurationError, ChainMismatchError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


async def _main(settings: Settings) -> None:
    site = ProbeSite()
    # Before the rest: an upgrade of a large ledger may take longer than a kubelet waits for a first answer.
    await site.serve(settings)
    try:
        await _work(settings, site)
    finally:
        await site.close()


async def _work(settings: Settings, site: ProbeSite) -> None:
    system = await build(settings)
    try:
        if settings.metrics_port:
            _serve_metrics(system, settings)
        site.system = system
        await kopf.operator(registry=_registry(system), settings=_kopf_settings(), clusterwide=True, standalone=True)
    finally:
        await system.close()


def _serve_metrics(system: System, settings: Settings) -> None:
    try:
        system.metrics.serve(settings.metrics_port, settings.bind_address)
    except OSError as error:
        raise ConfigurationError(f"FEDGPU_METRICS_PORT: cannot listen on {settings.metrics_port}: {error}") from error


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # the loops write their own Events
    settings.scanning.disabled = True  # our kinds are checked at start; nothing else is looked for
    settings.networking.request_timeout = 30
    return settings


def _registry(system: System) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        configuration = await own_configuration()
        token = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization") or ""
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            ca_data=configuration.ca_cert_data,
            scheme="Bearer" if token else None,
            token=token.removeprefix("Bearer ").removeprefix("bearer ") or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        system.start()
        log.info("started; loops: %s", ", ".join(system.loops))

    return registry
