"""docs/ledger.md promises that anybody can recompute a chain; its own program is run here."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.contract.ledger.intruder import Intruder
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage

DOCUMENT = Path(__file__).parents[3] / "docs" / "ledger.md"


def program(number: int = 0) -> str:
    found = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return str(found[number])


async def test_the_program_in_the_document_finds_our_head_and_an_alteration(
    path: Path, ask: Callable[..., AttemptRequest], now: datetime
) -> None:
    async with await SqlLedger.open(path) as ledger:
        await open_attempt(ledger, ask(job_uid='j"ö\\b'), now)
        name = 'j"ö\\b-1'
        await ledger.record_usage(name, 1, 40, now, signed=SignedUsage(1, 41, 7, "0xab", "0xS", b"\x00\x1b"))
        await ledger.seal()
        await ledger.record_usage(name, 2, 2**60, now)
        await ledger.seal()
        await ledger.record_usage(name, 3, 2**60 + 1, now)
        head = (await ledger.head()).chains["usage_records"]
    argv = [sys.executable, "-c", program(), str(path)]
    assert (await run(argv)).stdout.strip() == head.hash
    Intruder(str(path)).run("UPDATE lease_usage SET gpu_seconds = gpu_seconds + 1", unguarded=True)
    assert (await run(argv)).stderr.strip().endswith(f"{name} was altered")
    Intruder(str(path)).run("DELETE FROM lease_usage", unguarded=True)
    assert (await run(argv)).stderr.strip().endswith(f"{name} lost its newest usage")
    Intruder(str(path)).run("UPDATE usage_records SET gpu_seconds = 41 WHERE sequence = 2", unguarded=True)
    assert (await run(argv)).stderr.strip().endswith("row 2 was altered")


async def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)


def test_the_columns_of_every_chain_are_those_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for table, columns in COLUMNS.items():
        assert f"| `{table}` | {', '.join(columns)} |" in text
