"""A small synchronous client for one API server of the lab; for tests and the lab itself, the operator has its own."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx

from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

ERROR_OF_STATUS: Mapping[int, type[KubeError]] = MappingProxyType(
    {403: ForbiddenError, 404: NotFoundError, 409: ConflictError, 410: GoneError, 422: RejectedError}
)
TIMEOUT = httpx.Timeout(20.0, connect=3.0)

Json = dict[str, Any]
"""A parsed JSON object, as deep as the API server sent it."""


class ClusterApi:
    """Plain REST calls by path, such as ``api.get("/api/v1/nodes")``; answers are parsed JSON objects.

    Every method raises the KubeError tree: NotFoundError, ConflictError, RejectedError …, and UnreachableError
    where there was no answer.
    """

    def __init__(self, server: str, ca_pem: str, token: str) -> None:
        context = ssl.create_default_context(cadata=ca_pem)
        headers = {"Authorization": f"Bearer {token}"}
        # trust_env=False: a proxy of the environment has no business between us and loopback.
        self._client = httpx.Client(base_url=server, headers=headers, verify=context, timeout=TIMEOUT, trust_env=False)

    def get(self, path: str, **params: str) -> Json:
        return self._call("GET", path, params=params)

    def create(self, path: str, body: Json) -> Json:
        return self._call("POST", path, body=body)

    def update(self, path: str, body: Json) -> Json:
        return self._call("PUT", path, body=body)

    def patch(self, path: str, body: Json) -> Json:
        """A JSON merge patch."""
        return self._call("PATCH", path, body=body, media_type="application/merge-patch+json")

    def delete(self, path: str, **params: str) -> Json:
        return self._call("DELETE", path, params=params)

    def text(self, path: str, *, timeout: float = 2.0) -> str:
        """An answer that is no JSON, such as /readyz or /metrics, within `timeout` seconds."""
        return self._send("GET", path, {}, None, "", timeout=httpx.Timeout(timeout)).text

    def close(self) -> None:
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        media_type: str = "application/json",
    ) -> Json:
        answer = self._send(method, path, params or {}, body, media_type)
        document: object = answer.json()
        if not isinstance(document, dict):
            raise KubeError(f"{method} {path}: the answer is no JSON object", status=answer.status_code)
        return document

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Json | None,
        media_type: str,
        *,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> httpx.Response:
        headers = {"Content-Type": media_type} if body is not None else {}
        try:
            # Given an empty mapping, httpx drops the query that the path itself carries, such as ?dryRun=All.
            answer = self._client.request(
                method, path, params=dict(params) or None, json=body, headers=headers, timeout=timeout
            )
        except httpx.TransportError as error:
            raise UnreachableError(f"{method} {path}: {error}") from error
        if answer.is_success:
            return answer
        raise _error(f"{method} {path}", answer)


def _error(call: str, answer: httpx.Response) -> KubeError:
    status = answer.status_code
    message, reason = answer.text, ""
    if answer.headers.get("content-type", "").startswith("application/json"):
        document = answer.json()
        message, reason = str(document.get("message", "")), str(document.get("reason", ""))
    kind = AlreadyExistsError if reason == "AlreadyExists" else ERROR_OF_STATUS.get(status, KubeError)
    return kind(f"{call}: {status} {message}", status=status)
