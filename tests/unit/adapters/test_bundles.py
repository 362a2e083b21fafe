"""What goes into a bundle comes out of it, so that one that no node takes can be divided."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.chain.calls import MULTICALL3, bundle, bundled
from fedgpu_operator.domain.transactions import Call

TO = "0x" + "1" * 40


@given(st.lists(st.binary(min_size=4, max_size=200), min_size=1, max_size=8))
def test_a_bundle_holds_its_calls_in_their_order(data: list[bytes]) -> None:
    calls = [Call(TO, "0x" + each.hex(), what="answer") for each in data]
    made = bundle(MULTICALL3, calls)
    assert bundled(made) == tuple(calls)
    assert (made.to, made.what) == (MULTICALL3, "answer")


@given(st.binary(min_size=4, max_size=200))
def test_any_other_call_is_no_bundle(data: bytes) -> None:
    assert bundled(Call(TO, "0x" + data.hex())) == ()
