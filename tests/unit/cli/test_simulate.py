"""``fedgpu simulate`` as it is called: the example trace, its picture, and mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "traces"
FILES = ["--trace", str(EXAMPLES / "tasks.csv"), "--nodes", str(EXAMPLES / "nodes.csv")]
Run = Callable[..., tuple[int, str, str]]


def test_the_example_shows_every_scheduler_beside_ours(run: Run) -> None:
    code, out, _ = run("simulate", *FILES, "-o", "json")
    assert code == 0
    result = json.loads(out)
    ours, greedy, kube = result["results"]
    assert [each["scheduler"] for each in result["results"]] == ["fedgpu", "greedy", "kube"]
    assert ours["tasks"] == greedy["tasks"] == kube["tasks"] == result["trace"]["replayed"]
    assert ours["gpuHours"] == greedy["gpuHours"] == kube["gpuHours"]
    assert ours["usd"] < kube["usd"]


def test_people_get_a_table_of_those_they_asked_for(run: Run) -> None:
    code, out, _ = run("simulate", *FILES, "--policy", "greedy")
    assert code == 0
    assert out.splitlines()[0].startswith("272 tasks on 88 GPUs of 14 nodes at ")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["SCHEDULER", "greedy"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_drawn(run: Run, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"replay.{suffix}"
    code, _, err = run("simulate", *FILES, "--policy", "greedy", "--policy", "kube", "--plot", str(target))
    assert (code, err) == (0, "")
    head = target.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in head


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--trace", "nowhere.csv"], "nowhere.csv: No such file"),
        ([*FILES, "--plot", "replay.gif"], "must end in .svg or .png"),
        ([*FILES, "--prices", str(EXAMPLES / "nodes.csv")], "no column usd_per_gpu_hour"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, arguments: list[str], why: str) -> None:
    code, out, err = run("simulate", *arguments, "--policy", "greedy")
    assert (code, out) == (2, "")
    assert why in err
    assert len(err.splitlines()) == 1
