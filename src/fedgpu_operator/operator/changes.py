"""Registers handlers of changes, and calls them: those of Kopf's watches and of our own have one signature.

A handler is called for each change of what is held of the hub (`HoldingKube`), whether an event, a list or the answer
to a write of ours brought it. So it is never called before what it is about can be read, and once per version.
`by_kopf` is for kinds that people edit and of which there are few: Kopf watches them. `by_watch` is for the others; why
is in docs/decisions/0028-what-kopf-watches.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import kopf

from fedgpu_operator.api.base import GROUP, VERSION, JSONObject, Resource
from fedgpu_operator.bootstrap import System
from fedgpu_operator.operator.outcomes import mapped

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class ObjectChange(Generic[R]):
    """An object before and after; None if it is absent, or cannot be read by this version."""

    namespace: str
    before: R | None
    after: R | None

    @property
    def replaced(self) -> bool:
        """Whether it was created, deleted, or replaced by another object of the same name."""
        return self.before is None or self.after is None or self.before.metadata.uid != self.after.metadata.uid

    @property
    def edited(self) -> bool:
        """Whether anything but the status changed: by people, or by a deletion."""
        return self.replaced or _edits(self.before) != _edits(self.after)


Handler: TypeAlias = Callable[[System, ObjectChange[R]], None]

HANDLERS: Final[dict[str, Handler[Any]]] = {}
"""By plural."""
KOPF_KINDS: Final[list[type[Resource]]] = []
"""Kinds whose events Kopf's watch delivers."""


def by_kopf(kind: type[R]) -> Callable[[Handler[R]], Handler[R]]:
    """Register a handler of a kind that Kopf watches."""

    def register(handler: Handler[R]) -> Handler[R]:
        KOPF_KINDS.append(kind)

        @kopf.on.event(GROUP, VERSION, kind.info.plural, id=f"{handler.__module__}.{handler.__name__}")
        @mapped
        async def take(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
            system: System | None = memo.process.system
            if system is not None:
                obj = cast("JSONObject", event["object"])
                system.kube.deliver(kind, obj, deleted=event["type"] == "DELETED")

        return by_watch(kind)(handler)

    return register


def by_watch(kind: type[R] | str) -> Callable[[Handler[R]], Handler[R]]:
    """Register a handler of a kind, or of a plural without a model, that a watch of our own follows."""

    def register(handler: Handler[R]) -> Handler[R]:
        HANDLERS[kind if isinstance(kind, str) else kind.info.plural] = handler
        return handler

    return register


def dispatch(system: System, plural: str, change: ObjectChange[Any]) -> None:
    """Call the handler of that kind. One that fails is logged: what it would have woken comes with the next resync."""
    try:
        HANDLERS[plural](system, change)
    except Exception:
        log.exception("a change of %s in %r was not handled", plural, change.namespace)


def _edits(obj: Resource | None) -> tuple[object, ...] | None:
    if obj is None:
        return None
    meta = obj.metadata
    return meta.generation, meta.deletion_timestamp, meta.labels, meta.annotations
