"""Where the manifest of an archived epoch lies, and that it comes back byte for byte."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from tests.contract.ledger.test_archive import EPOCHS, archive, folder, month

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.cli.ledger import manifest_in
from fedgpu_operator.errors import ConfigurationError, LedgerError

__all__ = ["folder", "month"]


async def test_the_manifest_of_an_archived_epoch_lies_where_the_error_says(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    assert await month.archived_until() == 0
    await archive(location, folder, now)
    last = await month.archived_until()
    assert 1 <= last <= EPOCHS
    first = "0x" + keccak(b"manifest 1").hex()
    with pytest.raises(LedgerError, match=r"epoch 1 archived in .*: name its folder with --archive") as told:
        await manifest_in(month, first, None)
    assert any(name in str(told.value) for name in await asyncio.to_thread(os.listdir, folder))
    for number in range(1, EPOCHS + 1):
        manifest = f"manifest {number}".encode()
        for name in (str(number), "0x" + keccak(manifest).hex()):
            assert await manifest_in(month, name, folder) == manifest


async def test_what_cannot_be_had_is_an_error_that_says_why(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await archive(location, folder, now)
    with pytest.raises(LedgerError, match="epoch 99 not found in the ledger"):
        await manifest_in(month, "99", folder)
    with pytest.raises(ConfigurationError, match="EPOCH"):
        await manifest_in(month, "one", folder)
    for name in await asyncio.to_thread(os.listdir, folder):
        await asyncio.to_thread((folder / name).write_bytes, b"")
    with pytest.raises(LedgerError, match="file epochs"):
        await manifest_in(month, "1", folder)
