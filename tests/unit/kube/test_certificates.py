"""Certificates without key identifiers, as old EKS and microk8s made them: refused with the fix, or taken as told."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedgpu_lab.kubeconfig import render
from fedgpu_lab.pki import new_server_identity
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import KEPT
from fedgpu_operator.agent.report import unreachable
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.errors import CertificateRefusedError, InvalidResourceError


@dataclass(frozen=True)
class Server:
    """Where it listens, and the CA that its certificate is of."""

    url: str
    ca_pem: str


def old_identity(folder: Path, address: str = "127.0.0.1") -> tuple[str, Path, Path]:
    """A CA and a certificate that it signed, of which neither names a key; and the certificate's key."""
    now, names = (
        dt.datetime.now(dt.UTC),
        [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("old CA", "old server")],
    )
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    made = []
    for name, key, is_ca in zip(names, keys, (True, False), strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            alt = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(alt, critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pem = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(made[1])
    (folder / "key.pem").write_bytes(pem)
    return made[0].decode(), folder / "cert.pem", folder / "key.pem"


@asynccontextmanager
async def serving(ca_pem: str, cert: Path, key: Path) -> AsyncIterator[Server]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.19.0"})

    app = web.Application()
    app.router.add_get("/version", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield Server(f"https://127.0.0.1:{runner.addresses[0][1]}", ca_pem)
    finally:
        await runner.cleanup()


async def version(server: Server, *, strict: bool, ca_pem: str = "") -> str:
    text = render(name="old", server=server.url, ca_pem=ca_pem or server.ca_pem, token="x")
    client = KubeClient.of_member(member_client(text, x509_strict=strict), KEPT)
    try:
        return await client.server_version()
    finally:
        await client.close()


async def test_a_ca_without_key_identifiers_is_refused_with_the_cause_and_the_fix(tmp_path: Path) -> None:
    async with serving(*old_identity(tmp_path)) as server:
        with pytest.raises(CertificateRefusedError) as raised:
            await version(server, strict=True)
    for wanted in ("RFC 5280", "Key Identifier", "renew the CA", "spec.connection.tls.x509Strict to false"):
        assert wanted in str(raised.value)
    verdict = unreachable(raised.value)
    assert (verdict.status, verdict.reason, verdict.message) == ("False", "CertificateRefused", str(raised.value))


async def test_it_is_taken_where_its_provider_says_so(tmp_path: Path) -> None:
    async with serving(*old_identity(tmp_path)) as server:
        assert await version(server, strict=False) == "v1.19.0"


async def test_nothing_else_is_relaxed_with_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    stranger, _, _ = old_identity(tmp_path / "a")
    async with serving(*old_identity(tmp_path / "b")) as server:
        with pytest.raises(CertificateRefusedError, match="certificate-authority-data") as raised:
            await version(server, strict=False, ca_pem=stranger)
        assert "x509Strict" not in str(raised.value)
    async with serving(*old_identity(tmp_path / "a", address="127.0.0.2")) as server:
        with pytest.raises(CertificateRefusedError, match="name the server as the certificate does"):
            await version(server, strict=False)


async def test_a_certificate_in_form_is_taken_by_the_strict(tmp_path: Path) -> None:
    identity = new_server_identity(tmp_path)
    async with serving(identity.ca_pem, identity.cert_file, identity.key_file) as server:
        assert await version(server, strict=True) == "v1.19.0"


@pytest.mark.parametrize("strict", [True, False])
def test_every_version_of_python_asks_for_the_same(strict: bool, tmp_path: Path) -> None:
    """From 3.13 on the flag is there by itself, before that it is not; verification is there always."""
    identity = new_server_identity(tmp_path)
    text = render(name="m", server="https://127.0.0.1:1", ca_pem=identity.ca_pem, token="x")
    context = member_client(text, x509_strict=strict).rest_client.ssl_context
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is strict
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def provider(**connection: object) -> GPUProvider:
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "x"}, **connection},
        "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}],
    }
    return GPUProvider.parse({"metadata": {"name": "acme"}, "spec": spec})


def test_what_weakens_tls_has_to_be_accepted() -> None:
    strict, said, relaxed = provider(), provider(tls={"x509Strict": True}), provider(tls={"x509Strict": False})
    assert strict.spec.connection.tls.x509_strict
    assert strict.spec.acceptance_hash() == said.spec.acceptance_hash()
    assert strict.spec.acceptance_hash() != relaxed.spec.acceptance_hash()
    with pytest.raises(InvalidResourceError):
        provider(tls={"x509Strict": "odd"})
