"""``fedgpu crds``: the custom resource definitions as YAML, to be piped into kubectl."""

from __future__ import annotations

import sys
from typing import Final

NAME: Final = "crds"


def command() -> None:
    """Print all CRDs: `| kubectl apply --server-side --force-conflicts -f -` installs or upgrades them."""
    from fedgpu_operator.api.crd import all_crds, to_yaml

    for each in all_crds():
        sys.stdout.write("---\n" + to_yaml(each))
