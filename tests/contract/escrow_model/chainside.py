"""The packaged escrow on a real anvil, called through web3 in anybody's name at seconds that the test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress, HexStr
from eth_utils.abi import get_abi_output_types
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from tests.contract.escrow_model.model import CHALLENGE, EXIT_AFTER, LONGEST, NOBODY, NOTICE, RULING, Pair
from web3 import HTTPProvider, Web3

from fedgpu_lab.chain import Chain
from fedgpu_operator import artifacts
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Line
from fedgpu_operator.settlement.epochs import leaf_hash, merkle_proof, merkle_root

STAKE_DELAY = LONGEST + CHALLENGE + RULING + 2 * 86_400
STAKE_LOCK = 10 * 86_400
GAS = {"gas": hex(8_000_000), "maxFeePerGas": hex(10**11), "maxPriorityFeePerGas": "0x1"}


def party(name: str) -> ChecksumAddress:
    """An address of which nobody has the key."""
    return to_checksum_address(keccak(text=name)[:20])


def keyed(name: str) -> LocalAccount:
    """An account whose key is made of its name."""
    account: LocalAccount = Account.from_key(keccak(text=name))
    return account


@dataclass(frozen=True)
class Tree:
    """The leaves of an epoch: one for each provider, with all tenants' lines in it."""

    leaves: Mapping[str, tuple[tuple[str, int], ...]]

    @classmethod
    def of(cls, lines: Mapping[Pair, int], providers: Sequence[str]) -> Tree:
        """The same lines always make the same tree."""
        return cls({p: tuple((t, total) for (t, q), total in lines.items() if q == p) for p in providers})

    def _hashes(self) -> list[bytes]:
        return [
            leaf_hash(provider, [Line(tenant, MicroUSD(total)) for tenant, total in lines])
            for provider, lines in self.leaves.items()
        ]

    @property
    def root(self) -> str:
        """0x and the root in hex."""
        return "0x" + merkle_root(self._hashes()).hex()

    def credit(self, provider: str) -> tuple[str, tuple[tuple[str, int], ...], tuple[bytes, ...]]:
        """The provider's leaf with its proof, as the contract takes it."""
        return provider, self.leaves[provider], merkle_proof(self._hashes(), list(self.leaves).index(provider))


class ChainSide:
    """One deployment; `snapshot` and `revert` bring it back to how it began."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._provider = HTTPProvider(chain.rpc_url, request_kwargs={"timeout": 30})
        self.web3 = Web3(self._provider)
        for method, *words in (
            ("evm_setIntervalMining", 0),
            ("evm_setAutomine", False),
            ("anvil_autoImpersonateAccount", True),
        ):
            chain.rpc(method, *words)
        self.admin = chain.accounts[0].address
        self.tenants = [keyed(f"tenant {name}") for name in ("alice", "bob", "carol")]
        self.signers = [keyed(f"signer {name}") for name in ("p", "q")]
        self.meter = keyed("meter")
        self.settler, self.guardian, self.arbiter = party("settler"), party("guardian"), party("arbiter")
        self.reserve, self.anybody, self.till = party("reserve"), party("anybody"), party("till")
        self.providers = [party("provider p"), party("provider q")]
        self.now = int(self.web3.eth.get_block("latest")["timestamp"]) + 10
        self._funded: set[str] = {self.admin}
        self.token = self._deploy("TestUSD")
        roles = [self.settler, self.meter.address, self.arbiter, self.guardian, self.reserve]
        periods = [CHALLENGE, NOTICE, RULING, EXIT_AFTER, LONGEST]
        self.escrow = self._deploy("ComputeEscrow", (self.token.address, self.admin, *roles, *periods))
        config = (self.escrow.address, self.admin, self.settler, self.arbiter, self.reserve, STAKE_DELAY, STAKE_LOCK)
        self.stake = self._deploy("ProviderStake", config)
        for tenant in self.tenants:
            self.must(tenant.address, self.token.functions.approve(self.escrow.address, 2**255))
        self.must(self.anybody, self.token.functions.approve(self.stake.address, 2**255))
        for provider, signer in zip(self.providers, self.signers, strict=True):
            self.must(provider, self.escrow.functions.setProvider(NOBODY, signer.address))
        for who in (self.settler, self.guardian, self.arbiter, self.reserve, self.anybody, *self.providers):
            self._fund(who)
        self.began = self.now
        self._snapshot = chain.rpc("evm_snapshot")

    def close(self) -> None:
        """Let go of web3's connections."""
        self._provider._request_session_manager.session_cache.clear()

    def reset(self) -> None:
        """Back to the moment after the deployment."""
        self._chain.rpc("evm_revert", self._snapshot)
        self._snapshot = self._chain.rpc("evm_snapshot")
        self.now = self.began

    def _deploy(self, name: artifacts.ContractName, *arguments: object) -> Any:
        artifact = artifacts.load(name)
        factory = self.web3.eth.contract(abi=artifact.abi, bytecode=HexStr(artifact.bytecode))
        receipt = self._transact({"from": self.admin, "data": factory.constructor(*arguments).data_in_transaction})
        return self.web3.eth.contract(address=to_checksum_address(receipt["contractAddress"]), abi=artifact.abi)

    def _mine(self) -> None:
        self.now += 1
        self._chain.rpc("evm_setNextBlockTimestamp", self.now)
        self._chain.rpc("evm_mine")

    def warp(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds - 1
        self._mine()

    def send(self, sender: str, call: Any) -> bool:
        """One transaction, one second after the last block; whether the contract accepted it."""
        self._fund(sender)
        data = call._encode_transaction_data()
        return bool(self._transact({"from": sender, "to": call.address, "data": data})["status"] == "0x1")

    def _fund(self, who: str) -> None:
        if who not in self._funded:
            self._chain.rpc("anvil_setBalance", who, hex(10**22))
            self._funded.add(who)

    def _transact(self, request: dict[str, str]) -> Any:
        sent = self._chain.rpc("eth_sendTransaction", {**request, **GAS})
        self._mine()
        return self._chain.rpc("eth_getTransactionReceipt", sent)

    def read(self, *calls: Any) -> list[Any]:
        """The answers of many views at the newest block, in one request."""
        requests: Any = [
            ("eth_call", [{"to": call.address, "data": call._encode_transaction_data()}, "latest"]) for call in calls
        ]
        answers = self._provider.make_batch_request(requests)
        assert isinstance(answers, list)
        # A batch may be answered in any order.
        raws = [
            bytes.fromhex(str(each["result"])[2:]) for each in sorted(answers, key=lambda each: int(str(each["id"])))
        ]
        return [self._decoded(call, raw) for call, raw in zip(calls, raws, strict=True)]

    def _decoded(self, call: Any, raw: bytes) -> Any:
        values = self.web3.codec.decode(get_abi_output_types(call.abi), raw)
        return values[0] if len(values) == 1 else values

    def must(self, sender: str, call: Any) -> None:
        """A call that nothing may refuse."""
        assert self.send(sender, call), call

    def mint(self, to: str, units: int) -> None:
        """Tokens from nowhere."""
        self.must(self.admin, self.token.functions.mint(to, units))

    def receipt(self, tenant: str, which: int, total: int, end: int) -> tuple[Any, Any]:
        """A receipt with both signatures, made as EIP-712 says and not as the contract does."""
        names = ("tenant", "provider", "cumulative", "periodEnd", "usageRoot")
        types = ("address", "address", "uint64", "uint40", "bytes32")
        values = (tenant, self.providers[which], total, end, keccak(text="usage"))
        message = self._typed("fedgpu ComputeEscrow", self.escrow.address, "Receipt", names, types, values)
        meter, signer = (bytes(key.sign_message(message).signature) for key in (self.meter, self.signers[which]))
        return values, (self.meter.address, meter, signer)

    def authorization(self, tenant: LocalAccount, units: int, nonce: bytes) -> bytes:
        """EIP-3009: the tenant lets the escrow fetch so many units."""
        names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
        types = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
        values = (tenant.address, self.escrow.address, units, 0, 2**40, nonce)
        message = self._typed("Test USD", self.token.address, "ReceiveWithAuthorization", names, types, values)
        return bytes(tenant.sign_message(message).signature)

    def _typed(self, domain: str, contract: str, kind: str, names: Any, types: Any, values: Any) -> Any:
        return encode_typed_data(
            {"name": domain, "version": "1", "chainId": 31337, "verifyingContract": contract},
            {kind: [{"name": n, "type": t} for n, t in zip(names, types, strict=True)]},
            dict(zip(names, values, strict=True)),
        )
