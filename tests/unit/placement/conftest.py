"""Hypothesis profiles of the placement tests: short by default, thousands more with FEDGPU_THOROUGH=1."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

THOROUGH = os.environ.get("FEDGPU_THOROUGH") == "1"

settings.register_profile(
    "placement",
    max_examples=2_000 if THOROUGH else 80,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="session")
def instances() -> int:
    """How many random instances the brute-force tests look at."""
    return 20_000 if THOROUGH else 3_000
