"""A revert in every form that clients give it: the same bytes, and words that a person can read."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.chain.errors import LONGEST_REASON, PANICS, explain, revert_data


def data_of(signature: str, *values: object) -> str:
    kinds = [kind for kind in signature.partition("(")[2].rstrip(")").split(",") if kind]
    return "0x" + (keccak(text=signature)[:4] + encode(kinds, list(values))).hex()


PAUSED = data_of("Error(string)", "paused")
OVERFLOW = data_of("Panic(uint256)", 0x11)
CUSTOM = data_of("NotActive(uint32,uint32)", 7, 3)

FORMS = [
    ("geth", {"code": 3, "message": "execution reverted: paused", "data": PAUSED}, PAUSED),
    ("Besu", {"code": 3, "message": "Execution reverted (paused)", "data": PAUSED}, PAUSED),
    ("gateway that drops data", {"code": -32000, "message": "execution reverted: paused"}, PAUSED),
    ("anvil", {"code": 3, "message": "execution reverted: revert: paused"}, PAUSED),
    ("OpenEthereum", {"code": -32015, "message": "VM execution error.", "data": f"Reverted {PAUSED}"}, PAUSED),
    ("capitals", {"code": 3, "message": "execution reverted", "data": "0x" + PAUSED[2:].upper()}, PAUSED),
    ("Hardhat", {"code": -32603, "message": "Error: VM Exception", "data": {"message": "m", "data": PAUSED}}, PAUSED),
    ("wallet", {"message": "Internal", "data": {"originalError": {"data": {"data": PAUSED}}}}, PAUSED),
    (
        "Hardhat, reason alone",
        {"message": "Error: VM Exception while processing transaction: reverted with reason string 'paused'"},
        PAUSED,
    ),
    ("Hardhat, panic alone", {"message": "reverted with panic code 0x11 (Arithmetic operation overflowed)"}, OVERFLOW),
    (
        "Hardhat, bytes alone",
        {"message": f"reverted with an unrecognized custom error (return data: {CUSTOM})"},
        CUSTOM,
    ),
    ("bytes as words", {"message": f"execution reverted: {CUSTOM}"}, CUSTOM),
    ("no bytes", {"code": 3, "message": "execution reverted", "data": "0x"}, None),
    ("bad instruction", {"code": -32015, "message": "VM execution error.", "data": "Bad instruction fe"}, None),
    ("no revert", {"code": -32000, "message": "header not found"}, None),
    ("half a byte", {"code": 3, "message": "execution reverted", "data": "0x08c379a0f"}, None),
    ("text", "execution reverted", None),
]


@pytest.mark.parametrize(("who", "error", "data"), FORMS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_form_has_the_same_bytes(who: str, error: object, data: str | None) -> None:
    assert revert_data(error) == data, who


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PAUSED, "paused"),
        (OVERFLOW, "Panic(0x11): arithmetic overflow or underflow"),
        (data_of("Panic(uint256)", 0x99), "Panic(0x99): an unknown panic"),
        (CUSTOM, "NotActive(epoch=7, active=3)"),
        (data_of("Unheard()"), "an unknown error " + data_of("Unheard()")),
        (data_of("Error(string)", "\x1b[31m\nlies"), "\ufffd[31m lies"),
        (PAUSED[:-80], "reverted with an unreadable reason"),
        (CUSTOM[:12], "NotActive"),
        (None, "out of gas"),
    ],
)
def test_what_a_revert_says(data: str | None, words: str) -> None:
    assert explain(data, "out of gas") == words


def test_every_panic_has_a_name() -> None:
    for code, name in PANICS.items():
        assert explain(data_of("Panic(uint256)", code), "") == f"Panic(0x{code:02x}): {name}"


@given(st.binary(max_size=300))
def test_whatever_a_contract_reverts_with_can_be_shown(tail: bytes) -> None:
    for head in (PAUSED[:10], OVERFLOW[:10], CUSTOM[:10], "0x"):
        words = explain(head + tail.hex(), "no words")
        assert words
        assert "\n" not in words
        assert len(words) <= 2 * LONGEST_REASON
