"""Reads a stranger's kubeconfig and refuses all that could run a program, read a file or skip verification."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client import ApiClient, Configuration

from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.errors import InvalidResourceError

Value: TypeAlias = "str | list[Value] | dict[str, Value]"
Mapping: TypeAlias = dict[str, Value]

MAX_DEPTH: Final = 32

_LOADER: Final = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


def parse(text: str) -> Mapping:
    """The one document of that text, every scalar as the text that stands there, ``true`` and ``1`` included.

    Raises ValueError with the fix for what is no mapping, for anchors and aliases (nine lines of them make a thousand
    million entries), for a key that is no text or stands twice, and for deeper nesting than `MAX_DEPTH`.
    """
    try:
        documents = _build(text)
    except yaml.YAMLError as error:
        raise ValueError("is not valid YAML") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ValueError("is not one mapping")
    return documents[0]


def _build(text: str) -> list[Value]:
    """Event by event onto a stack of our own: a composer would recurse as deep as the text says."""
    documents: list[Value] = []
    stack = [documents]
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("anchors and aliases are refused: write the value out")
        if isinstance(event, yaml.ScalarEvent):
            stack[-1].append(str(event.value))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(stack) > MAX_DEPTH:
                raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
            stack.append([])
        elif isinstance(event, yaml.CollectionEndEvent):
            children = stack.pop()
            stack[-1].append(_mapping(children) if isinstance(event, yaml.MappingEndEvent) else children)
    return documents


def _mapping(children: list[Value]) -> Mapping:
    """From keys and values in turn."""
    made: Mapping = {}
    for key, value in zip(children[::2], children[1::2], strict=True):
        if not isinstance(key, str) or key in made:
            raise ValueError("a key is no text, or stands twice")
        made[key] = value
    return made


MAX_BYTES: Final = 128 * 1024

_UNSET: Final[tuple[Value, ...]] = ("", "null", "Null", "NULL", "~", {}, [])
_FALSE: Final[tuple[Value, ...]] = (*_UNSET, "false", "False", "FALSE")

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


def member_client(text: str, *, x509_strict: bool = True) -> ApiClient:
    """An API client for the current context of that kubeconfig; no connection is made yet.

    Certificates are verified whatever `x509_strict` says; with it they must keep to the form of RFC 5280 as well, on
    every version of Python: by itself only 3.13 and later ask for that.

    Raises InvalidResourceError (`KubeconfigRefused`) that names the field and the fix, never its value.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, f"kubeconfig is larger than {MAX_BYTES} bytes")
    try:
        cluster, user = _current_context(parse(text))
    except ValueError as error:
        raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, f"kubeconfig: {error}") from error
    _refuse_fields(cluster, _CLUSTER_FIELDS, "cluster")
    _refuse_fields(user, _USER_FIELDS, "user")
    if cluster.get("insecure-skip-tls-verify", "") not in _FALSE:
        raise InvalidResourceError(
            ConditionReason.KUBECONFIG_REFUSED,
            "cluster.insecure-skip-tls-verify is refused: set certificate-authority-data instead",
        )
    configuration = Configuration(host=_server(cluster))
    # The environment may hold proxies and a .netrc with passwords: none of that is for a stranger's server.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.disable_strict_ssl_verification = not x509_strict
    configuration.tls_server_name = _word(cluster, "tls-server-name", "cluster") or None
    if "certificate-authority-data" in cluster:
        configuration.ca_cert_data = _decode(cluster, "certificate-authority-data", "cluster")
    token = _word(user, "token", "user")
    if token:
        configuration.api_key["BearerToken"] = f"Bearer {token}"
    elif "client-certificate-data" not in user:
        raise InvalidResourceError(
            ConditionReason.KUBECONFIG_REFUSED, "user needs a token, or client-certificate-data with client-key-data"
        )
    try:
        api = _with_client_certificate(configuration, user)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidResourceError(
            ConditionReason.KUBECONFIG_REFUSED, "certificate or key data is not valid PEM"
        ) from error
    if x509_strict:
        api.rest_client.ssl_context.verify_flags |= ssl.VERIFY_X509_STRICT
    return api


def _with_client_certificate(configuration: Configuration, user: Mapping) -> ApiClient:
    if "client-certificate-data" not in user:
        return ApiClient(configuration)
    # ssl reads client certificates from files only; they live for the length of this call.
    with tempfile.TemporaryDirectory(prefix="fedgpu-") as folder:
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        for path, field in ((cert, "client-certificate-data"), (key, "client-key-data")):
            path.touch(mode=0o600)
            pem = _decode(user, field, "user")
            if "ENCRYPTED" in pem:
                # OpenSSL would ask a terminal for the pass phrase, and wait.
                raise InvalidResourceError(
                    ConditionReason.KUBECONFIG_REFUSED,
                    f"user.{field} is encrypted: put the key in without a pass phrase",
                )
            path.write_text(pem)
        configuration.cert_file, configuration.key_file = str(cert), str(key)
        return ApiClient(configuration)


def _current_context(config: Mapping) -> tuple[Mapping, Mapping]:
    context = _entry(config, "contexts", "context", _line(config, "current-context", "kubeconfig"))
    return (
        _entry(config, "clusters", "cluster", _line(context, "cluster", "context")),
        _entry(config, "users", "user", _line(context, "user", "context")),
    )


def _entry(config: Mapping, section: str, field: str, name: str) -> Mapping:
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(field)
            if isinstance(found, dict):
                return found
    raise InvalidResourceError(
        ConditionReason.KUBECONFIG_REFUSED, f"{section}: there is no entry that current-context leads to"
    )


def _line(entry: Mapping, field: str, where: str) -> str:
    """One line of text, empty where there is none."""
    value = entry.get(field, "")
    if value in _UNSET:
        return ""
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, f"{where}.{field} must be text on one line")
    return value


def _word(entry: Mapping, field: str, where: str) -> str:
    """As `_line`, for what goes into a request: a line break there would begin a header of its own."""
    value = _line(entry, field, where)
    if not value.isascii() or " " in value:
        raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, f"{where}.{field} must be ASCII without spaces")
    return value


def _refuse_fields(entry: Mapping, fields: dict[str, str], where: str) -> None:
    for field, why in fields.items():
        if entry.get(field, "") not in _UNSET:
            raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, f"{where}.{field} is refused: {why}")


def _server(cluster: Mapping) -> str:
    server = _word(cluster, "server", "cluster")
    try:
        parts = urlsplit(server)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidResourceError(ConditionReason.KUBECONFIG_REFUSED, "cluster.server must be an https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidResourceError(
            ConditionReason.KUBECONFIG_REFUSED, "cluster.server must be a plain URL without user, query or fragment"
        )
    return server.rstrip("/")


def _decode(entry: Mapping, field: str, where: str) -> str:
    try:
        return base64.b64decode(_line(entry, field, where), validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidResourceError(
            ConditionReason.KUBECONFIG_REFUSED, f"{where}.{field} is not base64 of PEM text, on one line"
        ) from error
