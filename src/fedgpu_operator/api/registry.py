"""Every kind of the group, in the order in which documentation and CRDs list them."""

from __future__ import annotations

from typing import Final

from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.api.settlementepoch import SettlementEpoch

KINDS: Final[tuple[type[Resource], ...]] = (
    GPUProvider,
    ProviderReport,
    ComputeJob,
    ComputeLease,
    ComputeAccount,
    PlacementPolicy,
    SettlementEpoch,
)
