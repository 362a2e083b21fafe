"""What the scalars take and refuse in the models; the integration tests ask a real API server the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fedgpu_operator.api.base import (
    CountryCode,
    DecimalUSD,
    HexBytes32,
    Latitude,
    Longitude,
    WalletAddress,
    Word,
    wire_name,
)
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.domain.geo import COUNTRIES
from fedgpu_operator.errors import InvalidResourceError

TAKEN: list[tuple[Any, list[str]]] = [
    (CountryCode, sorted(COUNTRIES)),
    (Word, ["a", "NVIDIA-H100-80GB-HBM3", "eu-central-1", "1.5"]),
    (DecimalUSD, ["0", "2.49", "0.000001", "123456789012.123456"]),
    (Latitude, ["0", "50.11", "-33.868820", "90", "-90.0", "89.999999"]),
    (Longitude, ["0", "8.68", "-122.4", "180", "-180.000000", "179.999999"]),
    (WalletAddress, ["0x70997970C51812dc3A010C7d01b50e0d17dc79C8"]),
    (HexBytes32, ["0x" + "0f" * 32]),
]
REFUSED: list[tuple[Any, list[str]]] = [
    (CountryCode, ["UK", "EU", "de", "DEU", "", "Germany", "D", "DE\n"]),
    (Word, ["", "-a", "a-", "a b", "a" * 64, "a\n"]),
    (DecimalUSD, ["-1", "1e3", "1.", ".5", "1.0000001", "1 USD", "", "1234567890123", "0x1"]),
    (Latitude, ["north", "", "91", "90.000001", "-90.5", "5.1234567", "+5", ".5", "5.", "1e1"]),
    (Longitude, ["east", "", "181", "180.000001", "-180.5", "5.1234567", "+5", ".5", "5.", "1e1"]),
    (WalletAddress, ["70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x", "0x70997970", "vitalik.eth"]),
    (HexBytes32, ["0x" + "0F" * 32, "0x" + "00" * 31, "00" * 32]),
]


@pytest.mark.parametrize(("scalar", "texts"), TAKEN, ids=lambda part: str(len(part)) if isinstance(part, list) else "")
def test_good_values_are_taken_as_they_are(scalar: Any, texts: list[str]) -> None:
    adapter = TypeAdapter[str](scalar)
    assert [adapter.validate_python(text) for text in texts] == texts


@pytest.mark.parametrize(("scalar", "text"), [(scalar, text) for scalar, texts in REFUSED for text in texts], ids=repr)
def test_bad_values_are_refused(scalar: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[str](scalar).validate_python(text)


@pytest.mark.parametrize(
    ("field", "wire"),
    [
        ("max_price_per_gpu_hour", "maxPricePerGPUHour"),
        ("max_gpus", "maxGPUs"),
        ("gpu", "gpu"),
        ("gpu_seconds", "gpuSeconds"),
        ("gpus_per_replica", "gpusPerReplica"),
        ("memory_mi_b", "memoryMiB"),
        ("p50_ms", "p50Ms"),
    ],
)
def test_names_on_the_wire_write_acronyms_as_kubernetes_does(field: str, wire: str) -> None:
    assert wire_name(field) == wire


def test_an_object_that_a_newer_schema_let_through_is_refused_by_field() -> None:
    with pytest.raises(InvalidResourceError, match=r"spec\.runLimitSeconds: ") as caught:
        ComputeJob.parse(
            {
                "metadata": {"name": "job"},
                "spec": {
                    "runLimitSeconds": "forever",
                    "template": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
                },
            }
        )
    assert caught.value.why == "InvalidSpec"
