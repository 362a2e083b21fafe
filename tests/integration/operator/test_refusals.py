"""Bad input: kubeconfigs that could run programs, Secrets that are not there, configurations that can never work."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.operator.federation import Federation, offer

Kubeconfig = dict[str, Any]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where a stranger's kubeconfig points; whoever dials it is noticed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def _with_exec(config: Kubeconfig, marker: Path) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(marker)]}
    config["users"][0]["user"] = {"exec": command}


def _with_plugin(config: Kubeconfig, marker: Path) -> None:
    config["users"][0]["user"] = {"auth-provider": {"name": "gcp"}}


def _with_file(config: Kubeconfig, marker: Path) -> None:
    config["users"][0]["user"] = {"tokenFile": "/etc/passwd"}


def _insecure(config: Kubeconfig, marker: Path) -> None:
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    del config["clusters"][0]["cluster"]["certificate-authority-data"]


CASES = {"exec": _with_exec, "auth-provider": _with_plugin, "tokenFile": _with_file, "insecure": _insecure}


def test_dangerous_kubeconfigs_are_refused_and_never_dialled(
    running: Federation, listener: socket.socket, tmp_path: Path
) -> None:
    marker, names = tmp_path / "ran", {}
    for word, change in CASES.items():
        config = yaml.safe_load(running.lab.members["alpha"].kubeconfig_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{listener.getsockname()[1]}"
        change(config, marker)
        names[word] = f"bad-{word.lower()}"
        running.add_provider(names[word], offer("FR", names[word], "0.01"), yaml.safe_dump(config))
    try:
        for word, name in names.items():
            refused = running.until_provider(name, "Connected", "False")
            assert refused["reason"] == "KubeconfigRefused"
            assert word in refused["message"], refused
            assert running.provider(name)["state"] == "NotReady"
        assert not marker.exists(), "no shell runs for a stranger"
        with pytest.raises(BlockingIOError):
            listener.accept()
    finally:
        running.hub.kubectl("delete", "gpup", *names.values(), "--wait=false")


def test_a_secret_that_is_not_there_is_named_and_picked_up_once_it_is(running: Federation) -> None:
    running.add_provider("secretless", offer("FR", "secretless", "9.00"), None)
    try:
        refused = running.until_provider("secretless", "Connected", "False")
        assert refused["reason"] == "SecretNotFound"
        assert "fedgpu-system/secretless" in refused["message"]
        kubeconfig = running.lab.members["beta"].kubeconfig_text()
        secret = {"metadata": {"name": "secretless"}, "stringData": {"kubeconfig": kubeconfig}}
        running.hub.api.create("/api/v1/namespaces/fedgpu-system/secrets", secret)
        running.until_provider("secretless", "Connected", "True")
    finally:
        running.hub.kubectl("delete", "gpup", "secretless", "--wait=false")


def test_a_namespace_that_was_there_before_is_not_taken_over(running: Federation) -> None:
    running.hub.create_namespace("fedgpu-provider-squat")
    running.add_provider("squat", offer("FR", "alpha", "9.00"), None)
    try:
        refused = running.until_provider("squat", "Accepted", "False")
        assert refused["reason"] == "NamespaceTaken"
    finally:
        running.hub.kubectl("delete", "gpup", "squat", "--wait=false")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FEDGPU_CHAIN_ID": "1"}, "serves chain 31337, configured is 1"),
        ({"FEDGPU_ESCROW_ADDRESS": "0x" + "12" * 20}, "no contract"),
        ({"FEDGPU_LEDGER": "/dev/null/ledger.db"}, "ledger"),
        ({"FEDGPU_EPOCH_SECOND": "3"}, "FEDGPU_EPOCH_SECOND"),
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, "/nowhere/kubeconfig"),
    ],
)
def test_a_configuration_that_can_never_work_ends_at_once_with_one_line(
    federation: Federation, changes: dict[str, str], words: str
) -> None:
    ended = federation.run_operator(**changes)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.stderr
    assert words in errors[0]
    assert ended.stderr.splitlines()[-1] == errors[0]


def test_a_hub_without_our_kinds_is_told_what_to_do(federation: Federation) -> None:
    """A member serves as a hub that nobody has prepared."""
    ended = federation.run_operator(KUBECONFIG=str(federation.lab.members["beta"].kubeconfig))
    assert ended.returncode == 2
    assert "fedgpu crds | kubectl apply" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_settler_key_is_said_without_the_key(federation: Federation, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("not-a-key-but-secret")
    ended = federation.run_operator(FEDGPU_SETTLER_KEY_FILE=str(key))
    assert ended.returncode == 2
    assert "not-a-key-but-secret" not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
