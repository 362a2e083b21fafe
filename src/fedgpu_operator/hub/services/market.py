"""The market as every user of the hub may read it: one compressed document in a ConfigMap beside the operator."""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.market import Market, Premium, PriceBucket
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import InvalidResourceError, NotFoundError
from fedgpu_operator.ports import CONFIG_MAPS, Kube

log = logging.getLogger(__name__)


NAME: Final = "fedgpu-market"
KEY: Final = "market.json.gz"
MOST_BYTES: Final = 640 * 1024
"""Of the compressed document: base64 makes 854 KiB of it, and an object may have 1 MiB."""


@dataclass(frozen=True, slots=True)
class QuotedOffer:
    """An offer as the hub sees it, its premium at the clearing prices, and the GPUs that came free there lately."""

    offer: Offer
    premium: Premium
    freed: int


@dataclass(frozen=True, slots=True)
class MarketDocument:
    """What the hub publishes of its market at `at`.

    `history` holds hours and days; `offers` and `history` are None where they were too many to publish.
    `window` is over how many hours `freed` of the offers was counted. `waiting_jobs` and `waiting_gpus` are all the
    work that waits for a place. `default_deny` and `vantages` are what jobs are judged by beside policies; `own_rules`
    names the rules and prices of third parties, which only this hub can ask.
    """

    at: datetime
    certified: bool
    markets: tuple[Market, ...]
    offers: tuple[QuotedOffer, ...] | None
    history: tuple[PriceBucket, ...] | None
    window: int
    waiting_jobs: int
    waiting_gpus: int
    default_deny: bool
    vantages: tuple[Vantage, ...]
    own_rules: tuple[str, ...] = ()


_ADAPTER: Final = TypeAdapter(MarketDocument)


def packed(document: MarketDocument) -> bytes:
    """The document as it is published, at most MOST_BYTES: its history goes first where it is larger, then offers.

    Of vantages only name and place are published: whoever reads the market has no reason to ask their endpoints.
    """
    document = replace(document, vantages=tuple(replace(each, url="") for each in document.vantages))
    for smaller in (document, replace(document, history=None), replace(document, history=None, offers=None)):
        made = gzip.compress(_ADAPTER.dump_json(smaller), mtime=0)
        if len(made) <= MOST_BYTES:
            return made
    bare = replace(document, history=None, offers=None, markets=document.markets[: len(document.markets) // 2])
    return packed(bare)


def unpacked(data: bytes) -> MarketDocument:
    """What `packed` made; InvalidResourceError where it is something else."""
    try:
        return _ADAPTER.validate_json(gzip.decompress(data))
    except (OSError, EOFError, ValidationError) as error:
        raise InvalidResourceError("InvalidConfigMap", "the published market cannot be read by this version") from error


async def publish_market(kube: Kube, namespace: str, document: MarketDocument) -> None:
    """Write it, whatever stood there before. Raises the KubeError tree."""
    meta: JSONObject = {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "fedgpu"}}
    # In a thread: with ten thousand offers this takes a third of a second.
    data = base64.b64encode(await asyncio.to_thread(packed, document)).decode("ascii")
    await kube.apply(CONFIG_MAPS, {"metadata": meta, "binaryData": {KEY: data}})


async def published_market(kube: Kube, namespace: str) -> MarketDocument:
    """What the operator in that namespace published last.

    Raises NotFoundError that says where it was looked for, InvalidResourceError where it cannot be read, KubeError.
    """
    try:
        found = await kube.get(CONFIG_MAPS, NAME, namespace)
    except NotFoundError as error:
        text = (
            f"no operator has published a market in namespace {namespace}: ConfigMap {NAME} is not there; "
            "name its namespace with --operator-namespace, or wait a minute after its start"
        )
        raise NotFoundError(text, status=error.status) from error
    try:
        return unpacked(base64.b64decode(found["binaryData"][KEY], validate=True))
    except (KeyError, TypeError, binascii.Error) as error:
        raise InvalidResourceError("InvalidConfigMap", f"ConfigMap {namespace}/{NAME} holds no market") from error
