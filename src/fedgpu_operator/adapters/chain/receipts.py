"""Reads a mined transaction's receipt into values; pure, and only what the escrow itself has logged counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_typing import ChecksumAddress
from web3.contract.async_contract import AsyncContract
from web3.types import LogReceipt
from web3.types import TxReceipt as RawReceipt

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Payment, TxReceipt


def read_receipt(raw: RawReceipt, contract: AsyncContract, escrow: ChecksumAddress) -> TxReceipt:
    """Block, outcome, gas, the epoch posted (if any), the tenants it skipped and the lines paid."""
    logs = [log for log in raw["logs"] if log["address"] == escrow]
    posted = events_of("EpochPosted", logs, contract)
    return TxReceipt(
        tx_hash=raw["transactionHash"].to_0x_hex(),
        block_number=raw["blockNumber"],
        block_hash=raw["blockHash"].to_0x_hex(),
        succeeded=raw["status"] == 1,
        gas_used=raw["gasUsed"],
        epoch=posted[0]["epoch"] if posted else None,
        payments=tuple(
            Payment(
                epoch=values["epoch"],
                provider=values["provider"],
                tenant=values["tenant"],
                amount=MicroUSD(values["amount"]),
                paid=MicroUSD(values["paid"]),
            )
            for values in events_of("LinePaid", logs, contract)
        ),
        skipped=tuple(values["tenant"] for values in events_of("DebitSkipped", logs, contract)),
        gas_price=raw.get("effectiveGasPrice", 0),
        data_fee=_data_fee(raw),
    )


def _data_fee(raw: RawReceipt) -> int:
    """`l1Fee` of a rollup of the OP kind, 0 elsewhere: not a field of Ethereum's, so web3 leaves it in hex.

    Its operator fee (since Isthmus) is not a figure in receipts.
    """
    found: object = dict(raw).get("l1Fee", 0)
    try:
        return int(found, 16) if isinstance(found, str) else found if isinstance(found, int) else 0
    except ValueError:
        # Nothing is decided by it, so it must not make a receipt unreadable.
        return 0


def events_of(name: str, logs: Sequence[LogReceipt], contract: AsyncContract) -> list[dict[str, Any]]:
    """The arguments of each event of that name that the contract itself logged."""
    event = contract.events[name]()
    return [
        dict(event.process_log(log)["args"])
        for log in logs
        if log["address"] == contract.address and log["topics"][0].to_0x_hex() == event.topic
    ]
