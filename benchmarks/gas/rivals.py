"""The same hundred payees paid in other ways, in the same run: what books, limits and disputes cost beside them."""

from __future__ import annotations

import json
import sys
from functools import cache

from benchmarks.gas import prices
from benchmarks.gas.cases import LIMIT, Row
from benchmarks.gas.escrow import CHALLENGE, Stage, party
from benchmarks.gas.evm import call
from benchmarks.gas.prices import Work
from eth_abi.abi import encode
from eth_abi.packed import encode_packed
from eth_utils.crypto import keccak
from hack.contracts_tools import find_tools, scratch

from fedgpu_operator.settlement import claims
from fedgpu_operator.settlement.epochs import merkle_proof, merkle_root

COUNT = 100


@cache
def compiled(name: str) -> str:
    """Creation code of a contract in contracts/test/gas, built here with the optimizer as ours is."""
    with scratch(find_tools()) as copy:
        done = copy.forge("build", "test/gas")
        if done.returncode != 0:
            sys.exit(f"forge build failed:\n{done.stdout}{done.stderr}")
        built = copy.path / "out" / "Rivals.sol" / f"{name}.json"
        return str(json.loads(built.read_text(encoding="utf-8"))["bytecode"]["object"])


def rivals(stage: Stage) -> list[Row]:
    """100 transfers, one push of 100, 100 claims from a distribution, and ours; all payees hold tokens already."""
    payees = [party(f"payee {index}") for index in range(COUNT)]
    for payee in payees:
        stage.mint(payee, 1)
    return [_transfers(stage, payees), _push(stage, payees), _distribution(stage, payees), *_ours(stage, payees)]


def _transfers(stage: Stage, payees: list[str]) -> Row:
    payer = party("payer")
    stage.mint(payer, 10**12)
    mined = [stage.evm.send(payer, stage.token, call("transfer(address,uint256)", to, 1_000)) for to in payees]
    least = sum(prices.floor(each.data, prices.PAYER + prices.TRANSFER) for each in mined)
    return Row("100 ERC-20 transfers", sum(each.gas for each in mined), COUNT, "payee", least)


def _push(stage: Stage, payees: list[str]) -> Row:
    payer, push = party("payer"), stage.evm.deploy(compiled("Push"))
    stage.evm.send(payer, stage.token, call("approve(address,uint256)", push, 2**200))
    data = call("pay(address,address[],uint256[])", stage.token, payees, [1_000] * COUNT)
    mined = stage.evm.send(payer, push, data)
    work = Work(calls=1) + prices.PAYER + prices.TRANSFER * COUNT
    return Row("one push to 100", mined.gas, COUNT, "payee", prices.floor(data, work))


def _distribution(stage: Stage, payees: list[str]) -> Row:
    leaves = [
        keccak(encode_packed(["uint256", "address", "uint256"], [index, payee, 1_000]))
        for index, payee in enumerate(payees)
    ]
    args = encode(["address", "bytes32"], [stage.token, merkle_root(leaves)])
    contract = stage.evm.deploy(compiled("Distribution") + args.hex())
    stage.mint(contract, 10**9)
    gas, least = 0, 0
    for index, payee in enumerate(payees):
        proof = list(merkle_proof(leaves, index))
        data = call("claim(uint256,address,uint256,bytes32[])", index, payee, 1_000, proof)
        mined = stage.evm.send(party("anybody"), contract, data)
        gas += mined.gas
        least += prices.floor(data, Work(changed=1, calls=1, logs=((1, 3),)) + prices.PAYER + prices.TRANSFER)
    return Row("100 claims of a Merkle distribution", gas, COUNT, "payee", least)


def _ours(stage: Stage, payees: list[str]) -> list[Row]:
    """One tenant that pays 100 providers: one post and one claim of all leaves, in steady state."""
    tenant = party("tenant of a hundred")
    stage.fund(tenant, 10**9, LIMIT)
    for _ in range(2):
        plan = stage.plan({(tenant, payee): 1_000 for payee in payees}, {tenant: 100_000})
        posted = stage.post(plan)
        stage.evm.warp(CHALLENGE)
        paid = stage.claim(plan, claims(plan))
    post = prices.floor(posted.data, prices.POST + prices.POST_TENANT)
    # One account is read and written a hundred times; after the first time it is warm and dirty, which costs little.
    warm = Work(changed=1) + Work(changed=1, logs=((4, 2),)) * COUNT
    claim = prices.floor(paid.data, prices.CLAIM + prices.CLAIM_LEAF * COUNT + warm)
    return [
        Row("escrow: post and claim for 100", posted.gas + paid.gas, COUNT, "payee", post + claim),
    ]
