"""What is held follows the server: nothing comes back from the dead, nothing older replaces what is newer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import ForbiddenError, GoneError, KubeError, UnreachableError
from fedgpu_operator.ports import BATCH_JOBS, Listed, ResourceType, WatchEvent
from fedgpu_operator.reflector import PolledReflector, Reflector


def obj(name: str, version: int, *, uid: str = "", value: int = 0) -> JSONObject:
    return {
        "metadata": {"name": name, "namespace": "n", "uid": uid or name, "resourceVersion": str(version)},
        "value": value or version,
    }


class Server:
    """A server that lists and streams just what a test says."""

    def __init__(self) -> None:
        self.lists: asyncio.Queue[tuple[list[JSONObject], str] | KubeError] = asyncio.Queue()
        self.events: asyncio.Queue[WatchEvent | KubeError | None] = asyncio.Queue()
        self.watched_from: list[str] = []
        self.listing = asyncio.Event()
        self.answer_list = asyncio.Event()
        self.answer_list.set()

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        self.listing.set()
        await self.answer_list.wait()
        answer = await self.lists.get()
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        self.watched_from.append(resource_version)
        while (event := await self.events.get()) is not None:
            if isinstance(event, KubeError):
                raise event
            yield event

    def send(self, kind: Any, found: JSONObject) -> None:
        self.events.put_nowait(WatchEvent(kind, found))


class Follower:
    """A reflector that runs, and all that it told."""

    def __init__(self, server: Server, *, longest_pause: float = 0.01) -> None:
        self.told: list[tuple[str, int | None, int | None]] = []
        self._news = asyncio.Event()
        self.held: Reflector[int] = Reflector(
            server,  # type: ignore[arg-type]  # of a client it needs no more than this
            BATCH_JOBS,
            lambda found: int(found["value"]),
            self._changed,
            longest_pause=longest_pause,
        )

    def _changed(self, key: tuple[str, str], before: int | None, after: int | None) -> None:
        self.told.append((key[1], before, after))
        self._news.set()

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not check():
                self._news.clear()
                await asyncio.wait({asyncio.ensure_future(self._news.wait())}, timeout=0.02)

    @property
    def values(self) -> list[int]:
        return sorted(self.held.values())


@asynccontextmanager
async def following(server: Server, *first: JSONObject, version: int = 10) -> AsyncIterator[Follower]:
    follower = Follower(server)
    server.lists.put_nowait((list(first), str(version)))
    task = asyncio.create_task(follower.held.run())
    try:
        await follower.held.synced()
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_list_and_the_events_after_it_are_what_is_held() -> None:
    server = Server()
    async with following(server, obj("a", 3), obj("b", 4)) as follower:
        server.send("MODIFIED", obj("a", 11))
        server.send("ADDED", obj("c", 12))
        server.send("DELETED", obj("b", 13))
        await follower.until(lambda: follower.values == [11, 12])
    assert server.watched_from[0] == "10"
    assert follower.told[:2] == [("a", None, 3), ("b", None, 4)]
    # The event of a deletion carries the last there was of the object.
    assert follower.told[2:] == [("a", 3, 11), ("c", None, 12), ("b", 4, 13), ("b", 13, None)]


async def test_a_watch_that_ends_goes_on_where_it_was_and_a_bookmark_moves_it() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        server.send("MODIFIED", obj("a", 11))
        server.events.put_nowait(None)
        server.send("BOOKMARK", obj("", 40))
        server.events.put_nowait(None)
        server.send("MODIFIED", obj("a", 41))
        await follower.until(lambda: follower.values == [41])
    assert server.watched_from == ["10", "11", "40"]


@pytest.mark.parametrize("error", [GoneError("410", status=410), UnreachableError("reset")])
async def test_after_a_break_what_was_deleted_meanwhile_is_gone(error: KubeError) -> None:
    server = Server()
    async with following(server, obj("a", 3), obj("b", 4)) as follower:
        server.lists.put_nowait(([obj("a", 3), obj("c", 25)], "30"))
        server.events.put_nowait(error)
        await follower.until(lambda: follower.values == [3, 25])
        await follower.until(lambda: server.watched_from[-1] == "30")
    assert ("b", 4, None) in follower.told
    assert [entry for entry in follower.told if entry[0] == "a"] == [("a", None, 3)], "nothing happened to it"


async def test_an_object_made_anew_under_the_same_name_is_another_one() -> None:
    server = Server()
    async with following(server, obj("a", 3, uid="first")) as follower:
        server.lists.put_nowait(([obj("a", 25, uid="second")], "30"))
        server.events.put_nowait(GoneError("410", status=410))
        await follower.until(lambda: follower.values == [25])
        # The end of the first, told late, is not the end of the second.
        follower.held._deleted(obj("a", 20, uid="first"))
        assert follower.values == [25]


async def test_our_own_write_counts_at_once_and_its_event_is_no_news() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        assert follower.held.put(obj("a", 11)) == 11
        assert follower.held.put(obj("new", 12)) == 12
        assert follower.values == [11, 12]
        told = len(follower.told)
        server.send("MODIFIED", obj("a", 11))
        server.send("ADDED", obj("new", 12))
        server.send("MODIFIED", obj("a", 13))
        await follower.until(lambda: follower.values == [12, 13])
        assert follower.told[told:] == [("a", 11, 13)]


async def test_an_older_event_or_answer_changes_nothing() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        follower.held.put(obj("a", 15))
        server.send("MODIFIED", obj("a", 12))
        server.send("ADDED", obj("z", 16))
        await follower.until(lambda: follower.values == [15, 16])
        assert follower.held.put(obj("a", 14)) is None, "the answer came after a newer truth"
        assert follower.values == [15, 16]


async def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        server.send("MODIFIED", obj("a", 11))
        server.send("DELETED", obj("a", 12))
        await follower.until(lambda: follower.values == [])
        assert follower.held.put(obj("a", 11)) is None
        assert follower.values == []


async def test_what_was_put_while_a_list_was_under_way_outlives_it_and_what_was_put_before_does_not() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        follower.held.put(obj("early", 11))
        server.answer_list.clear()
        server.listing.clear()
        server.events.put_nowait(GoneError("410", status=410))
        await server.listing.wait()
        follower.held.put(obj("late", 31))
        follower.held.put(obj("a", 32))
        server.lists.put_nowait(([obj("a", 3)], "30"))
        server.answer_list.set()
        await follower.until(lambda: follower.values == [31, 32])
    assert ("early", 11, None) in follower.told, "a consistent list that began later would have shown it"


async def test_what_was_put_and_deleted_while_a_list_was_under_way_is_gone() -> None:
    """No event will tell of the deletion: the watch goes on after the list."""
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        server.answer_list.clear()
        server.listing.clear()
        server.events.put_nowait(GoneError("410", status=410))
        await server.listing.wait()
        follower.held.put(obj("ghost", 12))
        follower.held.put(obj("same", 30))
        server.lists.put_nowait(([obj("a", 25)], "30"))
        server.answer_list.set()
        await follower.until(lambda: 25 in follower.values)
        assert follower.values == [25]


async def test_a_server_that_cannot_be_followed_is_told_to_who_reads() -> None:
    server = Server()
    async with following(server, obj("a", 3)) as follower:
        server.lists.put_nowait(UnreachableError("refused"))
        server.events.put_nowait(UnreachableError("reset"))
        await follower.until(lambda: follower.held._trouble is not None)
        with pytest.raises(UnreachableError):
            follower.held.check(0.0)
        follower.held.check(5.0)
        assert follower.values == [3], "what was known stays"
        server.lists.put_nowait(([obj("a", 50)], "50"))
        await follower.until(lambda: follower.values == [50])
        server.send("MODIFIED", obj("a", 51))
        await follower.until(lambda: follower.values == [51])
        follower.held.check(0.0)


async def test_what_is_held_grows_old_while_nobody_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    server, ahead = Server(), 0.0
    monkeypatch.setattr("fedgpu_operator.reflector.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    async with following(server, obj("a", 3)) as follower:
        server.send("MODIFIED", obj("a", 11))
        await follower.until(lambda: follower.values == [11])
        ahead = 100.0
        assert follower.held.silence() >= 100
        follower.held.check(60.0)
        server.events.put_nowait(UnreachableError("reset"))
        await follower.until(lambda: follower.held._trouble is not None)
        with pytest.raises(UnreachableError):
            follower.held.check(60.0)
        server.lists.put_nowait(([obj("a", 50)], "50"))
        await follower.until(lambda: follower.values == [50])
        assert follower.held.silence() < 60
        follower.held.check(60.0)


@pytest.mark.parametrize(
    ("broken", "least"),
    [
        ([GoneError("410", status=410)], 0.1),
        ([ForbiddenError("403", status=403)], 0.1),
        ([None], 0.1),
        ([WatchEvent("BOOKMARK", obj("", 40)), GoneError("410", status=410)], 0.04),
    ],
)
async def test_a_server_that_lists_and_cannot_be_watched_is_asked_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch, broken: list[WatchEvent | KubeError | None], least: float
) -> None:
    monkeypatch.setattr("fedgpu_operator.reflector.FIRST_PAUSE_SECONDS", 0.01)
    server, begun = Server(), time.monotonic()
    for _ in range(6):
        server.lists.put_nowait(([obj("a", 3)], "30"))
        for each in broken:
            server.events.put_nowait(each)
    follower = Follower(server, longest_pause=0.04)
    task = asyncio.create_task(follower.held.run())
    await follower.until(lambda: server.lists.empty() and server.events.empty())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert time.monotonic() - begun >= least


async def test_versions_that_are_no_numbers_are_taken_from_the_watch_alone() -> None:
    server = Server()
    odd = obj("a", 1, value=7)
    odd["metadata"]["resourceVersion"] = "x7"
    async with following(server, obj("b", 3)) as follower:
        assert follower.held.put(odd) is None
        assert follower.values == [3]
        server.send("ADDED", odd)
        newer = obj("a", 1, value=8)
        newer["metadata"]["resourceVersion"] = "x8"
        server.send("MODIFIED", newer)
        await follower.until(lambda: follower.values == [3, 8])


def reflector(
    server: Server, shown: list[str], read: Callable[[JSONObject], int] = lambda found: int(found["value"])
) -> Reflector[int]:
    """One that does not run by itself, and notes what it shows."""
    return Reflector(
        server,  # type: ignore[arg-type]  # of a client it needs no more than this
        BATCH_JOBS,
        read,
        lambda key, *_: shown.append(key[1]),
    )


async def test_a_list_that_breaks_off_after_a_page_changes_nothing() -> None:
    server = InPages([])
    shown: list[str] = []
    held = reflector(server, shown)
    server.lists.put_nowait(([obj("a", 3), obj("b", 4)], "10"))
    await held.relist()
    shown.clear()
    server.breaks_after = 1
    server.lists.put_nowait(([obj("a", 11), obj("c", 12)], "20"))
    with pytest.raises(GoneError):
        await held.relist()
    assert (sorted(held.values()), shown) == ([3, 4], [])


async def test_what_is_put_between_two_pages_is_not_undone_by_what_they_say() -> None:
    server = InPages([])
    held = reflector(server, [])
    server.lists.put_nowait(([obj("a", 3), obj("b", 4)], "10"))
    await held.relist()
    server.between = lambda: held.put(obj("a", 30))
    server.lists.put_nowait(([obj("a", 11), obj("b", 12)], "20"))
    await held.relist()
    assert sorted(held.values()) == [12, 30]


class InPages(Server):
    """A server that sends its list an object at a time, and notes what was done with each before the next was asked."""

    def __init__(self, done: list[int]) -> None:
        super().__init__()
        self._done = done
        self.done_before: list[int] = []
        self.breaks_after: int | None = None
        self.between: Callable[[], object] = lambda: None

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        items, version = await self.list(kind, namespace, labels=labels, fields=fields)
        for at, item in enumerate(items):
            if at == self.breaks_after:
                raise GoneError("expired", status=410)
            self.done_before.append(len(self._done))
            yield [item], version
            self.between()


async def test_a_list_is_read_page_by_page_and_shown_as_a_whole() -> None:
    read: list[int] = []
    shown: list[str] = []
    server = InPages(read)

    def reading(found: JSONObject) -> int:
        assert not shown, "something of a list was shown before all of it was there"
        read.append(int(found["value"]))
        return read[-1]

    held = reflector(server, shown, reading)
    server.lists.put_nowait(([obj(name, 3 + at) for at, name in enumerate("abc")], "10"))
    await held.relist()
    assert server.done_before == [0, 1, 2]
    assert shown == ["a", "b", "c"]
    shown.clear()
    server.lists.put_nowait(([obj("a", 3), obj("b", 12)], "20"))
    await held.relist()
    assert read[3:] == [12], "what is held in that very version is not read again"
    assert shown == ["c", "b"]


class Polled(Follower):
    """One whose events a test delivers, and whose lists come as fast as a test answers them."""

    held: PolledReflector[int]

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.held = PolledReflector(
            server,  # type: ignore[arg-type]  # as above
            BATCH_JOBS,
            lambda found: int(found["value"]),
            self._changed,
            every=0.01,
        )

    def deliver(self, found: JSONObject, *, deleted: bool = False) -> None:
        self.held.deliver(found, deleted=deleted)


@asynccontextmanager
async def polled(server: Server, *first: JSONObject, version: int = 10) -> AsyncIterator[Polled]:
    """Its first list is there, and the next one is under way until the test answers it."""
    follower = Polled(server)
    server.lists.put_nowait((list(first), str(version)))
    task = asyncio.create_task(follower.held.run())
    try:
        await follower.held.synced()
        server.listing.clear()
        await server.listing.wait()
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_delivered_events_count_if_they_are_newer_than_the_list_in_whatever_order_they_come() -> None:
    async with polled(Server(), obj("a", 3), obj("b", 4)) as follower:
        follower.deliver(obj("b", 15))
        follower.deliver(obj("a", 12))
        follower.deliver(obj("a", 11))
        follower.deliver(obj("gone", 9))
        assert follower.values == [12, 15]
    assert follower.told == [("a", None, 3), ("b", None, 4), ("b", 4, 15), ("a", 3, 12)]


async def test_a_delivered_deletion_is_not_undone_by_an_older_answer_event_or_list() -> None:
    server = Server()
    async with polled(server, obj("a", 3), obj("b", 4)) as follower:
        follower.deliver(obj("a", 20, uid="a"), deleted=True)
        assert follower.held.put(obj("a", 18)) is None
        follower.deliver(obj("a", 19))
        assert follower.values == [4]
        server.lists.put_nowait(([obj("a", 3), obj("b", 14)], "15"))
        await follower.until(lambda: follower.values == [14])
        follower.deliver(obj("a", 19))
        assert follower.values == [14], "nor after a list that is older than the deletion"
        follower.deliver(obj("a", 25, uid="second"))
        assert follower.values == [14, 25], "another one of the same name"
        follower.deliver(obj("a", 24, uid="a"), deleted=True)
        assert follower.values == [14, 25], "the end of the first, told late"


async def test_an_event_that_was_lost_costs_no_more_than_the_time_to_the_next_list() -> None:
    server = Server()
    async with polled(server, obj("a", 3), obj("b", 4)) as follower:
        follower.deliver(obj("c", 31))
        server.lists.put_nowait(([obj("a", 22), obj("d", 23)], "30"))
        await follower.until(lambda: follower.values == [22, 23, 31])
        server.lists.put_nowait(([obj("a", 22), obj("c", 31)], "40"))
        await follower.until(lambda: follower.values == [22, 31])
        assert ("b", 4, None) in follower.told


async def test_what_is_delivered_does_not_make_an_old_list_young(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 0.0
    monkeypatch.setattr("fedgpu_operator.reflector.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    server = Server()
    async with polled(server, obj("a", 3)) as follower:
        follower.held.check(20.0)
        ahead = 160.0
        follower.deliver(obj("a", 11))
        with pytest.raises(UnreachableError, match="no list of jobs for 160 s"):
            follower.held.check(20.0)
        server.lists.put_nowait(ForbiddenError("forbidden"))
        await follower.until(lambda: follower.held._trouble is not None)
        with pytest.raises(ForbiddenError):
            follower.held.check(20.0)
        server.lists.put_nowait(([obj("a", 11)], "12"))
        await follower.until(lambda: follower.held.silence() < 20)
        follower.held.check(20.0)


class SlowServer:
    """Lists that take `took` seconds of a clock of their own; each is asked for after a check of what is held."""

    def __init__(self, took: float) -> None:
        self.now, self.took = 0.0, took
        self.begun: list[float] = []
        self.held: PolledReflector[int] | None = None

    async def pages(self, *_: object, **__: object) -> AsyncIterator[tuple[list[JSONObject], str]]:
        self.begun.append(self.now)
        self.now += self.took
        if self.held is not None and len(self.begun) > 1:
            self.held.check(20.0)
        yield [obj("a", 3)], "10"

    async def sleep(self, seconds: float) -> None:
        if len(self.begun) == 3:
            raise asyncio.CancelledError
        self.now += seconds


@pytest.mark.parametrize(
    ("took", "begun"), [(0.0, [0, 10, 20]), (7.0, [0, 10, 20]), (15.0, [0, 15.5, 31]), (40.0, [0, 40.5, 81])]
)
async def test_a_slow_list_is_followed_by_the_next_in_time_and_no_reading_fails_meanwhile(
    monkeypatch: pytest.MonkeyPatch, took: float, begun: list[float]
) -> None:
    server = SlowServer(took)
    monkeypatch.setattr("fedgpu_operator.reflector.time", SimpleNamespace(monotonic=lambda: server.now))
    server.held = PolledReflector(
        server,  # type: ignore[arg-type]  # as above
        BATCH_JOBS,
        lambda found: int(found["value"]),
        lambda *_: None,
        every=10.0,
    )
    monkeypatch.setattr("fedgpu_operator.reflector.asyncio.sleep", server.sleep)
    with pytest.raises(asyncio.CancelledError):
        await server.held.run()
    assert server.begun == begun


async def test_what_is_older_than_patience_and_a_slow_list_is_read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SlowServer(0.0)
    monkeypatch.setattr("fedgpu_operator.reflector.time", SimpleNamespace(monotonic=lambda: server.now))
    held = PolledReflector(
        server,  # type: ignore[arg-type]  # as above
        BATCH_JOBS,
        lambda found: int(found["value"]),
        lambda *_: None,
        every=10.0,
    )
    await held.relist()
    server.now += 49
    held.check(20.0)
    server.now += 2
    with pytest.raises(UnreachableError, match="no list of "):
        held.check(20.0)
