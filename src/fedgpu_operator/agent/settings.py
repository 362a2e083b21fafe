"""Frozen settings of one agent; all durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How one agent works.

    `namespace` is the provider's namespace on the hub, `hub_uid` tells this hub's objects on the member from those of
    other hubs and must be a label value. A scheduled pod holds its GPUs before it is billed for them: `start_after` is
    how long it may. `suspended_after` is how long the member may suspend a workload before its attempt ends, and
    `close_within` how long `Agent.aclose` waits for a pass that is under way. `rules` is what the owner says of its
    nodes.
    """

    namespace: str
    hub_uid: str
    resync: float = 5.0
    debounce: float = 0.03
    inventory_interval: float = 10.0
    report_interval: float = 60.0
    usage_interval: float = 15.0
    renew_interval: float = 5.0
    reject_after: float = 30.0
    image_after: float = 120.0
    start_after: float = 1800.0
    suspended_after: float = 120.0
    answer_timeout: float = 5.0
    backoff_most: float = 30.0
    close_within: float = 10.0
    identity: str = "fedgpu-agent"
    version: str = ""
    concurrency: int = 16
    rules: InventoryRules = NO_RULES
