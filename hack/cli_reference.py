"""The reference of the command line as Markdown, from the commands themselves; reads nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import typer

from fedgpu_operator.cli import FAILURE, INTERRUPTED, PENDING, USAGE, app
from fedgpu_operator.cli.common import KeyOptions, TargetOptions

GROUPS: Final[Mapping[str, type]] = {"Connection options": TargetOptions, "Signing options": KeyOptions}
"""Options that many commands share, by the heading under which they are listed once."""
HEAD: Final = f"""# Command line

Generated from the commands by hack/generate.py; do not edit. `fedgpu COMMAND --help` prints the same.

Data goes to standard output, progress and errors to standard error; `-o json` and `-o yaml` are for programs. An error
is one line, `error: WHAT: WHY; FIX`. `kubectl fedgpu` is the same command, if `kubectl-fedgpu` is on the PATH.

| exit code | meaning |
|--:|---|
| 0 | done |
| {FAILURE} | failed, or the answer is no: a check found a difference, the hub or the chain refused |
| {USAGE} | wrong command line, file or configuration; nothing was done |
| {PENDING} | a transaction was signed and may still take effect: run the same command again, which looks for it |
| {INTERRUPTED} | interrupted by Ctrl-C |
"""


def page() -> str:
    """The whole reference."""
    found = list(_commands(typer.main.get_command(app)))
    shared = {title: {field.name for field in dataclasses.fields(group)} for title, group in GROUPS.items()}
    parts = [HEAD]
    for title, names in shared.items():
        holder = next(each for _, each in found if names <= {param.name for param in each.params})
        params = [each for each in holder.params if each.name in names]
        parts.append(f"## {title}\n\n{_table(params)}")
    parts += [_section(path, each, shared) for path, each in found]
    return "\n".join(parts)


def _commands(command: Any, path: str = "fedgpu") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its path; typer's classes for them are not public."""
    below = getattr(command, "commands", {})
    if not below or command.invoke_without_command:
        yield path, command
    for name, each in below.items():
        yield from _commands(each, f"{path} {name}")


def _section(path: str, command: Any, shared: Mapping[str, set[str]]) -> str:
    params = list(command.params)
    arguments = " ".join(_argument(each) for each in params if not each.opts[0].startswith("-"))
    lines = [f"## `{' '.join(filter(None, (path, arguments)))}`", "", *command.help.splitlines(), ""]
    links = []
    for title, names in shared.items():
        if names <= {each.name for each in params}:
            params = [each for each in params if each.name not in names]
            links.append(f"[{title.lower()}](#{title.lower().replace(' ', '-')})")
    if params:
        lines += [_table(params)]
    if links:
        lines += [f"Takes the {' and the '.join(links)}.", ""]
    return "\n".join(lines)


def _argument(param: Any) -> str:
    name = _metavar(param)
    return name if param.required else f"[{name}]"


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name).upper()


def _table(params: Sequence[Any]) -> str:
    rows = ["| option | meaning | default | variable |", "|---|---|---|---|"]
    for each in params:
        name = ", ".join(f"`{opt}`" for opt in each.opts) if each.opts[0].startswith("-") else f"`{_metavar(each)}`"
        variable = f"`{each.envvar}`" if each.envvar else ""
        rows.append(f"| {name} | {each.help}{_values(each.default)} | {_default(each)} | {variable} |")
    return "\n".join(rows) + "\n"


def _values(default: object) -> str:
    return f" One of {', '.join(f'`{each.value}`' for each in type(default))}." if isinstance(default, Enum) else ""


def _default(param: Any) -> str:
    if param.required:
        return "required"
    value = param.default.value if isinstance(param.default, Enum) else param.default
    return "" if value is None or value is False or value == "" else f"`{value}`"
