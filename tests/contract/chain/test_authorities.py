"""Endpoints and signers behind a certificate authority of one's own: its file is named, or it is not trusted."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from fedgpu_lab.pki import ServerIdentity, new_server_identity
from fedgpu_operator.adapters.chain import RemoteSigner
from fedgpu_operator.adapters.chain.endpoint import authorities
from fedgpu_operator.adapters.chain.rpc import Endpoints, Rpc
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.bootstrap import settlement
from fedgpu_operator.bootstrap.settlement import open_escrow
from fedgpu_operator.cli.common import TargetOptions, find_target
from fedgpu_operator.errors import ChainMismatchError, ChainUnreachableError, ConfigurationError
from fedgpu_operator.settings import Settings

ACCOUNT = "0x" + "5e" * 20
ANSWERS = {"eth_chainId": "0x7a69", "eth_accounts": [ACCOUNT]}


@asynccontextmanager
async def node(identity: ServerIdentity | None = None) -> AsyncIterator[str]:
    """Something that says which chain it serves and whom it signs for, over TLS if it has an identity."""

    async def handle(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": ANSWERS[asked["method"]]})

    app = web.Application()
    app.router.add_post("/", handle)
    runner, context = web.AppRunner(app, shutdown_timeout=0.1), None
    if identity is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert_file, identity.key_file)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"{'https' if identity else 'http'}://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def private(directory: Path) -> tuple[ServerIdentity, Path]:
    directory.mkdir()
    identity = new_server_identity(directory)
    ca_file = directory / "ca.crt"
    ca_file.write_text(identity.ca_pem)
    return identity, ca_file


async def chain_of(url: str, ca_file: Path | None) -> int:
    async with Rpc(Endpoints((url,), ca_file), timeout=5) as rpc:
        with rpc.speaking("asking"):
            return int(await rpc.w3.eth.chain_id)


async def test_a_private_authority_is_trusted_when_its_file_is_named(tmp_path: Path) -> None:
    (identity, ca_file), (_, other) = private(tmp_path / "a"), private(tmp_path / "b")
    async with node(identity) as url:
        assert await chain_of(url, ca_file) == 31337
        for wrong in (None, other):
            with pytest.raises(ChainUnreachableError):
                await chain_of(url, wrong)
    async with node() as plain:
        assert await chain_of(plain, ca_file) == 31337, "an endpoint without TLS stays one"


async def test_a_verb_reaches_the_chain_by_the_same_file(tmp_path: Path) -> None:
    identity, ca_file = private(tmp_path / "a")
    async with node(identity) as url:
        target = await find_target(TargetOptions(rpc=url, escrow=ACCOUNT, rpc_ca=ca_file))
        assert target.chain_id == 31337
        assert await chain_of(url, target.rpc.ca_file) == 31337
        with pytest.raises(ChainUnreachableError):
            await find_target(TargetOptions(rpc=url, escrow=ACCOUNT))


async def test_the_usual_authorities_are_trusted_as_before(tmp_path: Path) -> None:
    _, ca_file = private(tmp_path / "a")
    usual = {each["serialNumber"] for each in authorities().get_ca_certs()}
    now = {each["serialNumber"] for each in authorities(ca_file).get_ca_certs()}
    assert usual < now
    assert len(now - usual) == 1
    assert {each["serialNumber"] for each in authorities().get_ca_certs()} == usual, "nobody else trusts it"


async def test_a_signer_is_asked_through_the_same_authorities(tmp_path: Path) -> None:
    identity, ca_file = private(tmp_path / "a")
    async with node(identity) as url:
        signer = RemoteSigner(url, ACCOUNT, 5, ca_file=ca_file)
        await signer.check()
        await signer.aclose()
        stranger = RemoteSigner(url, ACCOUNT, 5)
        with pytest.raises(ChainUnreachableError):
            await stranger.check()
        await stranger.aclose()


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_a_file_without_a_certificate_stops_the_start_by_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=str(file)):
        await opened("https://127.0.0.1:1/", tmp_path, file)


async def opened(url: str, tmp_path: Path, ca_file: Path) -> settlement.EscrowAccess:
    given = {
        "FEDGPU_CHAIN_RPC_URL": url,
        "FEDGPU_CHAIN_ID": "31337",
        "FEDGPU_ESCROW_ADDRESS": "0x" + "e5" * 20,
        "FEDGPU_SETTLER_SIGNER_URL": url,
        "FEDGPU_SETTLER_ADDRESS": ACCOUNT,
        "FEDGPU_CHAIN_CA_FILE": str(ca_file),
    }
    chain = Settings.from_env(given).chain
    assert chain is not None
    return await open_escrow(chain, SystemClock())


async def test_the_operator_reaches_its_endpoint_by_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setitem(ANSWERS, "eth_chainId", "0x5")
    identity, ca_file = private(tmp_path / "a")
    async with node(identity) as url:
        with pytest.raises(ChainMismatchError, match="serves chain 5"):
            await opened(url, tmp_path, ca_file)
