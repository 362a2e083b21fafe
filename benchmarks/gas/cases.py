"""Every call of the escrow once, first and in steady state, each with its gas and its floor."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gas import prices
from benchmarks.gas.escrow import (
    ANSWERS,
    CHALLENGE,
    DAY,
    LINES,
    NOBODY,
    RECEIPT,
    RULING,
    SIGNATURES,
    SIGNER,
    Stage,
    credit_of,
    party,
)
from benchmarks.gas.evm import Mined, call
from benchmarks.gas.prices import Work

from fedgpu_operator.settlement import claims

LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Row:
    """One measured call: gas in all, for how many of what, its floor and the target of the issue where there is one."""

    name: str
    gas: int
    per: int = 1
    unit: str = "call"
    floor: int | None = None
    target: int | None = None

    @property
    def each(self) -> float:
        """Gas for one unit."""
        return self.gas / self.per


def row(name: str, mined: Mined, work: Work | None = None, *, target: int | None = None) -> Row:
    """A row of one transaction."""
    return Row(name, mined.gas, floor=prices.floor(mined.data, work) if work else None, target=target)


def deposits(stage: Stage) -> list[Row]:
    """The first deposit fills slots that a later one changes."""
    first = stage.fund(party("depositor"), 1_000_000, LIMIT)
    again = stage.deposit(party("depositor"), 500_000)
    fresh = Work(filled=1, changed=-1)
    return [
        row("deposit, first", first, prices.DEPOSIT + fresh),
        row("deposit, repeated", again, prices.DEPOSIT, target=60_000),
    ]


def posts(stage: Stage) -> list[Row]:
    """1, 10 and 100 tenants, each twice: the second time their accounts are as they will be ever after."""
    rows = []
    for count in (1, 10, 100):
        tenants = [party(f"post {count} {index}") for index in range(count)]
        for tenant in tenants:
            stage.fund(tenant, 1_000_000, LIMIT)
        provider = party("provider of the posts")
        for _ in range(2):
            plan = stage.plan({(tenants[0], provider): 1_000}, dict.fromkeys(tenants, 1_000))
            mined = stage.post(plan)
            stage.evm.warp(CHALLENGE)
        work = prices.POST + prices.POST_TENANT * count
        rows.append(row(f"postEpoch, {count} tenants", mined, work, target=90_000 + 8_000 * count))
    return rows


def claimed(stage: Stage) -> list[Row]:
    """1 and 16 lines in one leaf: a new pair, and one that was paid before; the payee holds tokens already."""
    rows = []
    for count, target in ((1, 82_000), (16, 24_000 * 16)):
        tenants = [party(f"claim {count} {index}") for index in range(count)]
        provider = party(f"provider {count}")
        stage.mint(provider, 1)
        for tenant in tenants:
            stage.fund(tenant, 1_000_000, LIMIT)
        for word in ("new", "steady"):
            plan = stage.plan({(tenant, provider): 1_000 for tenant in tenants}, dict.fromkeys(tenants, 2_000))
            stage.post(plan)
            stage.evm.warp(CHALLENGE)
            mined = stage.claim(plan)
            work = prices.CLAIM + prices.CLAIM_LEAF + prices.CLAIM_LINE * count
            if word == "new":
                work += Work(filled=count, changed=-count)
            goal = target if word == "steady" else None
            rows.append(row(f"claim, {count} lines, {word}", mined, work, target=goal))
    return rows


def cancelled(stage: Stage) -> list[Row]:
    """The guardian's call, the same however many tenants are in the epoch."""
    tenant = party("cancelled")
    stage.fund(tenant, 1_000_000, LIMIT)
    stage.post(stage.plan({(tenant, party("provider c")): 1_000}, {tenant: 1_000}))
    data = call("cancelEpoch(uint32)", stage.head())
    mined = stage.evm.send(party("guardian"), stage.escrow, data)
    return [row("cancelEpoch", mined, Work(read=1, changed=2, logs=((2, 1),)))]


def disputed(stage: Stage) -> list[Row]:
    """A line disputed, answered with a receipt, and closed; and a debit without a provider."""
    tenant, provider = party("disputes"), party("provider d")
    stage.fund(tenant, 10**9, LIMIT)
    stage.evm.send(provider, stage.escrow, call("setProvider(address,address)", NOBODY, SIGNER.address))
    plan = stage.plan({(tenant, provider): 10_000_000}, {tenant: 20_000_000})
    stage.post(plan)
    epoch = stage.head()
    _, lines, proof = credit_of(claims(plan)[0])
    signature = f"dispute(address,uint64,bytes32,{LINES},uint256,bytes32[])"
    why = b"\1" * 32
    line = stage.evm.send(tenant, stage.escrow, call(signature, provider, 5_000_000, why, lines, 0, proof))
    debit = stage.evm.send(tenant, stage.escrow, call(signature, NOBODY, 5_000_000, why, [], 0, []))
    receipt, sigs = stage.receipt(tenant, provider, 10_000_000, stage.evm.now())
    answer = call(
        f"answer(uint32,address,address,{ANSWERS})", epoch, tenant, provider, [(provider, [], 0, [], receipt, sigs)]
    )
    answered = stage.evm.send(party("anybody"), stage.escrow, answer)
    stage.evm.warp(CHALLENGE)
    rule = call("rule(uint32,address,address,uint64)", epoch, tenant, NOBODY, 1_000_000)
    ruled = stage.evm.send(party("arbiter"), stage.escrow, rule)
    stage.evm.warp(RULING)
    close = call("close(uint32,address,address)", epoch, tenant, provider)
    closed = stage.evm.send(party("anybody"), stage.escrow, close)
    return [
        row("dispute of a line", line),
        row("dispute of a debit", debit),
        row("answer with a receipt", answered),
        row("rule", ruled),
        row("close", closed),
    ]


def exited(stage: Stage) -> list[Row]:
    """A provider that leaves with a receipt, from allocated money, and is paid."""
    tenant, provider = party("left"), party("provider e")
    stage.fund(tenant, 10**9, LIMIT)
    stage.mint(provider, 1)
    stage.evm.send(provider, stage.escrow, call("setProvider(address,address)", NOBODY, SIGNER.address))
    receipt, sigs = stage.receipt(tenant, provider, 10_000_000, stage.evm.now() - 30 * DAY)
    data = call(f"exit({RECEIPT},{SIGNATURES})", receipt, sigs)
    left = stage.evm.send(provider, stage.escrow, data)
    stage.evm.warp(CHALLENGE)
    finish = call("finishExit(address,address)", tenant, provider)
    return [
        row("exit", left),
        row("finishExit", stage.evm.send(party("anybody"), stage.escrow, finish)),
    ]
