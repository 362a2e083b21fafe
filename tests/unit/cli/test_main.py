"""Errors are one line with what to do and an exit code, never a traceback; the command starts quickly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.cli import advice, program_name
from fedgpu_operator.errors import (
    ChainUnreachableError,
    FedGPUError,
    ForbiddenError,
    KubeError,
    NotFoundError,
    PendingError,
    UnreachableError,
)

if TYPE_CHECKING:
    from .conftest import FakeHub

    Run = Callable[..., tuple[int, str, str]]

HEAVY = ("kubernetes", "aiohttp", "web3", "kopf", "pydantic", "numpy", "ortools", "sqlalchemy", "yaml", "httpx")


def test_help_loads_nothing_heavy() -> None:
    """So that it stays far under 0.3 s; a clock in a test would measure the machine instead."""
    code = (
        "import sys; from fedgpu_operator.cli import main; main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    verbs = ("demo", "operator", "crds", "explain", "offers", "cost")
    for verb in (*verbs, "account", "provider", "chain", "settle", "payouts", "ledger"):
        assert f"\n  {verb} " in done.stdout


def test_crds_can_be_piped_into_kubectl(run: Run) -> None:
    code, out, err = run("crds")
    documents = list(yaml.safe_load_all(out))
    assert (code, err) == (0, "")
    assert [each["metadata"]["name"] for each in documents] == [kind.info.crd_name for kind in KINDS]


def test_a_wrong_setting_stops_the_operator_with_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGPU_RESYNC_SECONDS", "soon")
    code, out, err = run("operator")
    assert (code, out) == (2, "")
    assert err == "error: FEDGPU_RESYNC_SECONDS: must be a number, not 'soon'\n"


def test_an_unknown_verb_and_a_missing_job_are_usage_errors(run: Run) -> None:
    assert run("settel")[0] == 2
    assert run("explain")[0] == 2
    assert run("cost", "job", "-A")[0] == 2


@pytest.mark.parametrize(
    ("present", "code", "words"),
    [(True, 1, "API server unreachable: "), (False, 2, "kubeconfig")],
)
def test_a_server_or_a_kubeconfig_that_is_not_there(
    kubeconfig: Callable[[str], Path], present: bool, code: int, words: str
) -> None:
    path = kubeconfig("https://127.0.0.1:1")
    if not present:
        path.unlink()
    for verb in (["offers"], ["explain", "job"]):
        done = subprocess.run(
            [sys.executable, "-m", "fedgpu_operator", *verb],
            env=os.environ | {"KUBECONFIG": str(path)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert "KUBECONFIG" in done.stderr or str(path) in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_context_that_is_not_there(run: Run, hub: FakeHub) -> None:
    code, _, err = run("explain", "job", "--context", "nowhere")
    assert code == 2
    assert "nowhere" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnreachableError("GET /x: refused"), "check KUBECONFIG"),
        (ForbiddenError("GET /x: 401", status=401), "credentials rejected"),
        (ForbiddenError("GET /x: 403", status=403), "permission denied"),
        (
            NotFoundError("GET /apis/fedgpu.dev/v1alpha1/computejobs: 404: 404 page not found", status=404),
            "fedgpu crds",
        ),
    ],
)
def test_each_refusal_says_what_to_do(run: Run, hub: FakeHub, error: KubeError, words: str) -> None:
    hub.error = error
    code, out, err = run("offers")
    assert (code, out) == (1, "")
    assert words in err
    assert hub.closed


@pytest.mark.parametrize("error", [FedGPUError("a\n  b"), ChainUnreachableError("a\nb"), KubeError("a\nb")])
def test_advice_is_one_line(error: FedGPUError) -> None:
    assert advice(error) == "a b"


def test_what_may_have_been_sent_is_neither_done_nor_failed(
    run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "error", PendingError("0xabc is in no block after 1800 s"))
    code, _, err = run("offers")
    assert (code, err) == (3, "error: 0xabc is in no block after 1800 s\n")


def test_a_missing_job_names_it(run: Run, hub: FakeHub) -> None:
    code, _, err = run("explain", "nope")
    assert code == 1
    assert '"nope" not found' in err


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/bin/fedgpu", "fedgpu"),
        ("/opt/kubectl-fedgpu", "kubectl fedgpu"),
        ("__main__.py", "fedgpu"),
    ],
)
def test_the_plugin_shows_the_name_it_was_called_by(path: str, name: str) -> None:
    assert program_name(path) == name


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedgpu_operator", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("fedgpu ")
