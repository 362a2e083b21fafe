"""Fixtures that all rooms of the tests may ask for; each is started only when a test does."""

from __future__ import annotations

pytest_plugins = [
    "fedgpu_operator.lab.pytest_plugin",
    "fedgpu_operator.lab.pytest_chart",
    "fedgpu_operator.lab.pytest_postgres",
]
