"""A public class name means one thing in the whole project: no two modules of src/ define the same one."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

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
