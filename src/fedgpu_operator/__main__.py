"""``python -m fedgpu_operator`` is the same as the command ``fedgpu``."""

from __future__ import annotations

import sys

from fedgpu_operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
