"""The tree and its manifest: one root for one set of books, proofs that hold for it and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, EpochPlan, Line, Pair
from fedgpu_operator.settlement import (
    MAX_LINES,
    build_epoch,
    claims,
    epochs,
    leaf_hash,
    merkle_proof,
    parse_manifest,
    verify_proof,
)
from fedgpu_operator.settlement.epochs import merkle_proofs

Address = Callable[[int], str]
Books = dict[tuple[int, int], int]
Plan = Callable[..., EpochPlan]

BOOKS = st.dictionaries(
    st.tuples(st.integers(0, 150), st.integers(200, 206)), st.integers(1, 2**64 - 1), min_size=1, max_size=200
)


@pytest.fixture(scope="session")
def plan_of(address: Address) -> Plan:
    def make(books: dict[tuple[int, int], int], debits: dict[int, int] | None = None) -> EpochPlan:
        return build_epoch(
            chain_id=31337,
            escrow=address(999),
            seq=4,
            prev_root=ZERO_HASH,
            period_end=1_700_000_000,
            pairs={(address(t), address(p)): MicroUSD(total) for (t, p), total in books.items()},
            debits={address(t): MicroUSD(amount) for t, amount in (debits or {}).items()},
        )

    return make


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


@given(books=BOOKS, data=st.data())
def test_any_order_gives_the_same_epoch(books: Books, data: st.DataObject, plan_of: Plan) -> None:
    shuffled = dict(data.draw(st.permutations(list(books.items()))))
    assert plan_of(books) == plan_of(shuffled)


@given(books=BOOKS)
def test_every_claim_verifies_and_an_altered_one_does_not(books: Books, plan_of: Plan, address: Address) -> None:
    plan = plan_of(books)
    root = unhex(plan.root)
    paid: dict[Pair, MicroUSD] = {}
    for claim in claims(plan):
        proof = [unhex(node) for node in claim.proof]
        assert len(claim.lines) <= MAX_LINES
        assert verify_proof(root, leaf_hash(claim.provider, claim.lines), proof)
        first, *others = claim.lines
        more = Line(first.tenant, MicroUSD(first.cumulative - 1))
        assert not verify_proof(root, leaf_hash(claim.provider, [more, *others]), proof)
        assert not verify_proof(root, leaf_hash(address(777), claim.lines), proof)
        paid |= {(line.tenant, claim.provider): line.cumulative for line in claim.lines}
    assert paid == {(address(t), address(p)): total for (t, p), total in books.items()} == plan.pairs


@given(hashes=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_all_proofs_together_are_each_leafs_own(hashes: list[bytes]) -> None:
    assert merkle_proofs(hashes) == tuple(merkle_proof(hashes, index) for index in range(len(hashes)))


def test_claims_and_a_known_manifest_cost_what_its_size_does(plan_of: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are done in the event loop, for each live epoch: a tree per leaf took seconds, each line its checksum."""
    plan = plan_of({(0, 200 + p): 1 for p in range(300)})
    work: list[str] = []
    for name in ("_node", "to_checksum_address", "is_checksum_address"):
        true = getattr(epochs, name)

        def counted(*given: object, name: str = name, true: Callable[..., object] = true) -> object:
            work.append(name)
            return true(*given)

        monkeypatch.setattr(epochs, name, counted)
    assert len(claims(plan)) == 300
    assert work.count("_node") == 299
    assert parse_manifest(plan.manifest) == plan
    assert work == ["_node"] * 2 * 299, "no address is checked twice"


@given(books=BOOKS, debits=st.dictionaries(st.integers(0, 150), st.integers(1, 2**48 - 1)))
def test_the_manifest_rebuilds_the_epoch(books: Books, debits: dict[int, int], plan_of: Plan) -> None:
    plan = plan_of(books, debits)
    assert parse_manifest(plan.manifest) == plan
    assert plan.manifest_hash == "0x" + keccak(plan.manifest).hex()
    assert plan.total == sum(debits.values())


def test_a_leaf_is_hashed_as_the_contract_says(address: Address) -> None:
    lines = [Line(address(0), MicroUSD(7)), Line(address(1), MicroUSD(2**64 - 1))]
    packed = b"".join(encode(["uint256"], [(int(line.tenant, 16) << 64) + line.cumulative]) for line in lines)
    inner = encode(["address", "bytes32"], [address(2), keccak(packed)])
    assert leaf_hash(address(2), lines) == keccak(keccak(inner))


def test_a_provider_with_many_tenants_has_several_leaves(plan_of: Plan, address: Address) -> None:
    plan = plan_of({(t, 200): 1 for t in range(130)} | {(0, 201): 1})
    assert [len(leaf.lines) for leaf in plan.leaves] == [64, 64, 2, 1]
    assert len(claims(plan, address(200).lower())) == 3
    assert claims(plan, address(5)) == ()


@given(books=BOOKS, debits=st.dictionaries(st.integers(0, 150), st.integers(1, 2**48 - 1)))
def test_a_manifest_has_the_same_bytes_as_ever(books: Books, debits: dict[int, int], plan_of: Plan) -> None:
    text = plan_of(books, debits).manifest.decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def test_the_manifest_is_canonical_and_holds_no_fraction(plan_of: Plan) -> None:
    plan = plan_of({(0, 200): 2**63}, {0: 5})
    text = plan.manifest.decode("ascii")
    assert text == json.dumps(json.loads(text, parse_float=pytest.fail), sort_keys=True, separators=(",", ":"))
    assert '"cumulative":"9223372036854775808"' in text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"seq":4', b'"seq": 4'),
        lambda text: text.replace(b'"cumulative":"5"', b'"cumulative":"6"'),
        lambda text: text.replace(b'"cumulative":"5"', b'"cumulative":"05"'),
        lambda text: text.replace(b'"kind":', b'"more":1,"kind":'),
        lambda text: text.replace(b',"seq":4', b""),
        lambda text: b"[]",
        lambda text: b"null",
        lambda text: b"\xff",
    ],
)
def test_a_spoiled_manifest_is_refused(spoil: Callable[[bytes], bytes], plan_of: Plan) -> None:
    with pytest.raises(ValueError, match=r"manifest|decode"):
        parse_manifest(spoil(plan_of({(0, 200): 5}).manifest))


def test_what_cannot_be_posted_is_refused(plan_of: Plan, address: Address) -> None:
    whole = plan_of({(0, 200): 5})
    arguments: dict[str, Any] = {
        "chain_id": 1,
        "escrow": whole.escrow,
        "seq": 0,
        "prev_root": ZERO_HASH,
        "period_end": 0,
        "pairs": whole.pairs,
        "debits": {},
    }
    one, two = "0x" + "ab" * 20, "0x" + "AB" * 20
    changes: list[tuple[dict[str, Any], str]] = [
        ({"pairs": {}}, "at least one pair"),
        ({"pairs": {(one, one): 1, (two, two): 2}}, "two spellings"),
        ({"debits": {one: 1, two: 2}}, "two spellings"),
        ({"escrow": "0x12"}, "not an address"),
        ({"pairs": {(address(0), address(1)): 2**64}}, "uint64"),
    ]
    for change, words in changes:
        with pytest.raises(ValueError, match=words):
            build_epoch(**(arguments | change))


def test_a_leaf_takes_1_to_64_lines(address: Address) -> None:
    line = Line(address(0), MicroUSD(1))
    for count in (0, MAX_LINES + 1):
        with pytest.raises(ValueError, match="1 to 64 lines"):
            leaf_hash(address(1), [line] * count)
