"""The packaged contracts: complete, told apart from other code, and blind only where immutables stand."""

from __future__ import annotations

import re

import pytest

from fedgpu_operator import artifacts
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.errors import ConfigurationError

EIP_170_LIMIT = 24_576


@pytest.mark.parametrize("name", ["ComputeEscrow", "TestUSD"])
def test_an_artifact_is_complete(name: ContractName) -> None:
    artifact = load(name)
    assert artifact.name == name
    assert re.fullmatch(r"solc 0\.8\.30\+commit\.[0-9a-f]{8}", artifact.compiler)
    assert re.fullmatch(r"[0-9a-f]{64}", artifact.input_sha256)
    for code in (artifact.bytecode, artifact.deployed_bytecode):
        assert re.fullmatch(r"0x([0-9a-f]{2})+", code), "no unlinked library"
    assert len(artifact.deployed_bytecode) // 2 - 1 < EIP_170_LIMIT


def test_only_the_token_is_for_tests() -> None:
    assert [load(name).test_only for name in ("ComputeEscrow", "TestUSD")] == [False, True]


def test_deployed_code_is_recognised_whatever_its_immutables() -> None:
    artifact = load("ComputeEscrow")
    code = bytearray.fromhex(artifact.deployed_bytecode[2:])
    assert artifact.is_deployed_as(bytes(code))
    start, length = artifact.immutables[0]
    code[start : start + length] = b"\x7f" * length
    assert artifact.is_deployed_as(bytes(code))
    code[start + length] ^= 1
    assert not artifact.is_deployed_as(bytes(code)), "one changed byte beside them"
    assert not artifact.is_deployed_as(b"")
    assert not artifact.is_deployed_as(bytes(code[:start]))


def test_a_lacking_artifact_is_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "__package__", "fedgpu_operator.domain")
    load.cache_clear()
    with pytest.raises(ConfigurationError, match="reinstall"):
        load("TestUSD")
    load.cache_clear()
