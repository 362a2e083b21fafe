"""Fixtures that all rooms of the tests may ask for; each is started only when a test does."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Both measure how busy the machine is, which says nothing about the code: a test fails for what it finds alone.
settings.register_profile("fedgpu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedgpu")

pytest_plugins = [
    "fedgpu_operator.lab.pytest_plugin",
    "fedgpu_operator.lab.pytest_chart",
    "fedgpu_operator.lab.pytest_postgres",
]
