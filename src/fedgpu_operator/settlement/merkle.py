"""Leaves, roots and proofs, hashed exactly as ComputeEscrow hashes them; bytes in, bytes out, nothing else.

A line is one 32-byte word, ``tenant << 64 | cumulative``. A leaf is ``keccak(keccak(abi.encode(provider,
keccak(words))))``: hashed twice, so that no inner node can pass for a leaf. Inner nodes hash their two children in
rising order, so a proof carries no directions; a node without a sibling moves up unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from eth_utils.crypto import keccak

from fedgpu_operator.domain.money import MAX_MICRO_USD
from fedgpu_operator.domain.settlement import Line

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
