"""The meter's key is a key of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.bootstrap.settlement import load_meter
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import ChainSettings, Settings

KEY = "0x" + "e5" * 32


@pytest.fixture
def chain(tmp_path: Path) -> ChainSettings:
    settler, meter = tmp_path / "settler", tmp_path / "meter"
    settler.write_text("0x" + "77" * 32)
    meter.write_text(KEY + "\n")
    settings = Settings.from_env(
        {
            "FEDGPU_CHAIN_RPC_URL": "http://127.0.0.1:8545",
            "FEDGPU_CHAIN_ID": "31337",
            "FEDGPU_ESCROW_ADDRESS": "0x" + "11" * 20,
            "FEDGPU_SETTLER_KEY_FILE": str(settler),
            "FEDGPU_METER_KEY_FILE": str(meter),
        }
    )
    assert settings.chain is not None
    return settings.chain


async def test_the_meter_signs_with_its_own_key(chain: ChainSettings) -> None:
    meter = await load_meter(chain, "0x" + "22" * 20)
    assert meter is not None
    assert meter.address == LocalSigner(KEY).address
    assert await load_meter(chain.model_copy(update={"meter_key_file": None}), meter.address) is None


async def test_the_settlers_key_is_refused_whatever_file_holds_it(chain: ChainSettings) -> None:
    with pytest.raises(ConfigurationError, match="holds the settler's key") as refused:
        await load_meter(chain, LocalSigner(KEY).address.lower())
    assert "e5e5" not in str(refused.value)
