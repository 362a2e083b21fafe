"""One escrow on a fresh chain, its parties, and its calls with their gas; what is called is the packaged artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.gas.evm import Evm, Mined, call
from eth_abi.abi import decode
from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_operator import artifacts
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Claim, EpochPlan, Pair
from fedgpu_operator.settlement import build_epoch, claims

HOUR, DAY = 3600, 86_400
CHALLENGE, RULING, EXIT_AFTER, LONGEST = HOUR, DAY, 2 * DAY, HOUR
NOTICE = 14 * DAY
NOBODY = "0x" + "00" * 20
METER = Account.from_key("0x" + "3e" * 32)
SIGNER = Account.from_key("0x" + "51" * 32)
CONFIG = "(address,address,address,address,address,address,address,uint40,uint40,uint40,uint40,uint40)"
LINES = "(address,uint64)[]"
CREDITS = f"(address,{LINES},bytes32[])[]"
RECEIPT = "(address,address,uint64,uint40,bytes32)"
SIGNATURES = "(address,bytes,bytes)"
ANSWERS = f"(address,{LINES},uint256,bytes32[],{RECEIPT},{SIGNATURES})[]"
Receipt = tuple[str, str, int, int, bytes]
Signatures = tuple[str, bytes, bytes]


def party(name: str) -> str:
    """An address of which nobody has the key."""
    return str(to_checksum_address(keccak(text=name)[:20]))


@dataclass
class Stage:
    """Token, escrow and the state that the settler would know."""

    evm: Evm
    token: str = ""
    escrow: str = ""
    cumulative: dict[Pair, int] = field(default_factory=dict)

    def raise_(self) -> None:
        """Deploy a plain ERC-20 and the escrow beside it."""
        coin, escrow = artifacts.load("TestUSD"), artifacts.load("ComputeEscrow")
        self.token = self.evm.deploy(coin.bytecode)
        roles = [party(role) for role in ("admin", "settler")]
        roles += [METER.address, *(party(role) for role in ("arbiter", "guardian", "reserve"))]
        periods = (CHALLENGE, NOTICE, RULING, EXIT_AFTER, LONGEST)
        self.escrow = self.evm.deploy(escrow.bytecode, [CONFIG], [(self.token, *roles, *periods)])

    def fund(self, tenant: str, units: int, limit: int) -> Mined:
        """Mint, approve, deposit, limit; the deposit."""
        self.mint(tenant, 2 * units)
        self.evm.send(tenant, self.token, call("approve(address,uint256)", self.escrow, 2**200))
        mined = self.deposit(tenant, units)
        self.evm.send(tenant, self.escrow, call("setSpendLimit(uint48)", limit))
        return mined

    def deposit(self, tenant: str, units: int) -> Mined:
        """Deposit what was approved."""
        return self.evm.send(tenant, self.escrow, call("deposit(address,uint64)", tenant, units))

    def mint(self, to: str, units: int) -> None:
        """Give somebody tokens, so that its balance slot is not empty."""
        self.evm.send(self.evm.deployer, self.token, call("mint(address,uint256)", to, units))

    def plan(self, more: Mapping[Pair, int], debits: Mapping[str, int]) -> EpochPlan:
        """An epoch on the present state in which each pair is owed so much more."""
        for pair, units in more.items():
            self.cumulative[pair] = self.cumulative.get(pair, 0) + units
        _, head, seq, *_ = self._state()
        root = decode(["bytes32"], self.evm.read(self.escrow, call("epochOf(uint32)", head))[:32])[0]
        return build_epoch(
            chain_id=31337,
            escrow=self.escrow,
            seq=seq,
            prev_root="0x" + root.hex(),
            period_end=self.evm.now(),
            pairs={pair: MicroUSD(self.cumulative[pair]) for pair in more},
            debits={tenant: MicroUSD(units) for tenant, units in debits.items()},
        )

    def _state(self) -> tuple[int, ...]:
        return tuple(decode(["uint256"] * 6, self.evm.read(self.escrow, call("state()"))))

    def head(self) -> int:
        """The number of the newest epoch that stands."""
        return self._state()[1]

    def post(self, plan: EpochPlan) -> Mined:
        """Post it as the settler."""
        signature = "postEpoch(uint40,bytes32,bytes32,bytes32,uint40,(address,uint48)[])"
        words = [bytes.fromhex(word[2:]) for word in (plan.prev_root, plan.root, plan.manifest_hash)]
        debits = [(tenant, int(units)) for tenant, units in plan.debits.items()]
        return self.evm.send(party("settler"), self.escrow, call(signature, plan.seq, *words, plan.period_end, debits))

    def claim(self, plan: EpochPlan, some: Sequence[Claim] | None = None) -> Mined:
        """Claim leaves of the active epoch, all unless told."""
        chosen = claims(plan) if some is None else some
        data = call(f"claim(uint32,{CREDITS})", self.head(), [credit_of(each) for each in chosen])
        return self.evm.send(party("anybody"), self.escrow, data)

    def paid(self, pairs: Sequence[Pair]) -> list[int]:
        """What each pair has been paid in all."""
        tenants, providers = [tenant for tenant, _ in pairs], [provider for _, provider in pairs]
        answer = self.evm.read(self.escrow, call("pairsOf(address[],address[])", tenants, providers))
        return [books[0] for books in decode(["(uint64,uint64,uint64,uint32)[]"], answer)[0]]

    def receipt(self, tenant: str, provider: str, total: int, end: int) -> tuple[Receipt, Signatures]:
        """A receipt that meter and provider have signed."""
        receipt = (tenant, provider, total, end, keccak(text="usage"))
        digest = self.evm.read(self.escrow, call(f"receiptDigest({RECEIPT})", receipt))
        meter, signer = (bytes(key.unsafe_sign_hash(digest).signature) for key in (METER, SIGNER))
        return receipt, (METER.address, meter, signer)


def credit_of(claim: Claim) -> tuple[str, list[tuple[str, int]], list[bytes]]:
    """A leaf with its proof in the shape of the contract's calls."""
    lines = [(line.tenant, int(line.cumulative)) for line in claim.lines]
    return claim.provider, lines, [bytes.fromhex(word[2:]) for word in claim.proof]
