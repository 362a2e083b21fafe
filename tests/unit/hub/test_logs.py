"""Log lines: one object each with what the work is about, and nothing in them steers the terminal that shows them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from tests.unit.hub.fakes import FakeMetrics
from tests.unit.hub.world import World

from fedgpu_operator import logs
from fedgpu_operator.domain.text import is_clean
from fedgpu_operator.errors import UnreachableError
from fedgpu_operator.hub.loops.loop import Loop
from fedgpu_operator.hub.services.writes import for_each, one_of_many

Lines = Callable[[], list[dict[str, Any]]]
log = logging.getLogger("fedgpu_operator.test")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """`configure` changes the process's logging; the tests' own comes back afterwards."""
    root, libraries = logging.getLogger(), [logging.getLogger(name) for name in logs.QUIET_LOGGERS]
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for library in libraries:
        library.setLevel(logging.NOTSET)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines() -> Lines:
    """Everything that the operator logs from now on, as a collector parses it."""
    logs.configure("DEBUG", "json")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    written = io.StringIO()
    handler.setStream(written)

    def said() -> list[dict[str, Any]]:
        found = map(json.loads, written.getvalue().splitlines())
        return [line for line in found if line["logger"].startswith("fedgpu_operator")]

    return said


def record(text: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    trouble = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("fedgpu", logging.ERROR, __file__, 1, text, arguments, trouble)


def test_the_log_is_one_json_object_a_line_with_its_exception() -> None:
    with pytest.raises(ValueError, match="broken") as raised:
        int("broken")
    line = logs.formatter("json").format(record("pass %s\nfailed", "one", error=raised.value))
    assert "\n" not in line
    said = json.loads(line)
    assert list(said)[:4] == ["time", "level", "logger", "message"]
    assert (said["level"], said["message"], said["logger"]) == ("ERROR", "pass one\nfailed", "fedgpu")
    assert "ValueError: invalid literal" in said["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_holds_nothing_that_steers_a_terminal(form: Any) -> None:
    words = "\x1b[2Jone\ud800\u202e"
    with logs.bound(provider=words, **{words: [words]}):
        line = logs.formatter(form).format(record("provider: %s", words, error=ValueError(words)))
    shown = line if form == "text" else "".join(map(str, json.loads(line).items()))
    assert is_clean(shown)
    assert line.isascii() or form == "text"
    assert shown.count("one") >= 4


def test_text_is_readable_without_colors_and_names_what_it_is_about() -> None:
    with logs.bound(loop="jobs", jobUID="u-1"):
        line = logs.formatter("text").format(record("job %s placed", "team-a/train"))
    assert "\x1b" not in line
    assert line.endswith("job team-a/train placed [fedgpu] jobUID=u-1 loop=jobs")


def test_libraries_that_print_every_request_are_quiet_even_when_we_debug() -> None:
    logs.configure("DEBUG", "text")
    for name in ("httpx", "aiohttp", "web3", "kopf"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert logging.getLogger("fedgpu_operator").isEnabledFor(logging.DEBUG)


def test_a_structlog_logger_writes_the_same_lines(lines: Lines) -> None:
    with logs.bound(loop="jobs"):
        structlog.get_logger("fedgpu_operator.test").warning("late", seconds=3)
    (line,) = lines()
    assert (line["message"], line["level"], line["loop"], line["seconds"]) == ("late", "WARNING", "jobs", 3)


async def test_each_line_of_a_pass_says_which_pass_and_which_job_it_is_about(world: World, lines: Lines) -> None:
    jobs = [await world.job(name) for name in ("one", "two")]

    async def work(name: str) -> None:
        with one_of_many(next(job for job in jobs if job.metadata.name == name)):
            await asyncio.sleep(0)
            log.info("looked at")
            raise UnreachableError("no answer")

    async def pass_once() -> None:
        await for_each(work, ["one", "two"])
        log.info("done")

    loop = Loop("jobs", pass_once, resync=60, metrics=FakeMetrics())
    for _ in range(2):
        await loop._guarded_pass()
    log.info("outside")
    *inside, outside = lines()
    assert not {"loop", "pass", "job"} & outside.keys()
    assert {(line["loop"], line["pass"]) for line in inside} == {("jobs", 1), ("jobs", 2)}
    named = {(line["message"], line.get("job"), line.get("jobUID")) for line in inside}
    uids = {job.metadata.name: job.metadata.uid for job in jobs}
    assert named == {("done", None, None)} | {
        (message.format(name), f"team-a/{name}", uids[name])
        for name in uids
        for message in ("looked at", "ComputeJob team-a/{}: no answer")
    }


async def test_a_line_about_a_lease_names_its_job_and_its_provider(world: World, lines: Lines) -> None:
    await world.provider("berlin")
    job = await world.job()
    await world.pass_once()
    lease = world.lease
    with one_of_many(lease):
        log.info("stops")
    said = {key: lines()[-1][key] for key in ("job", "jobUID", "lease", "provider")}
    assert said == {
        "job": "team-a/train",
        "jobUID": job.metadata.uid,
        "lease": lease.metadata.name,
        "provider": lease.spec.provider,
    }


async def test_work_that_outlives_the_pass_that_began_it_is_not_about_that_pass(lines: Lines) -> None:
    async def agent() -> None:
        with logs.alone(provider="berlin"):
            log.info("works")
        log.info("ends")

    with logs.bound(loop="agents", **{"pass": 1}):
        await asyncio.create_task(agent())
    works, ends = lines()
    assert (works["provider"], "loop" in works, "pass" in works) == ("berlin", False, False)
    assert (ends["loop"], "provider" in ends) == ("agents", False)
