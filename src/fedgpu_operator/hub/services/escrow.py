"""Where this hub settles, in a ConfigMap that every user of it may read: what wallets sign names all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import InvalidResourceError, NotFoundError
from fedgpu_operator.ports import CONFIG_MAPS, Kube

NAME: Final = "fedgpu-settlement"
HUB, CHAIN_ID, ESCROW = "hub", "chainID", "escrow"
"""Keys of the ConfigMap's data."""


@dataclass(frozen=True, slots=True)
class Published:
    """UID of the hub (that of its kube-system namespace), and the escrow with its chain."""

    hub: str
    chain_id: int
    escrow: str


async def publish(kube: Kube, namespace: str, known: Published) -> None:
    """Write it, whatever stood there before. Raises the KubeError tree."""
    data = {HUB: known.hub, CHAIN_ID: str(known.chain_id), ESCROW: known.escrow}
    meta: JSONObject = {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "fedgpu"}}
    await kube.apply(CONFIG_MAPS, {"metadata": meta, "data": data})


async def published(kube: Kube, namespace: str) -> Published:
    """What the operator in that namespace published.

    Raises NotFoundError that says where it was looked for, InvalidResourceError where it cannot be read, KubeError.
    """
    try:
        found = await kube.get(CONFIG_MAPS, NAME, namespace)
    except NotFoundError as error:
        text = f"no operator that settles on a chain runs in namespace {namespace}: ConfigMap {NAME} is not there"
        raise NotFoundError(text, status=error.status) from error
    data = found.get("data") or {}
    try:
        return Published(hub=str(data[HUB]), chain_id=int(data[CHAIN_ID]), escrow=str(data[ESCROW]))
    except (KeyError, ValueError) as error:
        text = f"ConfigMap {namespace}/{NAME} does not name hub, chain and escrow: restart the operator to have it so"
        raise InvalidResourceError("InvalidConfigMap", text) from error
