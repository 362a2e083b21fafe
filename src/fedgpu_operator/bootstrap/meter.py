"""Loads the meter's key, the hub's half of every receipt, and sees to it that it is nobody else's."""

from __future__ import annotations

from fedgpu_operator.adapters.chain.signers import LocalSigner, load_key
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import ChainSettings


async def load_meter(chain: ChainSettings, settler: str) -> LocalSigner | None:
    """The signer with the METER role; None where no key file is set, and then no receipt is made.

    Raises ConfigurationError where the key is that of `settler`: one key that both meters and settles could show a
    receipt for whatever it posted.
    """
    if chain.meter_key_file is None:
        return None
    meter = await load_key(chain.meter_key_file)
    if meter.address.lower() == settler.lower():
        raise ConfigurationError(
            f"FEDGPU_METER_KEY_FILE: holds the settler's key ({meter.address}); receipts need a key of their own"
        )
    return meter
