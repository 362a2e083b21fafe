"""Publishes each epoch's manifest on the hub before the epoch is posted, so that anyone who may read can check it.

A manifest that only the settler has would make its root unprovable. It is kept as ConfigMaps that cannot change,
compressed and cut into pieces that etcd takes; `fedgpu settle verify` puts them together again.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from typing import Final

from fedgpu_operator.api.base import GROUP, JSONObject
from fedgpu_operator.domain.books import Epoch
from fedgpu_operator.errors import AlreadyExistsError, NotFoundError
from fedgpu_operator.ports import CONFIG_MAPS, Kube

EPOCH_LABEL: Final = f"{GROUP}/epoch"
HASH_ANNOTATION: Final = f"{GROUP}/manifest-hash"
PIECES_ANNOTATION: Final = f"{GROUP}/pieces"
KEY: Final = "manifest.json.gz"
PIECE_BYTES: Final = 640 * 1024
"""Of compressed manifest in one ConfigMap: base64 makes 854 KiB of it, and an object may have 1 MiB."""


async def publish_manifest(kube: Kube, namespace: str, epoch: Epoch) -> None:
    """Make the ConfigMaps of an epoch that are not there yet; they are named after the manifest's hash too."""
    for piece in _pieces(namespace, epoch):
        try:
            await kube.create(CONFIG_MAPS, piece)
        except AlreadyExistsError:
            continue


async def withdraw_manifest(kube: Kube, namespace: str, epoch: int, manifest_hash: str) -> None:
    """Delete the ConfigMaps of an epoch; the first one goes last, since it says how many there are."""
    try:
        first = await kube.get(CONFIG_MAPS, manifest_name(epoch, manifest_hash, 0), namespace)
    except NotFoundError:
        return
    for index in reversed(range(int(first["metadata"]["annotations"][PIECES_ANNOTATION]))):
        await kube.delete(CONFIG_MAPS, manifest_name(epoch, manifest_hash, index), namespace)


def manifest_name(epoch: int, manifest_hash: str, index: int) -> str:
    """The name of one piece: a hub whose ledger began anew numbers its epochs anew, their hashes differ."""
    return f"fedgpu-epoch-{epoch}-{manifest_hash.removeprefix('0x')[:12]}-{index}"


def _pieces(namespace: str, epoch: Epoch) -> Iterator[JSONObject]:
    # No time of day in it: the same manifest has to give the same bytes.
    packed = gzip.compress(epoch.draft.manifest, mtime=0)
    cuts = [packed[start : start + PIECE_BYTES] for start in range(0, len(packed), PIECE_BYTES)]
    for index, cut in enumerate(cuts):
        yield {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": {
                "name": manifest_name(epoch.number, epoch.draft.manifest_hash, index),
                "namespace": namespace,
                "labels": {EPOCH_LABEL: str(epoch.number)},
                "annotations": {HASH_ANNOTATION: epoch.draft.manifest_hash, PIECES_ANNOTATION: str(len(cuts))},
            },
            "immutable": True,
            "binaryData": {KEY: base64.b64encode(cut).decode("ascii")},
        }
