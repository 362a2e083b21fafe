"""Manifests of epochs, read from the hub's ConfigMaps, a file or a URL; verifies nothing.

A manifest needs no trust: its hash is on the chain, and whoever reads it here compares.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgpu_operator.errors import ChainError, ConfigurationError, ForbiddenError, NotFoundError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.settlementepoch import SettlementEpochSpec
    from fedgpu_operator.cli.common import TargetOptions
    from fedgpu_operator.domain.settlement import EpochPlan

LARGEST: Final = 512 * 2**20
"""Bytes of a manifest, unpacked: some five million lines."""
MOST_PIECES: Final = 1024
TIMEOUT_S: Final = 60.0
GZIP: Final = b"\x1f\x8b"


async def manifest_of(given: TargetOptions, place: str, number: int, manifest_hash: str) -> bytes:
    """The manifest of an epoch from `place` or, if that is empty, from the hub; nothing of it is checked."""
    if place:
        return await from_place(place)
    async with _hub(given) as hub:
        return await from_hub(hub, given.operator_namespace, number, manifest_hash)


async def plan_of_root(given: TargetOptions, place: str, number: int, root: str) -> EpochPlan:
    """The epoch with this very root, rebuilt from its manifest; ChainError if the manifest has another root."""
    from fedgpu_operator.settlement import parse_manifest

    if place:
        raw = await from_place(place)
    else:
        async with _hub(given) as hub:
            raw = await from_hub(hub, given.operator_namespace, number, await _hash_of(hub, root))
    try:
        plan = parse_manifest(raw)
    except (ValueError, RecursionError) as error:
        raise ChainError(f"manifest cannot be used: {error}") from error
    if plan.root != root:
        raise ChainError(f"manifest of another epoch: its root is {plan.root}, that of epoch {number} is {root}")
    return plan


async def from_hub(hub: KubeClient, namespace: str, number: int, manifest_hash: str) -> bytes:
    """The manifest with this hash that the operator published in its namespace; `number` is the epoch's on the chain.

    Its pieces can be read by name and not be listed. NotFoundError if they are missing or not complete.
    """
    known = await _ledger_number(hub, manifest_hash)
    where = (namespace, number if known is None else known, manifest_hash)
    first, count = await _piece(hub, *where, 0)
    rest = [(await _piece(hub, *where, index))[0] for index in range(1, min(count, MOST_PIECES))]
    return unpacked(first + b"".join(rest))


@asynccontextmanager
async def _hub(given: TargetOptions) -> AsyncIterator[KubeClient]:
    from fedgpu_operator.adapters.kube.connect import connect

    try:
        hub = await connect(given.context)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; or give the manifest with --manifest") from error
    try:
        yield hub
    finally:
        await hub.close()


async def _piece(hub: KubeClient, namespace: str, epoch: int, manifest_hash: str, index: int) -> tuple[bytes, int]:
    """One piece, and how many there are."""
    from fedgpu_operator.hub.services.epochs import KEY, PIECES_ANNOTATION, manifest_name
    from fedgpu_operator.ports import CONFIG_MAPS

    name = manifest_name(epoch, manifest_hash, index)
    try:
        piece = await hub.get(CONFIG_MAPS, name, namespace)
        packed = base64.b64decode(piece["binaryData"][KEY], validate=True)
        return packed, int(piece["metadata"]["annotations"][PIECES_ANNOTATION])
    except NotFoundError as error:
        text = (
            f"manifest {manifest_hash} not found on the hub (ConfigMap {namespace}/{name}), which deletes those of old "
            "epochs: print it from the operator's ledger or archive with "
            f"`fedgpu ledger manifest {manifest_hash} > manifest.json` and give it with --manifest manifest.json; if "
            "the operator runs in another namespace, give --operator-namespace"
        )
        raise NotFoundError(text, status=error.status) from error
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise NotFoundError(f"ConfigMap {namespace}/{name} is not a part of a manifest") from error


async def _hash_of(hub: KubeClient, root: str) -> str:
    """The manifest hash of the hub's epoch with that root."""
    found = next((spec.manifest_hash for spec in await _specs(hub) if spec.root == root), None)
    if found is None:
        raise NotFoundError(f"epoch with root {root} not found on the hub; give its manifest with --manifest")
    return found


async def _ledger_number(hub: KubeClient, manifest_hash: str) -> int | None:
    """The hub's own number of the epoch; None if the hub shows no such epoch, or none at all to this user."""
    try:
        specs = await _specs(hub)
    except ForbiddenError:
        return None
    return next((spec.sequence for spec in specs if spec.manifest_hash == manifest_hash), None)


async def _specs(hub: KubeClient) -> list[SettlementEpochSpec]:
    from fedgpu_operator.api.settlementepoch import SettlementEpoch
    from fedgpu_operator.ports import ResourceType

    objects, _ = await hub.list(ResourceType.of(SettlementEpoch.info))
    return [SettlementEpoch.parse(each).spec for each in objects]


async def from_place(place: str) -> bytes:
    """A manifest, plain or gzipped, from a file or an http(s) URL; ConfigurationError if it cannot be read."""
    if place.startswith(("http://", "https://")):
        return unpacked(await _fetched(place))
    return unpacked(await asyncio.to_thread(_read, Path(place)))


def unpacked(raw: bytes) -> bytes:
    """The bytes themselves, or unpacked if they are gzipped; never more than LARGEST."""
    if not raw.startswith(GZIP):
        return raw
    machine = zlib.decompressobj(wbits=31)
    try:
        plain = machine.decompress(raw, LARGEST)
    except zlib.error as error:
        raise ConfigurationError(f"manifest cannot be unpacked: {error}") from error
    if not machine.eof:
        raise ConfigurationError("manifest cannot be unpacked: truncated or too large")
    return plain


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigurationError(f"--manifest: {path} is too large for a manifest")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--manifest: {path} cannot be read: {error.strerror}") from error


async def _fetched(url: str) -> bytes:
    import httpx

    raw = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=True) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                raw += chunk
                if len(raw) > LARGEST:
                    raise ConfigurationError("--manifest: response of the URL is too large for a manifest")
    except httpx.HTTPStatusError as error:
        raise ConfigurationError(f"--manifest: URL responded with status {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise ConfigurationError(f"--manifest: URL cannot be read ({type(error).__name__})") from error
    return bytes(raw)
