"""``fedgpu operator`` starts wherever a pod may run it, under a user id that the image has no entry for too."""

from __future__ import annotations

import getpass
import socket
from typing import Any

import kopf
import pytest

from fedgpu_operator.operator import main
from fedgpu_operator.settings import Settings


class Nothing:
    """A process and its probe site, which this is not about."""

    def __init__(self, *args: object) -> None:
        del args

    async def start(self) -> None: ...

    async def serve(self) -> None: ...

    async def close(self) -> None: ...


async def test_it_starts_under_a_user_id_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kopf asks for the user's name unless it is given an identity, and a pod's user has none."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    started = []

    async def operator(*, identity: str | None = None, **more: Any) -> None:
        del more
        started.append(identity or getpass.getuser())

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(main, "Process", Nothing)
    monkeypatch.setattr(main, "ProbeSite", Nothing)
    await main._main(Settings())
    assert started == [socket.gethostname()]
