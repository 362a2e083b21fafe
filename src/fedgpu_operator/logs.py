"""How the operator logs: one chain of structlog processors for every logger, and what of the work each line is about.

Modules log with the standard library. What a line is about (loop, pass, job, lease, provider) is bound around the work
and not repeated in its message; tasks inherit it from whoever starts them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Literal

import structlog
from structlog.contextvars import (
    bind_contextvars,
    bound_contextvars,
    clear_contextvars,
    get_contextvars,
    merge_contextvars,
)
from structlog.typing import EventDict, Processor, WrappedLogger

from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.text import clean

QUIET_LOGGERS: Final = ("httpx", "aiohttp", "web3", "kopf", "urllib3")
"""Libraries whose INFO lines would repeat every request, some of them with the address of a private endpoint."""


def about(obj: Resource | None) -> dict[str, str]:
    """What a line about this object carries; keys as in Kubernetes' own structured logs."""
    if isinstance(obj, ComputeJob):
        return {"job": obj.key, "jobUID": obj.metadata.uid}
    if isinstance(obj, ComputeLease):
        job = obj.spec.job
        named = {"job": f"{job.namespace}/{job.name}", "jobUID": job.uid}
        return {**named, "lease": obj.metadata.name, "provider": obj.spec.provider}
    if isinstance(obj, GPUProvider):
        return {"provider": obj.metadata.name}
    return {} if obj is None else {"kind": obj.info.kind, "object": obj.key}


def bound(**known: object) -> AbstractContextManager[None]:
    """Around some work: every line that is logged in it, and in tasks that it starts, carries these fields too."""
    return bound_contextvars(**known)


def bind(**known: object) -> None:
    """As `bound`, for the rest of a task."""
    bind_contextvars(**known)


@contextmanager
def alone(**known: object) -> Iterator[None]:
    """As `bound`, without what whoever started this task was about: for work that outlives the pass that began it."""
    before = get_contextvars()
    clear_contextvars()
    try:
        with bound_contextvars(**known):
            yield
    finally:
        bind_contextvars(**before)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send all loggers of the process to stderr: as JSON objects, one a line, or as text for people at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form, colors=sys.stderr.isatty()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_libraries()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def quiet_libraries() -> None:
    """Keep libraries' lines about single requests out of the log."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(form: Literal["text", "json"], *, colors: bool = False) -> logging.Formatter:
    """What turns a record of any logger into a line, in which nothing steers the terminal but our own colors."""
    last: tuple[Processor, ...] = (_cleaned, _named, structlog.processors.JSONRenderer(ensure_ascii=True))
    if form == "text":
        plain = structlog.dev.plain_traceback
        last = (_cleaned, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, exception_formatter=plain))
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _shared() -> list[Processor]:
    """What every line goes through, whether it was logged by structlog or by the standard library."""
    return [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]


def _cleaned(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Nothing that a stranger wrote steers the terminal that shows it, wherever in the line it stands."""
    return {clean(key): _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    return value if isinstance(value, (int, float)) or value is None else clean(str(value))


def _named(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The four fields of every line first, under the names that collectors expect."""
    first = {"time": event.pop("timestamp"), "level": str(event.pop("level")).upper()}
    return {**first, "logger": event.pop("logger"), "message": event.pop("event"), **event}
