"""A name means one thing in the whole project: no two modules of src/ define the same class, or constant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

COINCIDENCES: Final = frozenset(
    {
        "BUSY_TIMEOUT_MS",  # of two database engines
        "FIRST_PAUSE_SECONDS",  # of a watch, and of the start
        "PATIENCE_S",  # of commands, which load no chain client before they need one
        "PATIENCE_SECONDS",  # of an agent, and of a pass over providers
        "READING_S",  # as PATIENCE_S
        "SHARE",  # of usage, and of a solver's time
        "SHOWN",  # rows of two commands
    }
)
"""Constants of equal name and value that may change apart."""
SOURCES: Final = Path(__file__).resolve().parents[3] / "src" / "fedgpu_operator"


def test_every_public_class_name_means_one_thing() -> None:
    assert shared_class_names(SOURCES) == {}, "rename all but one of these classes by what sets them apart"


def test_the_checker_finds_a_name_that_two_modules_define(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("class Same: ...\nclass _Private: ...\nclass One: ...\n", encoding="utf-8")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "two.py").write_text("class Same: ...\nclass _Private: ...\n", encoding="utf-8")
    assert shared_class_names(tmp_path) == {"Same": ["inner/two.py", "one.py"]}


def shared_class_names(root: Path) -> dict[str, list[str]]:
    """Public class names that more than one module below `root` defines at its top level, with those modules."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(path.relative_to(root).as_posix())
    return {name: found for name, found in sorted(modules.items()) if len(found) > 1}


def test_every_constant_is_defined_once() -> None:
    found = {name: where for name, where in shared_constants(SOURCES).items() if name not in COINCIDENCES}
    assert found == {}, "define it once, in the lowest module that all of these may import"


def test_no_coincidence_is_allowed_that_is_none() -> None:
    assert shared_constants(SOURCES).keys() >= COINCIDENCES


def test_the_checker_finds_a_constant_that_two_modules_define(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from typing import Final\nROWS: Final = 5_000\nT = TypeVar('T')\nMOST = 1\n")
    (tmp_path / "two.py").write_text("ROWS = 5000\nT = TypeVar('T')\nMOST = 2\n", encoding="utf-8")
    assert shared_constants(tmp_path) == {"ROWS": ["one.py", "two.py"]}


def shared_constants(root: Path) -> dict[str, list[str]]:
    """Constants that more than one module below `root` defines with the same value; a migration stays as it was."""
    modules: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        if "migrations" in path.parts:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            name, value = node.target if isinstance(node, ast.AnnAssign) else node.targets[0], ast.unparse(node.value)
            if isinstance(name, ast.Name) and name.id.isupper() and not value.startswith(("TypeVar", "ParamSpec")):
                modules[name.id, value].append(path.relative_to(root).as_posix())
    return {name: found for (name, _), found in sorted(modules.items()) if len(found) > 1}
