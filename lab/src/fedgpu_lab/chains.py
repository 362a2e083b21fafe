"""Which chains the lab has, by name, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fedgpu_lab import toolchain
from fedgpu_lab.chain import FINALITY, Anvil, Chain
from fedgpu_lab.geth import Geth
from fedgpu_lab.hardhat import Hardhat
from fedgpu_lab.process import Watchdog, free_ports
from fedgpu_lab.progress import Progress


def make_chain(
    kind: str,
    *,
    directory: Path,
    watchdog: Watchdog,
    block_time: int = 1,
    finality: int = FINALITY,
    progress: Progress | None = None,
) -> Chain:
    """A chain of one of KINDS, not yet started, in the new folder `directory` and at a free port."""
    make, programs = KINDS[kind]
    found = toolchain.ensure(programs, progress)
    return make(
        *(found[name] for name in programs),
        directory=directory,
        port=free_ports(1)[0],
        watchdog=watchdog,
        block_time=block_time,
        finality=finality,
    )


KINDS: Final[Mapping[str, tuple[Callable[..., Chain], tuple[str, ...]]]] = {
    "anvil": (Anvil, ("anvil",)),
    "geth": (Geth, ("geth",)),
    "hardhat": (Hardhat, ("node", "hardhat")),
}
"""The kinds by name: the class, and the programs that it takes in this order."""
