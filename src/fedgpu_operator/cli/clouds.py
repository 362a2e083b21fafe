"""List prices of central clouds by GPU product, each with its source and the day it was read; no decision uses them.

On demand, without commitment, US regions, per GPU-hour of the instance that holds it. A product that is not in the
table has no price here: nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GPU_CLOUD: Final = "GPUCloud"
HYPERSCALER: Final = "Hyperscaler"
KINDS: Final = (GPU_CLOUD, HYPERSCALER)


@dataclass(frozen=True, slots=True)
class CloudPrice:
    """What a cloud lists for one GPU of a product: `usd` per GPU-hour as a decimal string, read on the day `as_of`."""

    kind: str
    usd: str
    name: str
    as_of: str
    source: str


_MISSION: Final = "the project's reference prices, which its demo plays too"
_RUNPOD: Final = "https://www.runpod.io/pricing"
_LAMBDA: Final = "https://lambda.ai/pricing"
_NEBIUS: Final = "https://nebius.com/prices"
_AWS: Final = "https://aws.amazon.com/ec2/pricing/on-demand/"

PRICES: Final[dict[str, tuple[CloudPrice, ...]]] = {
    "NVIDIA-H100-80GB-HBM3": (
        CloudPrice(GPU_CLOUD, "2.49", "reference GPU cloud", "2026-11-23", _MISSION),
        CloudPrice(HYPERSCALER, "6.04", "reference hyperscaler", "2026-11-23", _MISSION),
    ),
    "NVIDIA-H100-PCIe": (CloudPrice(GPU_CLOUD, "3.29", "Lambda 1x H100 PCIe", "2026-09-25", _LAMBDA),),
    "NVIDIA-H100-NVL": (CloudPrice(GPU_CLOUD, "3.19", "RunPod Secure H100 NVL", "2026-09-25", _RUNPOD),),
    "NVIDIA-H200": (CloudPrice(GPU_CLOUD, "4.50", "Nebius HGX H200", "2026-09-25", _NEBIUS),),
    "NVIDIA-B200": (CloudPrice(GPU_CLOUD, "6.99", "Lambda 1x B200 SXM6", "2026-09-25", _LAMBDA),),
    "NVIDIA-A100-SXM4-80GB": (
        CloudPrice(GPU_CLOUD, "1.59", "RunPod Secure A100 SXM", "2026-09-25", _RUNPOD),
        CloudPrice(HYPERSCALER, "3.4309", "AWS p4de.24xlarge, us-east-1", "2026-11-09", _AWS),
    ),
    "NVIDIA-A100-SXM4-40GB": (
        CloudPrice(GPU_CLOUD, "1.99", "Lambda 1x A100 SXM 40GB", "2026-09-25", _LAMBDA),
        CloudPrice(HYPERSCALER, "2.7447", "AWS p4d.24xlarge, us-east-1", "2026-11-09", _AWS),
    ),
    "NVIDIA-A100-80GB-PCIe": (CloudPrice(GPU_CLOUD, "1.59", "RunPod Secure A100 PCIe", "2026-09-25", _RUNPOD),),
    "NVIDIA-L40S": (CloudPrice(GPU_CLOUD, "1.55", "Nebius L40S", "2026-09-25", _NEBIUS),),
    "NVIDIA-A10": (CloudPrice(GPU_CLOUD, "1.29", "Lambda 1x A10", "2026-09-25", _LAMBDA),),
    "NVIDIA-GeForce-RTX-4090": (CloudPrice(GPU_CLOUD, "0.74", "RunPod Secure RTX 4090", "2026-09-25", _RUNPOD),),
}
"""By the value of `nvidia.com/gpu.product`."""
