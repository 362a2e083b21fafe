"""Typed data is hashed as wallets hash it, and only a signature in its one accepted form is anybody's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.settlement.typeddata import (
    NO_ADDRESS,
    TypedData,
    account_proof,
    escrow_domain,
    hub_domain,
    normal_signature,
    provider_proof,
    receipt,
    recover,
    signed_by,
    usage_record,
)

KEY = "0x" + "42" * 32
SIGNER = str(Account.from_key(KEY).address)
ESCROW = "0x" + "e5" * 20
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
hashes = st.binary(min_size=32, max_size=32).map(lambda raw: "0x" + raw.hex())
uint64 = st.integers(0, 2**64 - 1)
domains = st.one_of(
    st.builds(hub_domain, st.integers(1, 2**53), addresses), st.builds(escrow_domain, st.integers(1, 2**53), addresses)
)
receipts = st.builds(
    Receipt,
    tenant=addresses,
    provider=addresses,
    cumulative=uint64.map(MicroUSD),
    period_end=st.integers(0, 2**40 - 1),
    usage_root=hashes,
)
messages = st.one_of(
    st.builds(account_proof, domains, hub=words, namespace=words, wallet=addresses, issued_at=uint64),
    st.builds(
        provider_proof,
        domains,
        hub=words,
        provider=words,
        payout=addresses,
        signer=st.none() | addresses,
        issued_at=uint64,
    ),
    st.builds(
        usage_record, domains, lease=words, sequence=uint64, gpu_seconds=uint64, observed_at=uint64, usage_hash=hashes
    ),
    st.builds(receipt, domains, receipts),
)


def a_message() -> TypedData:
    return account_proof(hub_domain(1, ESCROW), hub="uid", namespace="team-a", wallet=SIGNER, issued_at=1)


def sign(data: TypedData) -> bytes:
    return bytes(Account.unsafe_sign_hash(data.digest, KEY).signature)


@given(messages)
def test_a_wallet_that_shows_the_payload_signs_our_digest(data: TypedData) -> None:
    signable = encode_typed_data(full_message=data.payload)
    assert keccak(b"\x19" + signable.version + signable.header + signable.body) == data.digest


@pytest.mark.parametrize(
    ("data", "spelled"),
    [
        (a_message(), "AccountProof(string hub,string namespace,address wallet,uint64 issuedAt)"),
        (
            provider_proof(hub_domain(1, ESCROW), hub="", provider="", payout=SIGNER, signer=None, issued_at=0),
            "ProviderProof(string hub,string provider,address payout,address signer,uint64 issuedAt)",
        ),
        (
            usage_record(
                hub_domain(1, ESCROW), lease="", sequence=0, gpu_seconds=0, observed_at=0, usage_hash="0x" + "00" * 32
            ),
            "UsageRecord(string lease,uint64 sequence,uint64 gpuSeconds,uint64 observedAt,bytes32 usageHash)",
        ),
        (
            receipt(escrow_domain(1, ESCROW), Receipt(SIGNER, SIGNER, MicroUSD(0), 0, "0x" + "00" * 32)),
            "Receipt(address tenant,address provider,uint64 cumulative,uint40 periodEnd,bytes32 usageRoot)",
        ),
    ],
)
def test_the_types_are_spelled_as_published(data: TypedData, spelled: str) -> None:
    fields = ",".join(f"{type_} {name}" for type_, name in data.fields)
    assert f"{data.primary}({fields})" == spelled


def test_the_domains_are_the_two_published_ones() -> None:
    assert hub_domain(5, ESCROW).values == {
        "name": "fedgpu",
        "version": "1",
        "chainId": 5,
        "verifyingContract": to_checksum_address(ESCROW),
    }
    assert escrow_domain(5, ESCROW).values["name"] == "fedgpu ComputeEscrow"


@given(messages, messages)
def test_different_messages_have_different_digests(one: TypedData, other: TypedData) -> None:
    same = (one.domain.values, one.payload) == (other.domain.values, other.payload)
    assert (one.digest == other.digest) == same


@pytest.mark.parametrize(
    "change",
    [
        {"hub": "uid2"},
        {"namespace": "team-b"},
        {"wallet": to_checksum_address("0x" + "12" * 20)},
        {"issuedAt": 2},
    ],
)
def test_every_field_is_signed(change: dict[str, str | int]) -> None:
    data = a_message()
    assert not signed_by(SIGNER, replace(data, message={**data.message, **change}).digest, sign(data))


@pytest.mark.parametrize("domain", [hub_domain(2, ESCROW), hub_domain(1, "0x" + "e6" * 20), escrow_domain(1, ESCROW)])
def test_a_signature_is_worth_nothing_in_another_domain(domain: Any) -> None:
    data = a_message()
    assert signed_by(SIGNER, data.digest, sign(data))
    assert not signed_by(SIGNER, replace(data, domain=domain).digest, sign(data))


def test_who_signed_is_recovered_from_bytes_and_from_hex() -> None:
    data = a_message()
    assert recover(data.digest, sign(data)) == SIGNER
    assert recover(data.digest, "0x" + sign(data).hex()) == SIGNER
    assert signed_by(SIGNER.lower(), data.digest, sign(data))


def second_form(raw: bytes) -> bytes:
    """The same signature with s mirrored, which the curve accepts and contracts refuse."""
    s = ORDER - int.from_bytes(raw[32:64], "big")
    return raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: raw[:64], "has 65 bytes"),
        (lambda raw: raw + b"\0", "has 65 bytes"),
        (lambda raw: raw[:64] + b"\0", "27 or 28"),
        (lambda raw: raw[:64] + b"\1", "27 or 28"),
        (lambda raw: raw[:64] + bytes([29]), "27 or 28"),
        (second_form, "upper half"),
        (lambda raw: bytes(32) + raw[32:], "no key"),
        (lambda raw: raw[:32] + bytes(32) + raw[64:], "no key"),
        (lambda raw: b"\xff" * 32 + raw[32:], "no key"),
        (lambda raw: "0x12zz", "hex"),
    ],
)
def test_any_other_form_is_refused(spoil: Any, words: str) -> None:
    data = a_message()
    bad = spoil(sign(data))
    with pytest.raises(ValueError, match=words):
        recover(data.digest, bad)
    assert not signed_by(SIGNER, data.digest, bad)


def test_a_hardware_wallets_v_is_brought_into_form() -> None:
    raw = sign(a_message())
    plain = raw[:64] + bytes([raw[64] - 27])
    assert normal_signature(plain) == normal_signature(raw) == "0x" + raw.hex()
    assert normal_signature("0x" + raw.hex().upper()) == "0x" + raw.hex()
    assert normal_signature(b"\0\1") == "0x0001", "a contract wallet's own form is its own"
    with pytest.raises(ValueError, match="hex"):
        normal_signature("0x1")


def test_what_does_not_fit_its_field_is_refused() -> None:
    fits = {"tenant": SIGNER, "provider": SIGNER, "usage_root": "0x" + "00" * 32}
    domain = escrow_domain(1, ESCROW)
    with pytest.raises(ValueError, match="cumulative"):
        _ = receipt(domain, Receipt(cumulative=MicroUSD(2**64), period_end=0, **fits)).digest
    with pytest.raises(ValueError, match="periodEnd"):
        _ = receipt(domain, Receipt(cumulative=MicroUSD(0), period_end=2**40, **fits)).digest
    with pytest.raises(ValueError, match="usageRoot"):
        _ = receipt(domain, Receipt(SIGNER, SIGNER, MicroUSD(0), 0, "0x00")).digest


def test_no_signer_is_the_zero_address() -> None:
    data = provider_proof(hub_domain(1, ESCROW), hub="u", provider="p", payout=SIGNER, signer=None, issued_at=0)
    assert data.message["signer"] == NO_ADDRESS
