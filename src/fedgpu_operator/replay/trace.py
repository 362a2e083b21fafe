"""Traces as files: CSV in the columns of Alibaba's GPU trace of 2023, read into values with the line of every mistake.

Columns: https://github.com/alibaba/clusterdata, cluster-trace-gpu-v2023 (openb_pod_list_*.csv, openb_node_list_*.csv).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedgpu_operator.errors import ConfigurationError

TASK_COLUMNS: Final = ("name", "num_gpu", "gpu_milli", "gpu_spec", "creation_time", "deletion_time", "scheduled_time")
NODE_COLUMNS: Final = ("sn", "gpu", "model")
WHOLE: Final = 1000
MAX_GPUS: Final = 1024


@dataclass(frozen=True, slots=True)
class Task:
    """One task that ran: `gpus` whole GPUs of one of `models` (empty: any) for `seconds`, wanted from `created` on.

    `milli` is what it asked for of each GPU, in thousandths: it is sold the whole of it.
    """

    name: str
    gpus: int
    milli: int
    models: frozenset[str]
    created: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Node:
    """One machine with GPUs of one model."""

    name: str
    model: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Trace:
    """The tasks to replay by time of creation, and how many rows were left out and why."""

    tasks: tuple[Task, ...]
    without_gpu: int
    never_started: int


def read_tasks(path: Path) -> Trace:
    """The tasks of a file, without those that want no GPU or never started: nobody knows how long the latter run.

    Raises ConfigurationError that names file and line.
    """
    without_gpu = never_started = 0
    tasks, lines = [], dict[str, int]()
    for line, row in _rows(path, TASK_COLUMNS):
        name, gpus = row["name"], _number(path, line, row, "num_gpu", most=MAX_GPUS)
        if name in lines:
            raise _bad(path, line, f"name {name!r} stands on line {lines[name]} already")
        lines[name] = line
        created = _number(path, line, row, "creation_time")
        if not gpus:
            without_gpu += 1
        elif not row["scheduled_time"]:
            never_started += 1
        else:
            tasks.append(_task(path, line, row, gpus, created))
    if not tasks:
        raise ConfigurationError(f"{path}: no task in it has GPUs and ran")
    return Trace(tuple(sorted(tasks, key=lambda task: (task.created, task.name))), without_gpu, never_started)


def _task(path: Path, line: int, row: dict[str, str], gpus: int, created: int) -> Task:
    started = _number(path, line, row, "scheduled_time")
    ended = _number(path, line, row, "deletion_time")
    if not created <= started <= ended:
        raise _bad(path, line, f"it was created at {created}, started at {started} and ended at {ended}: not in order")
    milli = _number(path, line, row, "gpu_milli", most=WHOLE)
    models = frozenset(each for each in row["gpu_spec"].split("|") if each)
    return Task(row["name"], gpus, milli or WHOLE, models, created, max(1, ended - started))


def read_nodes(path: Path) -> tuple[Node, ...]:
    """The nodes of a file that have GPUs, by name. Raises ConfigurationError that names file and line."""
    nodes, lines = [], dict[str, int]()
    for line, row in _rows(path, NODE_COLUMNS):
        name, gpus = row["sn"], _number(path, line, row, "gpu", most=MAX_GPUS)
        if name in lines:
            raise _bad(path, line, f"sn {name!r} stands on line {lines[name]} already")
        lines[name] = line
        if gpus and not row["model"]:
            raise _bad(path, line, f"node {name!r} has {gpus} GPUs and no model")
        if gpus:
            nodes.append(Node(name, row["model"], gpus))
    if not nodes:
        raise ConfigurationError(f"{path}: no node in it has GPUs")
    return tuple(sorted(nodes, key=lambda node: node.name))


def read_prices(path: Path) -> dict[str, str]:
    """USD per GPU-hour as text, by model, from a CSV with the columns model and usd_per_gpu_hour."""
    return {row["model"]: row["usd_per_gpu_hour"] for _, row in _rows(path, ("model", "usd_per_gpu_hour"))}


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) with `nan` read as nothing. Raises ConfigurationError where it is no CSV with these columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [each for each in columns if each not in (reader.fieldnames or ())]
            if missing:
                raise ConfigurationError(f"{path}:1: no column {', '.join(missing)}; it needs {', '.join(columns)}")
            for row in reader:
                if None in row or None in row.values():
                    raise _bad(
                        path, reader.line_num, f"{len(reader.fieldnames or ())} columns are named and not filled"
                    )
                yield reader.line_num, {key: "" if text.lower() == "nan" else text.strip() for key, text in row.items()}
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: is no CSV in UTF-8: {error}") from error


def _number(path: Path, line: int, row: dict[str, str], column: str, most: int = 2**40) -> int:
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        raise _bad(path, line, f"{column} must be a number, not {text!r}") from None
    if not value.is_integer() or not 0 <= value <= most:
        raise _bad(path, line, f"{column} must be a whole number from 0 to {most}, not {text!r}")
    return int(value)


def _bad(path: Path, line: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path}:{line}: {why}")
