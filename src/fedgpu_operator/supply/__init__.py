"""What a member's nodes supply: from Node and Pod objects as they are to products that can be let; pure.

`node` reads a Node, each module of `sources` says what one ecosystem's labels say of its GPUs, `judge` weighs those
descriptions against each other and against the figures of the kubelet, and `tally` adds up what is free. What
contradicts itself is left out with a reason and never sold; no label and no quantity of a stranger can make any of it
fail.
"""

from fedgpu_operator.supply.judge import Why
from fedgpu_operator.supply.tally import LIVE_PODS, LeftOutNodes, ProductSupply, Supply, Tally, live_pods_of

__all__ = ["LIVE_PODS", "LeftOutNodes", "ProductSupply", "Supply", "Tally", "Why", "live_pods_of"]
