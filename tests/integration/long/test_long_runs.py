"""The month and the soak, as small as they get: both are long when they count, and must not rot meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_month_measures_every_figure_of_this_build() -> None:
    argv = [sys.executable, "-m", "benchmarks.month", "--quick", "--alone"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert all(value.strip() for _, value in rows), done.stdout


def test_a_soak_that_is_stopped_early_writes_what_it_has_and_leaves_nothing_behind(tmp_path: Path) -> None:
    out, picture, scratch = tmp_path / "soak.json", tmp_path / "soak.svg", tmp_path / "scratch"
    scratch.mkdir()
    argv = [sys.executable, "-m", "tests.soak", "60", "--rate", "60", "--out", str(out), "--picture", str(picture)]
    env = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as soak:
        assert soak.stdout is not None
        said = []
        for line in soak.stdout:
            said.append(line)
            if "1.0 min" in line:
                soak.send_signal(signal.SIGTERM)
                break
        said += soak.stdout.readlines()
    assert soak.returncode in (0, 1), "".join(said)
    document = json.loads(out.read_text())
    assert document["sound"], document["verify"]
    assert not document["complete"]
    assert document["created"] > 20
    assert not document["refused"], document["notes"]
    assert document["samples"][-1]["hub.computejobs"] > 0
    assert "operator.rssMiB" in {finding["figure"] for finding in document["findings"]}
    assert picture.read_text().startswith("<?xml")
    assert not list(scratch.iterdir()), "the lab, its ledger and its keys are gone"
