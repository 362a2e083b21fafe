"""``fedgpu version``: which version this is."""

from __future__ import annotations

import sys
from typing import Final

NAME: Final = "version"


def command() -> None:
    """Print the version."""
    from importlib.metadata import version

    sys.stdout.write(f"fedgpu {version('fedgpu-operator')}\n")
