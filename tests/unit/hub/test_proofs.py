"""A wallet counts only with its own signature over exactly this use; who merely names one gets nothing of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from eth_account import Account
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from tests.unit.hub.chain import FakeEscrow, stamp
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.world import HUB, ISSUED, TEAM, World

from fedgpu_operator.api.base import Condition, JSONObject, find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.errors import ChainUnreachableError
from fedgpu_operator.hub.services.hubstate import load
from fedgpu_operator.hub.services.snapshot import all_offers, funds_by_namespace
from fedgpu_operator.hub.services.solvency import Obligations
from fedgpu_operator.hub.services.wallets import ASKED_AT_ONCE, RECHECK, SKEW_SECONDS, ProofBook
from fedgpu_operator.ports import ResourceType
from fedgpu_operator.settlement.typeddata import (
    SigningDomain,
    TypedData,
    account_proof,
    escrow_domain,
    hub_domain,
    provider_proof,
)

KEY = "0x" + "42" * 32
WALLET = str(Account.from_key(KEY).address)
SIGNER = "0x" + "51" * 20
OWNER = str(to_checksum_address("0x" + "cc" * 20))
ACCOUNTS = ResourceType.of(ComputeAccount.info)


class Wallets:
    """A chain on which contract wallets accept `stamp`, that counts how often it is asked and can be silent."""

    escrow: ChecksumAddress = FakeEscrow().escrow
    chain_id = 31337

    def __init__(self) -> None:
        self.asked, self.silent, self.revoked = 0, False, False

    async def is_valid_signature(self, address: str, digest: bytes, signature: bytes) -> bool:
        self.asked += 1
        if self.silent:
            raise ChainUnreachableError("no answer")
        return signature == stamp(address, digest) and not self.revoked


@pytest.fixture
def wallets() -> Wallets:
    return Wallets()


@pytest.fixture
def book(wallets: Wallets, clock: FakeClock) -> ProofBook:
    return ProofBook(wallets, clock, hub=HUB)


def by_key(data: TypedData, issued: int = ISSUED) -> JSONObject:
    return {"signature": "0x" + bytes(Account.unsafe_sign_hash(data.digest, KEY).signature).hex(), "issuedAt": issued}


def for_account(**changes: Any) -> TypedData:
    domain = changes.pop("domain", hub_domain(31337, Wallets.escrow))
    said: dict[str, Any] = {"hub": HUB, "namespace": TEAM, "wallet": WALLET, "issued_at": ISSUED}
    return account_proof(domain, **{**said, **changes})


def for_provider(**changes: Any) -> TypedData:
    domain = changes.pop("domain", hub_domain(31337, Wallets.escrow))
    said: dict[str, Any] = {"hub": HUB, "provider": "berlin", "payout": WALLET, "signer": SIGNER, "issued_at": ISSUED}
    return provider_proof(domain, **{**said, **changes})


def account(proof: JSONObject | None, namespace: str = TEAM, wallet: str = WALLET) -> ComputeAccount:
    meta = {"name": "default", "namespace": namespace}
    return ComputeAccount.parse({"metadata": meta, "spec": {"wallet": wallet, "proof": proof}})


def provider(proof: JSONObject | None, **payout: Any) -> GPUProvider:
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [{"product": "H100", "pricePerGPUHour": "1"}],
        "payout": {"address": WALLET, "signer": SIGNER, "proof": proof, **payout},
    }
    return GPUProvider.parse({"metadata": {"name": "berlin"}, "spec": spec})


ELSEWHERE: list[SigningDomain] = [
    hub_domain(1, Wallets.escrow),
    hub_domain(31337, "0x" + "e6" * 20),
    escrow_domain(31337, Wallets.escrow),
]


async def test_the_wallets_own_signature_is_verified_once_and_the_chain_not_asked(
    book: ProofBook, wallets: Wallets, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = account(by_key(for_account()), wallet=WALLET.lower())
    assert (await book.accounts([mine]))[TEAM].proven

    def fail(*_: object) -> bool:
        raise AssertionError("verified again")

    monkeypatch.setattr("fedgpu_operator.hub.services.wallets.signed_by", fail)
    wallets.silent = True
    assert (await book.accounts([mine], refresh=True))[TEAM].proven
    assert wallets.asked == 0


async def test_without_a_proof_it_says_what_to_run(book: ProofBook, wallets: Wallets) -> None:
    verdict = (await book.accounts([account(None)]))[TEAM]
    assert verdict.status == "False"
    assert f"fedgpu account prove -n {TEAM}" in verdict.message
    verdict = (await book.providers([provider(None)]))["berlin"]
    assert verdict.status == "False"
    assert "fedgpu provider prove berlin" in verdict.message
    assert wallets.asked == 0


@pytest.mark.parametrize(
    "said",
    [
        {"hub": "another-hub"},
        {"namespace": "team-b"},
        {"wallet": OWNER},
        {"issued_at": ISSUED + 1},
        *({"domain": each} for each in ELSEWHERE),
    ],
)
async def test_a_proof_of_anything_else_is_refused(book: ProofBook, said: dict[str, Any]) -> None:
    verdict = (await book.accounts([account(by_key(for_account(**said)))]))[TEAM]
    assert verdict.status == "False"
    assert f"fedgpu account prove -n {TEAM}" in verdict.message


@pytest.mark.parametrize(
    "said",
    [
        {"hub": "another-hub"},
        {"provider": "berlin2"},
        {"payout": OWNER},
        {"signer": OWNER},
        {"signer": None},
        {"issued_at": ISSUED - 1},
        *({"domain": each} for each in ELSEWHERE),
    ],
)
async def test_a_providers_proof_binds_name_payout_and_signer(book: ProofBook, said: dict[str, Any]) -> None:
    assert (await book.providers([provider(by_key(for_provider()))]))["berlin"].proven
    verdict = (await book.providers([provider(by_key(for_provider(**said)))]))["berlin"]
    assert verdict.status == "False"
    assert "fedgpu provider prove berlin" in verdict.message


async def test_another_receipt_signer_needs_a_new_proof(book: ProofBook) -> None:
    moved = provider(by_key(for_provider()), signer="0x" + "52" * 20)
    assert (await book.providers([moved]))["berlin"].status == "False"


async def test_a_proof_from_the_future_is_refused_beyond_the_skew_of_clocks(book: ProofBook, clock: FakeClock) -> None:
    edge = int(clock.now().timestamp()) + SKEW_SECONDS
    for issued, status in ((edge, "True"), (edge + 1, "False"), (2**40, "False")):
        data = for_account(issued_at=issued)
        assert (await book.accounts([account(by_key(data, issued))]))[TEAM].status == status
    clock.forward(1)
    assert (await book.accounts([account(by_key(for_account(issued_at=edge + 1), edge + 1))]))[TEAM].proven


def stamped(wallet: str, data: TypedData) -> JSONObject:
    return {"signature": "0x" + stamp(wallet, data.digest).hex(), "issuedAt": ISSUED}


async def test_a_contract_wallet_is_asked_and_asked_again_only_when_told_to(
    book: ProofBook, wallets: Wallets, clock: FakeClock
) -> None:
    theirs = account(stamped(OWNER, for_account(wallet=OWNER)), wallet=OWNER)
    for _ in range(3):
        assert (await book.accounts([theirs], refresh=True))[TEAM].proven
    assert wallets.asked == 1, "within the interval an answer holds"
    wallets.revoked = True
    clock.forward(RECHECK.total_seconds())
    assert (await book.accounts([theirs]))[TEAM].proven, "who places jobs does not wait for the chain"
    assert wallets.asked == 1
    assert (await book.accounts([theirs], refresh=True))[TEAM].status == "False"
    assert (await book.accounts([theirs]))[TEAM].status == "False"


async def test_a_silent_chain_is_unknown_for_contracts_and_takes_nothing_back(
    book: ProofBook, wallets: Wallets, clock: FakeClock
) -> None:
    known = account(stamped(OWNER, for_account(wallet=OWNER)), wallet=OWNER)
    assert (await book.accounts([known]))[TEAM].proven
    wallets.silent = True
    clock.forward(RECHECK.total_seconds())
    fresh = account(stamped(OWNER, for_account(wallet=OWNER, namespace="new")), "new", OWNER)
    keyed = account(by_key(for_account(namespace="keyed")), "keyed")
    verdicts = await book.accounts([known, fresh, keyed], refresh=True)
    assert {name: verdict.status for name, verdict in verdicts.items()} == {
        TEAM: "True",
        "new": "Unknown",
        "keyed": "True",
    }
    asked = wallets.asked
    await book.accounts([known, fresh, keyed], refresh=True)
    assert wallets.asked == asked, "it is not asked again at once"
    wallets.silent = False
    clock.forward(RECHECK.total_seconds())
    assert (await book.accounts([fresh]))["new"].proven


async def test_many_proofs_of_nobody_cost_one_silence_and_not_one_each(book: ProofBook, wallets: Wallets) -> None:
    wallets.silent = True
    many = [account(stamped(OWNER, for_account(wallet=OWNER)), f"squatter-{n}", OWNER) for n in range(100)]
    verdicts = await book.accounts([*many, account(by_key(for_account()))], refresh=True)
    assert verdicts.pop(TEAM).proven
    assert {each.status for each in verdicts.values()} == {"Unknown"}
    assert wallets.asked <= ASKED_AT_ONCE


async def test_memory_is_bounded(book: ProofBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgpu_operator.hub.services.wallets.MOST_KEPT", 3)
    for second in range(9):
        data = for_account(issued_at=second)
        assert (await book.accounts([account(by_key(data, second))]))[TEAM].proven
    assert len(book._answers) == 3


# ---- what the loops make of it


async def read(world: World, escrow: FakeEscrow, namespace: str = TEAM) -> Condition:
    await world.factory().account_loop(escrow, world.proofs, poll=3).pass_once()
    seen = ComputeAccount.parse(world.kube.objects[ACCOUNTS.plural, namespace, "default"])
    found = find(seen.status.conditions, "Funded")
    assert found is not None
    return found


async def test_a_squatter_takes_no_wallet_and_no_money(world: World) -> None:
    """It names the wallet first, copies the owner's proof even, and has nothing; the owner is not kept out."""
    escrow = FakeEscrow()
    escrow.fund(OWNER, 10)
    await world.account(OWNER, "squatter", proof=world.account_proof(OWNER, TEAM))
    await world.account(OWNER, "bare-squatter", proof=None)
    world.clock.forward(60)
    await world.account(OWNER)
    assert (await read(world, escrow)).reason == "Funded"
    for namespace in ("squatter", "bare-squatter"):
        said = await read(world, escrow, namespace)
        assert (said.status, said.reason) == ("False", "WalletUnproven")
        assert f"fedgpu account prove -n {namespace}" in said.message
    state = await load(world.kube, world.proofs)
    assert state.wallets is not None
    assert state.wallets.tenants == {TEAM: OWNER}
    funds = funds_by_namespace(state, ["squatter", "bare-squatter", TEAM], Obligations())
    assert funds == {"squatter": 0, "bare-squatter": 0, TEAM: 10_000_000}


async def test_an_unproven_account_runs_nothing_and_a_proof_is_enough_to_begin(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(OWNER, 10)
    world.settlement = True
    await world.provider("berlin", payout={"address": WALLET})
    await world.account(OWNER, proof=None)
    await world.job()
    await read(world, escrow)
    await world.pass_once()
    assert world.leases == []
    assert world.says("Placed") == ("False", "Unfunded")
    patch = {"spec": {"proof": world.account_proof(OWNER)}}
    await world.kube.patch(ACCOUNTS, "default", TEAM, patch)
    await read(world, escrow)
    await world.pass_once()
    (attempt,) = await world.ledger.open_attempts()
    terms = attempt.attempt.terms
    assert (terms.tenant_wallet, terms.provider_wallet) == (OWNER, WALLET)


async def test_figures_of_a_wallet_that_stopped_counting_are_not_kept(world: World) -> None:
    escrow = FakeEscrow()
    escrow.fund(OWNER, 10)
    await world.account(OWNER)
    await read(world, escrow)
    await world.kube.patch(ACCOUNTS, "default", TEAM, {"spec": {"proof": None}})
    await read(world, escrow)
    status = ComputeAccount.parse(world.kube.objects[ACCOUNTS.plural, TEAM, "default"]).status
    assert (status.state, status.balance, status.available, status.observed_block) == ("Unfunded", "0", "0", 0)
    await world.kube.patch(ACCOUNTS, "default", TEAM, {"spec": {"proof": world.account_proof(OWNER)}})
    funds = funds_by_namespace(await load(world.kube, world.proofs), [TEAM], Obligations())
    assert funds == {TEAM: 0}, "the chain is read before work is reserved again"


async def test_an_unproven_payout_is_offered_nothing_even_where_the_status_says_ready(world: World) -> None:
    await world.provider("berlin", payout={"address": WALLET, "proof": None})
    await world.provider("bergen", payout={"address": OWNER})
    offers = all_offers(await load(world.kube, world.proofs))
    assert {each.provider: each.ready for each in offers} == {"berlin": False, "bergen": True}
    assert all(each.ready for each in all_offers(await load(world.kube))), "without settlement nobody is asked"


async def test_wallets_are_the_same_object_until_something_of_them_changes(world: World) -> None:
    await world.provider("berlin", payout={"address": OWNER})
    await world.account(WALLET)
    accounts = [ComputeAccount.parse(await world.kube.get(ACCOUNTS, "default", TEAM))]
    providers = [GPUProvider.parse(await world.kube.get(ResourceType.of(GPUProvider.info), "berlin"))]
    # Two loops that ask at the same time are both answered for their own objects.
    first, second = await asyncio.gather(
        world.proofs.wallets(accounts, providers), world.proofs.wallets(accounts, providers)
    )
    assert (first.tenants, first.payouts) == ({TEAM: WALLET}, {"berlin": OWNER})
    assert second is first
    assert await world.proofs.payouts(providers) == {"berlin": OWNER}
    assert await world.proofs.wallets(accounts, providers) is first
    unproven = accounts[0].model_copy(update={"spec": accounts[0].spec.model_copy(update={"proof": None})})
    assert (await world.proofs.wallets([unproven], providers)).tenants == {}
    assert (await world.proofs.wallets(accounts, [])).payouts == {}


async def test_a_contract_that_changed_its_mind_changes_the_wallets(wallets: Wallets, book: ProofBook) -> None:
    account = ComputeAccount.parse(
        {
            "metadata": {"name": "default", "namespace": TEAM},
            "spec": {"wallet": WALLET, "proof": {"signature": by_stamp(for_account()), "issuedAt": ISSUED}},
        }
    )
    assert (await book.wallets([account], [])).tenants == {TEAM: WALLET}
    wallets.revoked = True
    assert (await book.wallets([account], [])).tenants == {TEAM: WALLET}, "placing jobs does not ask twice"
    book._clock.forward(RECHECK.total_seconds())  # type: ignore[attr-defined]
    await book.accounts([account], refresh=True)
    assert (await book.wallets([account], [])).tenants == {}


def by_stamp(data: TypedData) -> str:
    return "0x" + stamp(WALLET, data.digest).hex()
