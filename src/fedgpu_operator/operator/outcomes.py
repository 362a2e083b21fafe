"""What Kopf is to make of our errors: retry, or give up. The only place that knows."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

import kopf

from fedgpu_operator.domain.text import clean
from fedgpu_operator.errors import FedGPUError

P = ParamSpec("P")
T = TypeVar("T")

RETRY_SECONDS: Final = 5.0
"""Between two tries of a handler. What can fail for a while (hub, ledger, chain) has back-offs of its own below."""


def outcome(error: FedGPUError) -> kopf.PermanentError | kopf.TemporaryError:
    """PermanentError if a retry without a change cannot help, else TemporaryError; with the reason and the message."""
    text = clean(f"{error.reason}: {error}")
    return kopf.PermanentError(text) if error.permanent else kopf.TemporaryError(text, delay=RETRY_SECONDS)


def mapped(handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """That handler, its errors turned into Kopf's; any other exception is a bug and passes as it is."""

    @functools.wraps(handler)
    async def handle(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except FedGPUError as error:
            raise outcome(error) from error

    return handle
