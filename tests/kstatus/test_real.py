"""kstatus itself (fluxcd/cli-utils), over an object of every kind in every state: `make test-kstatus`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.kstatus.objects import every_case
from tests.kstatus.rules import kstatus

from fedgpu_lab.gobuild import find_go
from fedgpu_lab.progress import QuietProgress
from fedgpu_lab.toolchain import cache_root

SOURCE = Path(__file__).parent


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of this folder, built; Go's own cache makes every build but the first one short."""
    with QuietProgress().task("Building kstatus") as task:
        go = find_go(SOURCE, cache_root(), task)
    built = tmp_path_factory.mktemp("kstatus") / "kstatus"
    env = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    subprocess.run([go, "build", "-trimpath", "-buildvcs=false", "-o", built, "."], cwd=SOURCE, env=env, check=True)
    return built


def test_kstatus_itself_says_what_the_table_says(program: Path) -> None:
    cases = every_case()
    objects = json.dumps([case.object for case in cases])
    answer = subprocess.run([program], input=objects, capture_output=True, text=True, check=True)
    said = dict(zip(((case.kind, case.text) for case in cases), answer.stdout.split(), strict=True))
    assert said == {(case.kind, case.text): case.word for case in cases}
    assert said == {(case.kind, case.text): kstatus(case.object) for case in cases}, "the restatement is faithful"
