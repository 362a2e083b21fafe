"""The operator's image: it starts without privileges and without a disk to write to, it is small, it is repeatable."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kind.conftest import Timings

from fedgpu_lab.engine import Engine

CONFINED = ("--read-only", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
MOST_COMPRESSED = 250_000_000


def run(engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    return engine.docker("run", "--rm", *CONFINED, *words, check=False)


def test_it_runs_without_privileges_on_a_read_only_file_system(engine: Engine, operator_image: str) -> None:
    assert "Run the operator" in run(engine, operator_image, "operator", "--help").stdout
    who = run(engine, "--entrypoint=id", operator_image)
    assert who.stdout.startswith("uid=65532 gid=65532"), who.stdout
    written = run(engine, "--entrypoint=touch", operator_image, "/opt/fedgpu/file")
    assert "Read-only file system" in written.stderr


def test_everything_that_the_operator_loads_is_there(engine: Engine, operator_image: str) -> None:
    """Help loads little: without a cluster the operator itself ends, by its own word and not for want of a library."""
    ended = run(engine, operator_image, "operator")
    assert ended.returncode != 0
    assert "kubeconfig" in (ended.stdout + ended.stderr).lower(), ended.stdout + ended.stderr
    script = "import numpy, pandas, coincurve, psycopg, ortools.graph.python.min_cost_flow, fedgpu_operator.bootstrap"
    loaded = run(engine, "--entrypoint=python", operator_image, "-c", script)
    assert loaded.returncode == 0, loaded.stderr


def test_it_is_small(operator_archive: Path, timings: Timings) -> None:
    compressed = 0
    with operator_archive.open("rb") as archive:
        argv = ["gzip", "-6", "--stdout"]
        with subprocess.Popen(argv, stdin=archive, stdout=subprocess.PIPE) as packing:
            assert packing.stdout is not None
            while block := packing.stdout.read(1 << 20):
                compressed += len(block)
    timings.figures |= {"image bytes": operator_archive.stat().st_size, "image bytes compressed": compressed}
    assert compressed <= MOST_COMPRESSED


def test_nothing_leads_out_of_the_engines_network(engine: Engine) -> None:
    routes = engine.routes()
    assert any("uplink" in route for route in routes)
    assert all(" scope link " in route for route in routes), routes
