"""The operator's first reads of a real chain: whichever request is lost, it starts and knows the right terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from tests.contract.chain.conftest import CHALLENGE, FINALITY, OTHER, World

from fedgpu_lab.faultychain import FaultyEndpoint
from fedgpu_operator.adapters.chain import calls
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.bootstrap import settlement
from fedgpu_operator.bootstrap.settlement import open_escrow
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import ChainMismatchError
from fedgpu_operator.settings import ChainSettings, Settings
from fedgpu_operator.settlement import first_fees, lag_of

pytestmark = pytest.mark.chains("anvil", "hardhat")


class LossyEndpoint(FaultyEndpoint):
    """Loses the reply to the requests whose numbers are in `lost`, counted from 1."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url)
        self.lost: set[int] = set()
        self.count = 0

    async def _handle(self, request: web.Request) -> web.Response:
        self.count += 1
        if self.count in self.lost:
            return web.Response(status=502, text="bad gateway")
        return await super()._handle(request)


def chain_settings(url: str, world: World, deployment: Deployment, tmp_path: Path) -> ChainSettings:
    for name, account in (("settler", 1), ("meter", -1)):
        (tmp_path / name).write_text(world.chain.accounts[account].private_key)
    given: Mapping[str, str] = {
        "FEDGPU_CHAIN_RPC_URL": url,
        "FEDGPU_CHAIN_ID": str(deployment.chain_id),
        "FEDGPU_ESCROW_ADDRESS": deployment.escrow,
        "FEDGPU_SETTLER_KEY_FILE": str(tmp_path / "settler"),
        "FEDGPU_METER_KEY_FILE": str(tmp_path / "meter"),
        "FEDGPU_EPOCH_SECONDS": "60",
    }
    made = Settings.from_env(given).chain
    assert made is not None
    return made


async def test_the_nth_request_of_the_start_may_be_lost_whichever_it_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "FIRST_PAUSE_SECONDS", 0.0)
    world.finalize()
    async with LossyEndpoint(world.chain.rpc_url) as endpoint:
        chain = chain_settings(endpoint.url, world, world.deployment, tmp_path)
        first = await open_escrow(chain, SystemClock())
        await first.aclose()
        requests = endpoint.count
        longest = (await (await world.client()).periods()).longest_epoch
        assert requests > 15, "verification, periods, a snapshot and two roles"
        for nth in range(1, requests + 1):
            endpoint.count, endpoint.lost = 0, {nth}
            opened = await open_escrow(chain, SystemClock())
            await opened.aclose()
            terms = opened.terms
            assert (terms.known, terms.longest, terms.lag) == (True, longest, lag_of(longest, CHALLENGE)), nth
            assert terms.obstacles == {}, nth


async def test_a_chain_that_is_silent_through_the_start_is_read_when_it_is_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "PATIENCE_SECONDS", 0.0)
    world.finalize()
    async with LossyEndpoint(world.chain.rpc_url) as endpoint:
        chain = chain_settings(endpoint.url, world, world.deployment, tmp_path)
        endpoint.lost = set(range(1, 1000))
        opened = await open_escrow(chain, SystemClock())
        try:
            assert not opened.terms.known
            endpoint.lost = set()
            await opened.terms.read()
            assert (opened.terms.known, opened.terms.obstacles) == (True, {})
        finally:
            await opened.aclose()


async def test_what_the_settler_has_is_the_chains_own_figure(world: World) -> None:
    world.chain.mine(FINALITY + 1)
    settler = await world.settler()
    before = await settler.balance(world.address(1))
    assert before == int(str(world.chain.rpc("eth_getBalance", world.address(1), "latest")), 16) > 0
    call = replace(calls.claim(world.escrow, 1, ()), gas=30_000)
    nonces = await settler.nonces(world.address(1))
    view = await settler.suggest_fees()
    sent = await settler.broadcast(await settler.sign(call, nonces.latest, first_fees(view, 10**12)))
    world.chain.mine()
    receipt = await settler.receipt(sent)
    assert receipt is not None
    assert await settler.balance(world.address(1)) == before - receipt.fee


async def test_a_batch_contract_that_is_named_and_not_there_stops_the_start(world: World, tmp_path: Path) -> None:
    world.finalize()
    chain = chain_settings(world.chain.rpc_url, world, world.deployment, tmp_path)
    nobody = world.address(OTHER)
    with pytest.raises(ChainMismatchError, match=f"{nobody} on chain {world.deployment.chain_id} holds no batch"):
        await open_escrow(chain.model_copy(update={"batch": nobody}), SystemClock())
