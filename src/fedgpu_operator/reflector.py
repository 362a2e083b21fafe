"""List-and-watch of one kind: what is held in memory follows the API server, and nothing here decides anything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.errors import GoneError, KubeError, ListTooLargeError, UnreachableError
from fedgpu_operator.ports import Kube, ResourceType
from fedgpu_operator.pulse import Pulse

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 0.5
"""After a failure, and at least between the beginnings of two lists or two watches."""
LONGEST_PAUSE_SECONDS: Final = 30.0
PROOF_SECONDS: Final = 2.0
"""A watch that has lived so long was let in, though it has told of nothing; a refusal comes sooner."""
SYNC_PATIENCE_SECONDS: Final = 15.0
"""How long a reader waits for the first list before it is told that the server does not answer."""

SLOW_SECONDS: Final = 30.0
"""How much longer than its patience a reader waits for a list that is under way."""

BEAT_SECONDS: Final = 600.0
"""A watch ends by itself after 320 s at the latest, a list after 135 s, whatever the server does (adapters/kube)."""

MOST_DIGITS: Final = 20
"""Of a resourceVersion: it has 64 bits."""

Key = tuple[str, str]
"""(namespace, name)."""


@dataclass(slots=True, eq=False)
class Held(Generic[T]):
    """One object: who it is, how new, and what was read of it."""

    uid: str
    version: int
    value: T
    weight: int = 0
    answered: float = float("-inf")
    """When the server last answered us with it, by the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much may be held of a server that is not trusted: about how many bytes one value takes, and now all may."""

    weigh: Callable[[Any], int]
    most: Callable[[], int]


def weight(value: object) -> int:
    """About the bytes of memory that a kept value takes."""
    if isinstance(value, str):
        return 56 + len(value)
    if isinstance(value, dict):
        return 232 + sum(weight(each) for each in value.values())
    if isinstance(value, list):
        return 88 + sum(map(weight, value))
    return 32


class Reflector(Generic[T]):
    """Holds every object of one kind (and label selector) as `read` made it, by namespace and name.

    A resourceVersion is a number that grows with each write to the kind; the watch delivers in its order. So an answer
    to a write of our own (`put`) that is not newer than the newest event is known already, or was overtaken, and is
    left out: what was deleted meanwhile does not come back. A newer one counts at once; older events that follow it
    change nothing. What a list lacks is gone, unless it was put while that list was under way, and is newer.
    `changed` is called with (key, before, after) for each change; None means absent. What would go beyond `bound`
    is not taken, and the kind counts as not followed until a list fits.
    """

    def __init__(
        self,
        kube: Kube,
        kind: ResourceType,
        read: Callable[[JSONObject], T],
        changed: Callable[[Key, T | None, T | None], None],
        *,
        labels: str = "",
        longest_pause: float = LONGEST_PAUSE_SECONDS,
        bound: Bound | None = None,
    ) -> None:
        self.kind = kind
        self.pulse = Pulse(f"watch-{kind.plural}")
        self._bound = bound
        self._weight = 0
        self._kube = kube
        self._read = read
        self._changed = changed
        self._labels = labels
        self._first_pause = min(FIRST_PAUSE_SECONDS, longest_pause)
        self._backoff = Backoff(self._first_pause, longest_pause)
        self._heard = self._listed = time.monotonic()
        self._proof = float("inf")
        self._objects: dict[str, dict[str, Held[T]]] = {}
        self._seen = 0
        self._ahead: set[Key] = set()
        self._gone: dict[Key, int] = {}
        """Versions at which objects were deleted since the last list, if events do not come in the server's order."""
        self._synced = asyncio.Event()
        self._judged = asyncio.Event()
        """There was a first list, or one that is known to be too large: waiting longer would not help."""
        self._trouble: KubeError | None = None

    async def run(self) -> None:
        """Follow the server until cancelled; one that does not answer is asked again, ever more slowly.

        A list that succeeds does not end the back-off: it takes a watch that tells of something, or lives for a while.
        """
        while True:
            self.pulse.beat(BEAT_SECONDS)
            try:
                await self.relist()
                await self._stream()
            except KubeError as error:
                await self._recover(error)

    async def _recover(self, error: KubeError) -> None:
        """Wait before the next list."""
        proven, self._proof = self._follows(), float("inf")
        self._trouble = error
        if isinstance(error, ListTooLargeError):
            self._judged.set()
        log.log(logging.DEBUG if proven else logging.WARNING, "watch of %s: %s", self.kind.plural, error)
        if proven:
            self._backoff.reset()
        pause = self._backoff.failed()
        if proven and isinstance(error, GoneError):
            # Nothing is wrong with the server: at once, unless the last list was a moment ago.
            await asyncio.sleep(max(0.0, self._listed + pause - time.monotonic()))
        else:
            await asyncio.sleep(pause)

    async def relist(self) -> None:
        """Replace what is held by a consistent list, which is read page by page and never held as it was sent."""
        self._ahead.clear()
        self._listed = begun = time.monotonic()
        listed: dict[Key, Held[T]] = {}
        version, heavy = "", 0
        async for items, at in self._kube.pages(self.kind, labels=self._labels):
            found = {_key(item): self._read_item(item) for item in items}
            heavy += sum(each.weight for each in found.values())
            self._check_weight(heavy, len(listed) + len(found))
            listed |= found
            version = at
        held = [((space, name), each.version) for space, all_ in self._objects.items() for name, each in all_.items()]
        for key, held_version in held:
            # One that was put meanwhile but is older than the list was deleted before the list was made.
            if key not in listed and (key not in self._ahead or held_version <= _number(version)):
                self._drop(key)
        for key, each in listed.items():
            known = self._held(key)
            if not self._is_gone(key, each.version) and (
                known is None or key not in self._ahead or known.version < each.version
            ):
                self._hold(key, each)
        self._seen = _number(version)
        self._heard = begun
        self._synced.set()
        self._judged.set()

    def silence(self) -> float:
        """Seconds since the server last told us anything: a list, an event or a bookmark."""
        return time.monotonic() - self._heard

    def check(self, patience: float) -> None:
        """Raises the KubeError for which the server cannot be followed, once what is held is older than `patience`.

        A watch that is silent is not in trouble; its client ends one that is silent for too long.
        """
        if self._trouble is not None and not self._follows() and self.silence() > patience:
            raise self._trouble

    def _is_gone(self, key: Key, version: int) -> bool:
        """Whether that version of an object is known to be deleted since the last list."""
        return version <= self._gone.get(key, 0)

    def _follows(self) -> bool:
        """Whether there is a watch that has proved itself."""
        return self._proof <= time.monotonic()

    def lag(self, patience: float) -> str:
        """Why what is held is not to be read now; empty if the server is followed."""
        if not self._synced.is_set():
            return str(self._trouble or "no list yet")
        try:
            self.check(patience)
        except KubeError as error:
            return str(error)
        return ""

    async def synced(self) -> None:
        """Wait until there was a first list; raises the UnreachableError for which it does not come."""
        if self._synced.is_set():
            return
        try:
            async with asyncio.timeout(SYNC_PATIENCE_SECONDS):
                await self._judged.wait()
        except TimeoutError:
            pass
        if not self._synced.is_set():
            raise self._trouble or UnreachableError(f"no list of {self.kind.plural} yet")

    def put(self, obj: JSONObject) -> T | None:
        """Take an answer to a write of our own; what is held of that very version, None where it was overtaken."""
        if _version(obj) > self._seen and self._synced.is_set() and not self._is_gone(_key(obj), _version(obj)):
            known = self._held(_key(obj))
            if known is None or known.version < _version(obj):
                self._ahead.add(_key(obj))
                self._take(obj)
        known = self._held(_key(obj))
        if known is None or (known.uid, known.version) != (_uid(obj), _version(obj)):
            return None
        known.answered = time.monotonic()
        return known.value

    def answered(self, namespace: str, name: str, version: str) -> float:
        """Seconds since the server answered us with that version of an object, if it is held; else infinite."""
        known = self._held((namespace, name))
        if known is None or known.version != _number(version):
            return float("inf")
        return time.monotonic() - known.answered

    def values(self, namespace: str = "") -> Iterator[T]:
        """All that is held, or what is in one namespace."""
        spaces = [self._objects.get(namespace, {})] if namespace else list(self._objects.values())
        return (held.value for space in spaces for held in space.values())

    async def _stream(self) -> None:
        """Follow one watch after another while each goes on where the last one ended.

        Raises UnreachableError for one that ends at once and told of nothing: what it should have told may be missing.
        """
        position, self._proof = str(self._seen), time.monotonic() + PROOF_SECONDS
        while True:
            begun, told = time.monotonic(), False
            self.pulse.beat(BEAT_SECONDS)
            async for event in self._kube.watch(self.kind, labels=self._labels, resource_version=position):
                position, told = str(event.object["metadata"]["resourceVersion"]), True
                self._heard = self._proof = time.monotonic()
                self.pulse.beat(BEAT_SECONDS)
                # Gone on past first: a reader that `changed` wakes must not find an older truth put on top.
                self._seen = max(self._seen, _number(position))
                if event.type == "DELETED":
                    self._deleted(event.object)
                elif event.type != "BOOKMARK":
                    self._arrived(event.object)
            lived = time.monotonic() - begun
            if not told and lived < self._first_pause:
                raise UnreachableError(f"the watch of {self.kind.plural} ended at once")
            await asyncio.sleep(max(0.0, self._first_pause - lived))

    def _arrived(self, obj: JSONObject) -> None:
        known, version = self._held(_key(obj)), _version(obj)
        if known is None or not version or known.version < version:
            self._ahead.discard(_key(obj))
            self._take(obj)

    def _deleted(self, obj: JSONObject) -> None:
        known = self._held(_key(obj))
        if known is not None and (known.uid == _uid(obj) or known.version < _version(obj)):
            self._ahead.discard(_key(obj))
            # The event carries the last there was of it.
            self._take(obj)
            self._drop(_key(obj))

    def _held(self, key: Key) -> Held[T] | None:
        return self._objects.get(key[0], {}).get(key[1])

    def _take(self, obj: JSONObject) -> None:
        self._hold(_key(obj), self._read_item(obj))

    def _read_item(self, obj: JSONObject) -> Held[T]:
        """That version of the object; what is held of it already is not read again."""
        known, version = self._held(_key(obj)), _version(obj)
        if known is not None and version and (known.uid, known.version) == (_uid(obj), version):
            return known
        value = self._read(obj)
        return Held(_uid(obj), version, value, 0 if self._bound is None else self._bound.weigh(value))

    def _check_weight(self, heavy: int, count: int) -> None:
        """Raises ListTooLargeError if that is more than may be held, with how many objects it is."""
        if self._bound is not None and heavy > (most := self._bound.most()):
            text = f"{count} {self.kind.plural} to be followed take more than {most // 2**20} MiB of memory"
            raise ListTooLargeError(text)

    def _hold(self, key: Key, held: Held[T]) -> None:
        known = self._held(key)
        if known is not None and held.version and (known.uid, known.version) == (held.uid, held.version):
            return
        heavy = self._weight + held.weight - (known.weight if known is not None else 0)
        self._check_weight(heavy, sum(map(len, self._objects.values())) + 1 if self._bound is not None else 0)
        self._weight = heavy
        self._objects.setdefault(key[0], {})[key[1]] = held
        self._changed(key, known.value if known is not None else None, held.value)

    def _drop(self, key: Key) -> None:
        space = self._objects[key[0]]
        gone = space.pop(key[1])
        self._weight -= gone.weight
        if not space:
            del self._objects[key[0]]
        self._changed(key, gone.value, None)


class PolledReflector(Reflector[T]):
    """A Reflector that lists again and again; between two lists, `deliver` takes the events of another watch.

    Events of different objects come in any order, and there may be none for what vanished while nobody watched. So
    only a list, begun `every` seconds after the last one began, shows how far everything is known, and an event counts
    if it is newer than the last one. What was delivered as deleted since then does not come back with an older answer,
    event or list. What is held is as old as the last list that succeeded, whatever is delivered.
    """

    def __init__(
        self,
        kube: Kube,
        kind: ResourceType,
        read: Callable[[JSONObject], T],
        changed: Callable[[Key, T | None, T | None], None],
        *,
        every: float,
        longest_pause: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        super().__init__(kube, kind, read, changed, longest_pause=min(every, longest_pause))
        self._every = every
        self._ended = self._listed
        """When the last list that succeeded was complete."""

    async def relist(self) -> None:
        """As `Reflector.relist`; what was deleted before that list is forgotten."""
        await super().relist()
        self._ended = time.monotonic()
        self._gone = {key: version for key, version in self._gone.items() if version > self._seen}

    def check(self, patience: float) -> None:
        """Raises the KubeError of the last list if it failed, once what is held is older than `patience`.

        A list that is under way is slow, and not in trouble, for SLOW_SECONDS: what it would show may be the law.
        """
        if self._trouble is not None and self.silence() > patience:
            raise self._trouble
        if time.monotonic() - self._ended > patience + SLOW_SECONDS:
            raise UnreachableError(f"no list of {self.kind.plural} for {self.silence():.0f} s")

    def deliver(self, obj: JSONObject, *, deleted: bool) -> None:
        """Take an event: the object as it is, or as it was at last."""
        key, version = _key(obj), _version(obj)
        if version <= self._seen or self._is_gone(key, version):
            return
        if deleted:
            self._gone[key] = version
            self._ahead.discard(key)
            self._deleted(obj)
        elif (known := self._held(key)) is None or known.version < version:
            self._ahead.add(key)
            self._take(obj)

    async def _stream(self) -> None:
        """Wait for the next list."""
        self._trouble = None
        self._proof = float("-inf")
        await asyncio.sleep(max(self._first_pause, self._listed + self._every - time.monotonic()))


def _key(obj: JSONObject) -> Key:
    meta = obj["metadata"]
    return str(meta.get("namespace", "")), str(meta["name"])


def _uid(obj: JSONObject) -> str:
    return str(obj["metadata"].get("uid", ""))


def _version(obj: JSONObject) -> int:
    return _number(str(obj["metadata"].get("resourceVersion", "")))


def _number(version: str) -> int:
    """A resourceVersion as Kubernetes promises it to be since 1.35: a decimal number that grows; else the oldest."""
    return int(version) if version.isdecimal() and len(version) <= MOST_DIGITS else 0
