"""Connects to the API server that the process itself belongs to: in-cluster, or the user's own kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import config as kubeconfig
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.config_exception import ConfigException

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.ports import LeaderCheck, always


async def own_configuration(context: str | None = None, file: Path | None = None) -> Configuration:
    """Configuration from the pod's ServiceAccount or from KUBECONFIG, as kubectl finds it, and the environment's proxy.

    With `file` from that kubeconfig and no other.

    Raises ConfigurationError with one line where neither works.
    """
    configuration = Configuration()
    # aiohttp would read the environment and a .netrc anew for every request, each time in a thread.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if file is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            kubeconfig.load_incluster_config(client_configuration=configuration)
        else:
            # Named, since the library remembers what the environment said when it was imported.
            named = str(file) if file is not None else os.environ.get("KUBECONFIG") or None
            _require(named, "give another --kubeconfig" if file is not None else "set KUBECONFIG")
            await kubeconfig.load_kube_config(named, context=context, client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise ConfigurationError(f"cannot load a kubeconfig: {error}") from error
    if configuration.proxy is None:
        configuration.proxy = _proxy_of(configuration.host)
    return configuration


def _require(named: str | None, fix: str) -> None:
    wanted = named or str(Path.home() / ".kube" / "config")
    if not any(Path(part).is_file() for part in wanted.split(os.pathsep) if part):
        raise ConfigurationError(f"there is no kubeconfig at {wanted}: {fix}")


async def connect(
    context: str | None = None, *, file: Path | None = None, seconds: float = 15.0, leads: LeaderCheck = always
) -> KubeClient:
    """A client for the process's own API server, or that of a kubeconfig in `file`.

    `seconds` bounds one call, `leads` what may change something.
    """
    return KubeClient(ApiClient(await own_configuration(context, file)), timeout=seconds, leads=leads)


def _proxy_of(server: str) -> str | None:
    """The proxy that the environment names for that server."""
    url = urlsplit(server)
    if proxy_bypass(url.netloc):
        return None
    return getproxies().get(url.scheme)
