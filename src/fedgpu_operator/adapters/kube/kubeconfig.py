"""Reads a stranger's kubeconfig and refuses all that could run a program, read a file or skip verification."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client import ApiClient, Configuration

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import InvalidResourceError

REFUSED: Final = "KubeconfigRefused"
MAX_BYTES: Final = 128 * 1024

_USER_FIELDS: Final = {
    "exec": "it would run a program; use a token or a client certificate",
    "auth-provider": "it would run a plugin; use a token or a client certificate",
    "tokenFile": "it names a file; put the token inline",
    "client-certificate": "it names a file; use client-certificate-data",
    "client-key": "it names a file; use client-key-data",
    "username": "basic authentication is not supported; use a token",
    "password": "basic authentication is not supported; use a token",
    "as": "impersonation is not supported",
}
_CLUSTER_FIELDS: Final = {
    "certificate-authority": "it names a file; use certificate-authority-data",
    "proxy-url": "proxies are not supported",
}


def member_client(text: str) -> ApiClient:
    """An API client for the current context of that kubeconfig; no connection is made yet.

    Raises InvalidResourceError (`KubeconfigRefused`) that names the field and the fix, never its value.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidResourceError(REFUSED, f"kubeconfig is larger than {MAX_BYTES} bytes")
    cluster, user = _current_context(_parse(text))
    _refuse_fields(cluster, _CLUSTER_FIELDS, "cluster")
    _refuse_fields(user, _USER_FIELDS, "user")
    if cluster.get("insecure-skip-tls-verify"):
        raise InvalidResourceError(
            REFUSED, "cluster.insecure-skip-tls-verify is refused: set certificate-authority-data instead"
        )
    configuration = Configuration(host=_server(cluster))
    configuration.tls_server_name = cluster.get("tls-server-name")
    if "certificate-authority-data" in cluster:
        configuration.ca_cert_data = _decode(cluster, "certificate-authority-data", "cluster")
    token = user.get("token")
    if token:
        configuration.api_key["BearerToken"] = f"Bearer {token}"
    elif "client-certificate-data" not in user:
        raise InvalidResourceError(REFUSED, "user needs a token, or client-certificate-data with client-key-data")
    try:
        return _with_client_certificate(configuration, user)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidResourceError(REFUSED, "certificate or key data is not valid PEM") from error


def _with_client_certificate(configuration: Configuration, user: JSONObject) -> ApiClient:
    if "client-certificate-data" not in user:
        return ApiClient(configuration)
    # ssl reads client certificates from files only; they live for the length of this call.
    with tempfile.TemporaryDirectory(prefix="fedgpu-") as folder:
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        for path, field in ((cert, "client-certificate-data"), (key, "client-key-data")):
            path.touch(mode=0o600)
            path.write_text(_decode(user, field, "user"))
        configuration.cert_file, configuration.key_file = str(cert), str(key)
        return ApiClient(configuration)


def _parse(text: str) -> JSONObject:
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidResourceError(REFUSED, "kubeconfig is not valid YAML") from error
    if not isinstance(parsed, dict):
        raise InvalidResourceError(REFUSED, "kubeconfig is not a mapping")
    return cast("JSONObject", parsed)


def _current_context(config: JSONObject) -> tuple[JSONObject, JSONObject]:
    context = _entry(config, "contexts", "context", str(config.get("current-context", "")))
    return (
        _entry(config, "clusters", "cluster", str(context.get("cluster", ""))),
        _entry(config, "users", "user", str(context.get("user", ""))),
    )


def _entry(config: JSONObject, section: str, field: str, name: str) -> JSONObject:
    entries: Any = config.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(field), dict):
            return cast("JSONObject", entry[field])
    raise InvalidResourceError(REFUSED, f"{section}: there is no entry that current-context leads to")


def _refuse_fields(entry: JSONObject, fields: dict[str, str], where: str) -> None:
    for field, why in fields.items():
        if entry.get(field):
            raise InvalidResourceError(REFUSED, f"{where}.{field} is refused: {why}")


def _server(cluster: JSONObject) -> str:
    server = str(cluster.get("server", ""))
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.hostname:
        raise InvalidResourceError(REFUSED, "cluster.server must be an https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidResourceError(REFUSED, "cluster.server must be a plain URL without user, query or fragment")
    return server.rstrip("/")


def _decode(entry: JSONObject, field: str, where: str) -> str:
    try:
        return base64.b64decode(str(entry.get(field, "")), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidResourceError(REFUSED, f"{where}.{field} is not base64 of PEM text") from error
