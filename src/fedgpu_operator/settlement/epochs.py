"""Settlement epochs: the tree and its proofs, and the manifest that anybody can check."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, cast

from eth_utils.address import is_address, is_checksum_address, to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_operator.domain.money import MAX_MICRO_USD, MicroUSD
from fedgpu_operator.domain.settlement import Claim, EpochPlan, Leaf, Line, Pair
from fedgpu_operator.settlement.evidence import canonical

MAX_LINES = 64
"""Lines per leaf that the contract accepts."""

KNOWN_ADDRESSES: Final = 2**16
"""Addresses whose checked form is remembered: a manifest names the same ones in most of its lines and in each epoch,
and to check one costs more than to hash a leaf."""


def leaf_hash(provider: str, lines: Sequence[Line]) -> bytes:
    """Hash of a provider's lines; ValueError for more lines than the contract accepts or amounts beyond uint64."""
    if not 0 < len(lines) <= MAX_LINES:
        raise ValueError(f"a leaf holds 1 to {MAX_LINES} lines, not {len(lines)}")
    words = b"".join(_word(line) for line in lines)
    body = _address(provider).rjust(32, b"\0") + keccak(words)
    return keccak(keccak(body))


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes in the given order; ValueError when there are none."""
    return _layers(hashes)[-1][0]


def merkle_proof(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings that lead from leaf `index` up to the root."""
    return _siblings(_layers(hashes), index)


def merkle_proofs(hashes: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """The proofs of all leaves, in their order, out of one tree."""
    layers = _layers(hashes)
    return tuple(_siblings(layers, index) for index in range(len(hashes)))


def verify_proof(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `leaf` belongs to `root`, as the contract decides it."""
    for sibling in proof:
        leaf = _node(leaf, sibling)
    return leaf == root


def _siblings(layers: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    proof = []
    for layer in layers[:-1]:
        sibling = index ^ 1
        if sibling < len(layer):
            proof.append(layer[sibling])
        index //= 2
    return tuple(proof)


def _layers(hashes: Sequence[bytes]) -> list[list[bytes]]:
    if not hashes:
        raise ValueError("a tree needs at least one leaf")
    layers = [list(hashes)]
    while len(layers[-1]) > 1:
        below = layers[-1]
        above = [_node(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        layers.append(above + below[len(above) * 2 :])
    return layers


def _node(left: bytes, right: bytes) -> bytes:
    return keccak(min(left, right) + max(left, right))


def _word(line: Line) -> bytes:
    if not 0 <= line.cumulative <= MAX_MICRO_USD:
        raise ValueError(f"{line.cumulative} µUSD does not fit the contract's uint64")
    return bytes(4) + _address(line.tenant) + line.cumulative.to_bytes(8, "big")


@lru_cache(maxsize=KNOWN_ADDRESSES)
def _address(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 20:
        raise ValueError(f"{text!r} is not an address of 20 bytes")
    return raw


KIND = "fedgpu.dev/settlement/v1"


def build_epoch(
    *,
    chain_id: int,
    escrow: str,
    seq: int,
    prev_root: str,
    period_end: int,
    pairs: Mapping[Pair, MicroUSD],
    debits: Mapping[str, MicroUSD],
    ledger_head: str = "",
) -> EpochPlan:
    """Make the epoch that pays `pairs` (cumulative per (tenant, provider)) and debits `debits`.

    `ledger_head` goes into the manifest as it is: with it, the posted hash pins the ledger's hash chains too.
    The order in which the mappings were filled does not matter. Raises ValueError when there is nothing to pay, an
    address is not one or comes in two spellings, or an amount does not fit the contract.
    """
    if not pairs:
        raise ValueError("an epoch needs at least one pair that is still to be paid")
    leaves = _leaves({(_address_in(t), _address_in(p)): total for (t, p), total in pairs.items()}, len(pairs))
    taken = {_address_in(tenant): amount for tenant, amount in debits.items()}
    if len(taken) != len(debits):
        raise ValueError("a tenant stands in the debits in two spellings")
    ordered = {tenant: taken[tenant] for tenant in sorted(taken, key=str.lower)}
    root = _hex(merkle_root([bytes.fromhex(leaf.hash[2:]) for leaf in leaves]))
    place = (chain_id, _address_in(escrow), seq, prev_root.lower())
    manifest = _manifest(*place, root, period_end, leaves, ordered, ledger_head)
    return EpochPlan(
        chain_id=chain_id,
        escrow=_address_in(escrow),
        seq=seq,
        prev_root=prev_root.lower(),
        root=root,
        period_end=period_end,
        leaves=leaves,
        debits=ordered,
        manifest=manifest,
        manifest_hash=_hex(keccak(manifest)),
    )


def _manifest(
    chain_id: int,
    escrow: str,
    seq: int,
    prev_root: str,
    root: str,
    period_end: int,
    leaves: tuple[Leaf, ...],
    debits: Mapping[str, MicroUSD],
    ledger_head: str,
) -> bytes:
    return canonical(
        {
            "kind": KIND,
            "chainId": chain_id,
            "escrow": escrow,
            "seq": seq,
            "prevRoot": prev_root,
            "root": root,
            "periodEnd": period_end,
            "ledger": ledger_head,
            "debits": [{"tenant": tenant, "amount": str(amount)} for tenant, amount in debits.items()],
            "leaves": [
                {
                    "provider": leaf.provider,
                    "lines": [{"tenant": line.tenant, "cumulative": str(line.cumulative)} for line in leaf.lines],
                }
                for leaf in leaves
            ],
        }
    ).encode("utf-8")


def claims(plan: EpochPlan, provider: str | None = None) -> tuple[Claim, ...]:
    """What to hand to the contract so that `provider`, or everybody, is paid."""
    proofs = merkle_proofs([bytes.fromhex(leaf.hash[2:]) for leaf in plan.leaves])
    return tuple(
        Claim(leaf.provider, leaf.lines, tuple(_hex(node) for node in proof))
        for leaf, proof in zip(plan.leaves, proofs, strict=True)
        if provider is None or leaf.provider.lower() == provider.lower()
    )


def parse_manifest(manifest: bytes) -> EpochPlan:
    """Read a manifest and rebuild its epoch from the lines alone.

    Raises ValueError when it is not canonical, or when what it states does not follow from its own lines.
    """
    try:
        raw = json.loads(manifest)
        plan = build_epoch(
            chain_id=raw["chainId"],
            escrow=raw["escrow"],
            seq=raw["seq"],
            prev_root=raw["prevRoot"],
            period_end=raw["periodEnd"],
            pairs={
                (line["tenant"], leaf["provider"]): MicroUSD(int(line["cumulative"]))
                for leaf in raw["leaves"]
                for line in leaf["lines"]
            },
            debits={debit["tenant"]: MicroUSD(int(debit["amount"])) for debit in raw["debits"]},
            ledger_head=raw["ledger"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a settlement manifest: {error!r}") from error
    if plan.manifest != manifest:
        raise ValueError("the manifest is not canonical, or does not follow from its own lines")
    return plan


def _leaves(pairs: Mapping[Pair, MicroUSD], given: int) -> tuple[Leaf, ...]:
    if len(pairs) != given:
        raise ValueError("a pair is given in two spellings of its addresses")
    by_provider: dict[str, list[Line]] = defaultdict(list)
    for (tenant, provider), cumulative in pairs.items():
        by_provider[provider].append(Line(tenant, cumulative))
    leaves = []
    for provider in sorted(by_provider, key=str.lower):
        lines = sorted(by_provider[provider], key=lambda line: line.tenant.lower())
        for start in range(0, len(lines), MAX_LINES):
            chunk = tuple(lines[start : start + MAX_LINES])
            leaves.append(Leaf(provider, chunk, _hex(leaf_hash(provider, chunk))))
    return tuple(leaves)


@lru_cache(maxsize=KNOWN_ADDRESSES)
def _address_in(text: str) -> str:
    # is_address alone takes any mixture of capitals: a mistyped letter would name somebody else's wallet.
    if not is_address(text) or not (text[2:] in (text[2:].lower(), text[2:].upper()) or is_checksum_address(text)):
        raise ValueError(f"{text!r} is not an address, or its checksum is wrong")
    return cast("str", to_checksum_address(text))


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
