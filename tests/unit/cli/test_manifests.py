"""A manifest comes from a file, a URL or the hub's pieces; what cannot be one is told in a line."""

from __future__ import annotations

import base64
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedgpu_operator.adapters.kube import connect as connecting
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.cli import manifests
from fedgpu_operator.cli.manifests import from_hub, from_place, unpacked
from fedgpu_operator.errors import ConfigurationError, KubeError, NotFoundError
from fedgpu_operator.hub.services.epochs import KEY, PIECES_ANNOTATION, manifest_name

if TYPE_CHECKING:
    from .conftest import FakeHub

MANIFEST = b'{"kind":"fedgpu.dev/settlement/v1"}' * 40
HASH = "0x" + "cd" * 32


@pytest.fixture
def server() -> Iterator[str]:
    """Answers /plain and /packed with the manifest, /moved with where it is, and anything else with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bodies = {"/plain": MANIFEST, "/packed": gzip.compress(MANIFEST), "/moved": b""}
            code = 404 if self.path not in bodies else 302 if self.path == "/moved" else 200
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/plain")
            self.end_headers()
            self.wfile.write(bodies.get(self.path, b"none"))

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


async def test_a_file_is_read_plain_or_packed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_bytes(MANIFEST)
    packed.write_bytes(gzip.compress(MANIFEST))
    assert await from_place(str(plain)) == await from_place(str(packed)) == MANIFEST


async def test_a_url_is_read_plain_or_packed(server: str) -> None:
    for path in ("/plain", "/packed", "/moved"):
        assert await from_place(server + path) == MANIFEST
    with pytest.raises(ConfigurationError, match="status 404"):
        await from_place(server + "/none")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await from_place("http://127.0.0.1:1/")


async def test_what_is_no_manifest_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        await from_place(str(tmp_path / "none"))
    packed = gzip.compress(MANIFEST)
    for broken in (packed[:-9], packed[:12] + b"\xff" * 20):
        with pytest.raises(ConfigurationError, match="cannot be unpacked"):
            unpacked(broken)
    # A few bytes that unpack to more than memory holds are as old as gzip.
    monkeypatch.setattr(manifests, "LARGEST", len(MANIFEST) - 1)
    with pytest.raises(ConfigurationError, match="too large"):
        unpacked(packed)
    (tmp_path / "large").write_bytes(MANIFEST)
    with pytest.raises(ConfigurationError, match="too large"):
        await from_place(str(tmp_path / "large"))


def pieces(number: int, count: int = 3) -> list[JSONObject]:
    packed = gzip.compress(MANIFEST)
    size = -(-len(packed) // count)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": manifest_name(number, HASH, index),
                "namespace": "fedgpu-system",
                "annotations": {PIECES_ANNOTATION: str(count)},
            },
            "binaryData": {KEY: base64.b64encode(packed[index * size : (index + 1) * size]).decode()},
        }
        for index in range(count)
    ]


def epoch(number: int) -> JSONObject:
    spec = {
        "sequence": number,
        "chainID": 1,
        "contract": "0x" + "12" * 20,
        "prevRoot": HASH,
        "root": HASH,
        "manifestHash": HASH,
        "periodEnd": "2026-01-01T00:00:00Z",
        "total": "1",
        "tenants": 1,
        "providers": 1,
    }
    kind = {"apiVersion": "fedgpu.dev/v1alpha1", "kind": "SettlementEpoch"}
    return {**kind, "metadata": {"name": f"epoch-{number}"}, "spec": spec}


async def test_the_hubs_pieces_are_put_together_by_the_ledgers_own_number(hub: FakeHub) -> None:
    hub.objects = [*pieces(9), epoch(9)]
    assert await from_hub(await connecting.connect(), "fedgpu-system", 4, HASH) == MANIFEST
    hub.objects = pieces(4, count=1)
    assert await from_hub(await connecting.connect(), "fedgpu-system", 4, HASH) == MANIFEST, (
        "no epoch is shown: the chain's number"
    )


@pytest.mark.parametrize("change", ["missing", "no data", "no annotation", "no base64"])
async def test_a_manifest_that_is_not_whole_on_the_hub_is_told_so(hub: FakeHub, change: str) -> None:
    hub.objects = [*pieces(4), epoch(4)]
    if change == "missing":
        del hub.objects[1]
    elif change == "no data":
        hub.objects[1]["binaryData"] = {}
    elif change == "no annotation":
        hub.objects[0]["metadata"]["annotations"] = {}
    else:
        hub.objects[1]["binaryData"][KEY] = "?"
    with pytest.raises(NotFoundError, match="fedgpu-epoch-4-cdcdcdcdcdcd"):
        await from_hub(await connecting.connect(), "fedgpu-system", 4, HASH)


async def test_a_hub_that_fails_is_not_a_hub_without_manifests(hub: FakeHub) -> None:
    hub.error = KubeError("broken", status=500)
    with pytest.raises(KubeError, match="broken"):
        await from_hub(await connecting.connect(), "fedgpu-system", 4, HASH)
