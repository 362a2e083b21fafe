"""A stranger's kubeconfig: tokens and client certificates are taken, whatever runs, reads or skips is refused."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import MAX_BYTES, member_client
from fedgpu_operator.errors import InvalidResourceError

Object = dict[str, Any]


def _pem_pair() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


CERT, KEY = _pem_pair()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "elsewhere", "context": {"cluster": "x", "user": "x"}},
            {"name": "here", "context": {"cluster": "member", "user": "agent"}},
        ],
        "clusters": [
            {
                "name": "member",
                "cluster": {"server": "https://member.example:6443", "certificate-authority-data": b64(CERT)},
            }
        ],
        "users": [{"name": "agent", "user": {"token": "s3cret-token"}}],
    }


def cluster(value: Object) -> Object:
    found: Object = value["clusters"][0]["cluster"]
    return found


def user(value: Object) -> Object:
    found: Object = value["users"][0]["user"]
    return found


async def test_a_token_is_taken() -> None:
    client = member_client(yaml.safe_dump(config()))
    try:
        assert client.configuration.host == "https://member.example:6443"
        assert client.configuration.api_key["BearerToken"] == "Bearer s3cret-token"
        assert client.configuration.verify_ssl
    finally:
        await client.close()


@pytest.mark.parametrize("line", ["x: 2020-99-99", "x: " + "1" * 5000, "x: !!int abc", "<<: {a: b}"])
async def test_what_is_not_used_cannot_hurt(line: str) -> None:
    client = member_client(_dumped() + line + "\n")
    await client.close()


@pytest.mark.parametrize("value", [False, None, "false", ""])
async def test_verified_tls_in_any_words_is_taken(value: object) -> None:
    written = config()
    cluster(written)["insecure-skip-tls-verify"] = value
    user(written).update(exec=None, tokenFile="")
    client = member_client(yaml.safe_dump(written))
    assert client.configuration.verify_ssl
    await client.close()


async def test_the_environment_is_not_for_a_stranger() -> None:
    """Neither its proxies, nor the passwords of its .netrc."""
    kube = KubeClient(member_client(_dumped()))
    kwargs = kube._api.configuration.client_session_kwargs
    assert kwargs["trust_env"] is False
    assert kwargs["auto_decompress"] is False
    await kube.close()


async def test_a_client_certificate_is_taken() -> None:
    value = config()
    value["users"][0]["user"] = {"client-certificate-data": b64(CERT), "client-key-data": b64(KEY)}
    client = member_client(yaml.safe_dump(value))
    await client.close()


REFUSED: dict[str, tuple[Callable[[Object], Any], str]] = {
    "exec": (lambda c: user(c).update(exec={"command": "sh"}), "user.exec"),
    "auth-provider": (lambda c: user(c).update({"auth-provider": {"name": "gcp"}}), "user.auth-provider"),
    "token file": (lambda c: user(c).update(tokenFile="/etc/passwd"), "user.tokenFile"),
    "certificate file": (lambda c: user(c).update({"client-certificate": "/x"}), "user.client-certificate"),
    "key file": (lambda c: user(c).update({"client-key": "/x"}), "user.client-key"),
    "password": (lambda c: user(c).update(username="a", password="b"), "user.username"),
    "impersonation": (lambda c: user(c).update({"as": "system:admin"}), "user.as"),
    "CA file": (lambda c: cluster(c).update({"certificate-authority": "/x"}), "cluster.certificate-authority"),
    "proxy": (lambda c: cluster(c).update({"proxy-url": "http://p"}), "cluster.proxy-url"),
    "insecure TLS": (lambda c: cluster(c).update({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify"),
    "insecure TLS in other words": (lambda c: cluster(c).update({"insecure-skip-tls-verify": "yes"}), "insecure-skip"),
    "a token of two lines": (
        lambda c: user(c).update(token="s3cret\nX-Evil: 1"),
        "user.token must be text on one line",
    ),
    "a token of two words": (lambda c: user(c).update(token="s3cret s3cret"), "user.token must be ASCII"),
    "a token that is a list": (lambda c: user(c).update(token=["s3cret"]), "user.token must be text"),
    "a server name of two lines": (lambda c: cluster(c).update({"tls-server-name": "a\nb"}), "tls-server-name"),
    "a context name that is a list": (lambda c: c.update({"current-context": ["here"]}), "current-context must be"),
    "half an IPv6 address": (lambda c: cluster(c).update(server="https://[::1"), "https URL"),
    "a port past all ports": (lambda c: cluster(c).update(server="https://member.example:99999"), "https URL"),
    "a locked key": (
        lambda c: c["users"][0].update(
            user={"client-certificate-data": b64(CERT), "client-key-data": b64("-----BEGIN ENCRYPTED PRIVATE KEY-----")}
        ),
        "without a pass phrase",
    ),
    "http": (lambda c: cluster(c).update(server="http://member.example"), "https"),
    "a file server": (lambda c: cluster(c).update(server="file:///etc/passwd"), "https"),
    "no server": (lambda c: cluster(c).pop("server"), "https"),
    "a password in the URL": (lambda c: cluster(c).update(server="https://u:p@member.example"), "plain URL"),
    "a query": (lambda c: cluster(c).update(server="https://member.example?x=1"), "plain URL"),
    "no credentials": (lambda c: user(c).clear(), "token"),
    "a certificate without key": (
        lambda c: c["users"][0].update(user={"client-certificate-data": b64(CERT)}),
        "PEM|base64",
    ),
    "a broken CA": (lambda c: cluster(c).update({"certificate-authority-data": b64("no pem")}), "PEM"),
    "a CA that is no base64": (lambda c: cluster(c).update({"certificate-authority-data": "%%%"}), "base64"),
    "a context that leads nowhere": (lambda c: c.update({"current-context": "nowhere"}), "current-context"),
    "contexts that are no list": (lambda c: c.update(contexts="x"), "current-context"),
    "a user that is no mapping": (lambda c: c["users"][0].update(user="x"), "current-context"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_it_is_refused_with_the_field_and_never_a_secret(change: Callable[[Object], Any], says: str) -> None:
    value = copy.deepcopy(config())
    change(value)
    with pytest.raises(InvalidResourceError, match=says) as refusal:
        member_client(yaml.safe_dump(value))
    assert refusal.value.why == "KubeconfigRefused"
    assert "s3cret" not in str(refusal.value)


def _laughs(lines: int) -> str:
    """A text that grows tenfold with each line once its aliases are written out."""
    text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    for n in range(1, lines):
        text += f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n"
    return text + f"current-context: *a{lines - 1}\n"


def _dumped() -> str:
    return str(yaml.safe_dump(config()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "just text",
        "{a: [",
        "!!python/object/apply:os.system ['true']",
        "[" * 20_000,
        "{a: " * 20_000,
        "- " * 20_000,
        _laughs(9),
        _dumped() + "x: &anchor y\n",
        _dumped() + "current-context: elsewhere\n",
        _dumped() + "[a, list]: as a key\n",
        _dumped() + "---\n" + _dumped(),
        "\x00",
    ],
    ids=range(14),
)
async def test_what_is_no_kubeconfig_is_refused(text: str) -> None:
    with pytest.raises(InvalidResourceError) as refusal:
        member_client(text)
    assert refusal.value.why == "KubeconfigRefused"


async def test_a_huge_kubeconfig_is_not_even_parsed() -> None:
    with pytest.raises(InvalidResourceError, match="larger"):
        member_client("#" * (MAX_BYTES + 1))
