"""From names to wallets: one wallet for one namespace, and only payouts that were accepted."""

from __future__ import annotations

from random import Random

from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.world import PROVIDERS, World

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.attempts import PairTotal
from fedgpu_operator.hub.views.accounts import cumulative_pairs, payout_wallets, tenant_wallets

A, B, C = (str(to_checksum_address("0x" + pair * 20)) for pair in ("aa", "bb", "cc"))


def account(namespace: str, wallet: str, second: int) -> ComputeAccount:
    meta = {"name": "default", "namespace": namespace, "creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
    return ComputeAccount.parse({"metadata": meta, "spec": {"wallet": wallet}})


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([A, A.lower(), B, C]), st.integers(0, 3)),
        unique_by=lambda entry: entry[0],
    ),
    st.randoms(),
)
def test_a_wallet_has_one_namespace_whatever_the_order(entries: list[tuple[str, str, int]], chance: Random) -> None:
    accounts = [account(*entry) for entry in entries]
    owners = tenant_wallets(accounts)
    assert len(set(owners.values())) == len(owners)
    shuffled = list(accounts)
    chance.shuffle(shuffled)
    assert tenant_wallets(shuffled) == owners
    for namespace, wallet, second in entries:
        rivals = [(age, name) for name, theirs, age in entries if theirs.lower() == wallet.lower()]
        assert (namespace in owners) == ((second, namespace) == min(rivals))


async def test_a_payout_is_believed_only_as_it_was_accepted(world: World) -> None:
    async def wallet(name: str) -> str:
        return payout_wallets([GPUProvider.parse(await world.kube.get(PROVIDERS, name))]).get(name, "")

    await world.provider("with", payout={"address": A.lower()})
    await world.provider("without")
    assert await wallet("with") == A
    assert not await wallet("without")
    await world.kube.patch(PROVIDERS, "with", "", {"spec": {"payout": {"address": B}}})
    assert not await wallet("with")


def test_what_was_earned_between_two_wallets_adds_up_before_it_is_rounded() -> None:
    def total(tenant: str, provider: str, numerator: int, wallets: tuple[str, str]) -> PairTotal:
        return PairTotal(tenant, provider, 1, numerator, 0, 1, *wallets)

    totals = [
        total("team", "one", 1_800, (A, B)),
        total("team", "two", 1_800, (A, B)),
        total("team", "one", 7_200, (A, C)),
        total("team", "unpaid", 9_999, (A, "")),
        total("stranger", "one", 9_999, ("", B)),
    ]
    assert cumulative_pairs(totals) == {(A, B): 1, (A, C): 2}
