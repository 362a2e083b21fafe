"""Gas of every call on anvil, beside other ways to pay and the floor of the protocol's own prices.

    python -m benchmarks.gas           prints the table and writes benchmarks/results/gas.json (half a minute)
    python -m benchmarks.gas --quick   a tenth of the large epoch, nothing written

Fails where a target of the project is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.gas import cases, crowds, prices, rivals, scale
from benchmarks.gas.cases import Row
from benchmarks.gas.escrow import Stage
from benchmarks.gas.evm import Evm, evm

from fedgpu_operator import artifacts

RESULT = Path(__file__).parents[1] / "results" / "gas.json"


def main() -> None:
    """Measure, print, write; ends with an error where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    begin = time.monotonic()
    with evm() as machine:
        rows = []
        for part in (cases.deposits, cases.posts, cases.claimed, cases.cancelled, cases.disputed, cases.exited):
            rows += part(_fresh(machine))
        rows += rivals.rivals(_fresh(machine))
        size = {"providers": 100, "jobs": 1_000, "tenants": 20} if quick else {}
        rows += scale.scale(_fresh(machine), **size)
        rows += crowds.crowds(_fresh(machine), crowds.CROWDS[:1] if quick else crowds.CROWDS)
        node = machine.version()
    _show(rows)
    if not quick:
        _write(rows, node, time.monotonic() - begin)
    missed = [row.name for row in rows if row.target is not None and row.gas > row.target]
    if missed:
        sys.exit(f"beyond its target: {', '.join(missed)}")


def _fresh(machine: Evm) -> Stage:
    stage = Stage(machine)
    stage.raise_()
    return stage


def _show(rows: list[Row]) -> None:
    wide = max(len(row.name) for row in rows)
    print(f"{'':{wide}}  {'gas':>12}  {'each':>10}  {'floor':>10}  {'over':>6}  {'target':>10}")
    for row in rows:
        least = f"{row.floor / row.per:>10,.0f}  {row.gas / row.floor - 1:>6.0%}" if row.floor else f"{'':>10}  {'':>6}"
        target = f"{row.target:>10,}" if row.target else ""
        print(f"{row.name:{wide}}  {row.gas:>12,}  {row.each:>10,.0f}  {least}  {target}")


def _write(rows: list[Row], node: str, seconds: float) -> None:
    escrow = artifacts.load("ComputeEscrow")
    document = {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "node": node,
            "seconds": round(seconds),
        },
        "contract": {"compiler": escrow.compiler, "inputSha256": escrow.input_sha256},
        "prices": {name: value for name, value in vars(prices).items() if name.isupper() and isinstance(value, int)},
        "rows": [asdict(row) | {"each": round(row.each)} for row in rows],
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
