"""The packaged contracts: complete, told apart from other code, and blind only where immutables stand."""

from __future__ import annotations

import hashlib
import json
import re
from typing import get_args

import pytest

from fedgpu_operator import artifacts
from fedgpu_operator.artifacts import ContractName, compiler_input, load
from fedgpu_operator.errors import ConfigurationError

EIP_170_LIMIT = 24_576
NAMES: tuple[ContractName, ...] = get_args(ContractName)


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_is_complete(name: ContractName) -> None:
    artifact = load(name)
    assert artifact.name == name
    assert re.fullmatch(r"solc 0\.8\.30\+commit\.[0-9a-f]{8}", artifact.compiler)
    assert re.fullmatch(r"[0-9a-f]{64}", artifact.input_sha256)
    for code in (artifact.bytecode, artifact.deployed_bytecode):
        assert re.fullmatch(r"0x([0-9a-f]{2})+", code), "no unlinked library"
    assert len(artifact.deployed_bytecode) // 2 - 1 < EIP_170_LIMIT


def test_only_the_tokens_are_for_tests() -> None:
    assert [name for name in NAMES if load(name).test_only] == ["TestUSD", "StrictUSD"]


@pytest.mark.parametrize("name", NAMES)
def test_the_compiler_input_is_the_one_that_the_artifact_names(name: ContractName) -> None:
    given = compiler_input(name)
    assert hashlib.sha256(given).hexdigest() == load(name).input_sha256
    assert all(not path.startswith(("/", ".")) for path in json.loads(given)["sources"]), "the same in any folder"


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
