"""One writer per kind, in code: nothing in the hub writes an object of ours but the writer of its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import fedgpu_operator.hub
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.hub.services import writes
from fedgpu_operator.hub.services.writes import EventWriter, Writer

HUB = Path(fedgpu_operator.hub.__file__).parent
DOCS = Path(__file__).resolve().parents[3] / "docs"
WRITERS = Path("services/writes.py")
VERBS = frozenset({"create", "apply", "patch", "patch_status", "delete"})
GUARDED = frozenset({"emit", "write_status", "patch_to_fit", "relieve"})
READ_ONLY = frozenset({"PlacementPolicy"})
"""Kinds that the hub only reads."""


def writes_of(source: str) -> Iterator[str]:
    """The calls that write an object of ours; ConfigMaps of the operator's own are none."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in GUARDED:
            yield ast.unparse(node)
        elif isinstance(called, ast.Attribute) and called.attr in VERBS:
            on, kind = ast.unparse(called.value), node.args[0] if node.args else None
            if on.split(".")[-1].strip("_") == "kube" and not (isinstance(kind, ast.Name) and kind.id == "CONFIG_MAPS"):
                yield ast.unparse(node)


def writers() -> dict[str, type[Writer[Any]]]:
    """The writer of each kind, by its name."""
    found: dict[str, type[Writer[Any]]] = {}
    for each in vars(writes).values():
        if isinstance(each, type) and issubclass(each, Writer) and each not in (Writer, EventWriter):
            ((kind,),) = [get_args(base) for base in vars(each)["__orig_bases__"]]
            assert kind.info.kind not in found, f"{kind.info.kind} has two writers"
            found[kind.info.kind] = each
    return found


@pytest.mark.parametrize("path", sorted(HUB.rglob("*.py")), ids=lambda path: str(path.relative_to(HUB)))
def test_only_the_writers_write(path: Path) -> None:
    if path.relative_to(HUB) != WRITERS:
        assert not list(writes_of(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "await self._kube.patch(LEASES, name, namespace, patch)",
        "await kube.delete(ResourceType.of(job.info), name)",
        "await write_status(self._kube, job, old, new)",
        "await emit(self._kube, job, 'Normal', 'Placed', '', now=now)",
    ],
)
def test_a_write_elsewhere_is_found(line: str) -> None:
    assert list(writes_of(f"async def late() -> None:\n    {line}\n"))


def made_in(source: str) -> Iterator[str]:
    """The calls that make a writer, or all of them."""
    names = {each.__name__ for each in writers().values()} | {"Writers"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", sorted(HUB.rglob("*.py")), ids=lambda path: str(path.relative_to(HUB)))
def test_no_loop_or_service_makes_a_writer(path: Path) -> None:
    """A writer remembers what it has not sent and what was refused: two of one kind know half of it each."""
    if path.relative_to(HUB) != WRITERS:
        assert not list(made_in(path.read_text(encoding="utf-8"))), "take it from the Factory's Writers"


def test_the_factory_makes_the_writers_once() -> None:
    assert list(made_in("self._jobs = writes.JobWriter(kube, clock)\nall_ = Writers(kube, clock)")) != []
    found = list(made_in((HUB.parent / "bootstrap" / "factory.py").read_text(encoding="utf-8")))
    assert found == ["Writers(self.kube, self.clock, settlement=self.proofs is not None)"]


def test_each_kind_that_the_hub_writes_has_one_writer() -> None:
    assert writers().keys() == {kind.info.kind for kind in KINDS} - READ_ONLY


def test_the_architecture_names_the_writer_of_each_kind() -> None:
    _, table = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## Who writes what")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    for kind, writer in writers().items():
        assert any(f"`{kind}`" in row and f"`{writer.__name__}`" in row for row in rows), (kind, writer.__name__)
