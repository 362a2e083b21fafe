"""What a mined transaction cost its sender, as receipts of different chains say it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.chain.reader import read_receipt
from fedgpu_operator.adapters.chain.rpc import Rpc

ESCROW = to_checksum_address("0x" + "e5" * 20)
RAW = {
    "transactionHash": HexBytes("0x" + "11" * 32),
    "blockHash": HexBytes("0x" + "22" * 32),
    "blockNumber": 7,
    "status": 1,
    "gasUsed": 90_000,
    "effectiveGasPrice": 5_000_000,
    "logs": [],
}


@pytest.mark.parametrize(
    ("rollup", "data_fee"),
    [
        ({}, 0),
        ({"l1Fee": "0x3b9aca00"}, 10**9),
        ({"l1Fee": 10**9}, 10**9),
        ({"l1Fee": "dear"}, 0),
        ({"l1Fee": None}, 0),
    ],
)
async def test_a_rollups_data_fee_is_part_of_what_was_paid(rollup: dict[str, object], data_fee: int) -> None:
    async with Rpc("http://127.0.0.1:1") as rpc:
        receipt = read_receipt(cast("Any", RAW | rollup), calls.contract_at(rpc, ESCROW), ESCROW)
    assert (receipt.data_fee, receipt.fee) == (data_fee, 90_000 * 5_000_000 + data_fee)
