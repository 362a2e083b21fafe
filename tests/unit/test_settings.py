"""A wrong configuration stops the operator with one clear line, and the documentation lists what there is."""

from __future__ import annotations

import re
from pathlib import Path
from traceback import format_exception

import pytest
from pydantic import SecretStr

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import GROUPS, ChainSettings, Settings, SignerSettings

CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(
    r"^\| `(?P<name>FEDGPU_[A-Z_]+)` \| (?P<default>[^|]*) \|[^|]*\| (?P<meaning>[^|]*) \| (?P<value>[^|]*) \|$"
)
ESCROW = "0x" + "5F" * 20


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, str]:
    """A complete configuration of the chain, with a key file that is there."""
    key_file = tmp_path / "settler.key"
    key_file.write_text("0x" + "1" * 64)
    return {
        "FEDGPU_CHAIN_RPC_URL": "https://rpc.example.com",
        "FEDGPU_CHAIN_ID": "11155111",
        "FEDGPU_ESCROW_ADDRESS": ESCROW,
        "FEDGPU_SETTLER_KEY_FILE": str(key_file),
    }


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env(environ)
    return str(refused.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings.namespace == "fedgpu-system"
    assert settings.acceptance == "OnCreate"
    assert not settings.default_deny
    assert settings.resync_seconds == 30
    assert (settings.metrics_port, settings.health_port) == (9090, 8080)
    assert settings.chain is None


def test_what_is_no_variable_of_ours_is_of_no_concern() -> None:
    assert Settings.from_env({"PATH": "/bin", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}) == Settings.from_env({})


def test_given_values_arrive_with_their_types() -> None:
    given = {
        "FEDGPU_NAMESPACE": " ops ",
        "FEDGPU_ACCEPTANCE": "Manual",
        "FEDGPU_DEFAULT_DENY": "true",
        "FEDGPU_RESYNC_SECONDS": "0.5",
        "FEDGPU_METRICS_PORT": "0",
        "FEDGPU_LOG_FORMAT": "json",
    }
    settings = Settings.from_env(given)
    assert (settings.namespace, settings.acceptance, settings.default_deny) == ("ops", "Manual", True)
    assert (settings.resync_seconds, settings.metrics_port, settings.log_format) == (0.5, 0, "json")


def test_a_complete_chain_configuration_arrives(chain: dict[str, str]) -> None:
    settings = Settings.from_env(chain | {"FEDGPU_EPOCH_SECONDS": "60", "FEDGPU_AUTO_CLAIM": "false"})
    assert settings.chain == ChainSettings(
        rpc_urls=(SecretStr("https://rpc.example.com"),),
        rpc_quorum=1,
        chain_id=11155111,
        escrow=ESCROW,
        settler=SignerSettings(key_file=Path(chain["FEDGPU_SETTLER_KEY_FILE"])),
        meter_key_file=None,
        epoch_seconds=60,
        max_epoch_seconds=604800,
        min_payout=MicroUSD(0),
        native_usd=None,
        max_cost_share=0.05,
        fee_cap_wei=500 * 10**9,
        auto_claim=False,
    )


def test_what_of_the_chain_may_be_left_out_arrives_when_given(chain: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    given = {
        "FEDGPU_FIRST_BLOCK": "21000000",
        "FEDGPU_BATCH_ADDRESS": "0x" + "ca" * 20,
        "FEDGPU_CHAIN_CA_FILE": str(tmp_path / "ca.crt"),
        "FEDGPU_SETTLER_WARN_SECONDS": "3600",
    }
    settings = Settings.from_env(chain | given).chain
    assert settings is not None
    assert (settings.first_block, settings.batch) == (21_000_000, "0x" + "ca" * 20)
    assert (settings.ca_file, settings.settler_warn_seconds) == (tmp_path / "ca.crt", 3600)


def test_the_price_of_an_epoch_is_read_exactly(chain: dict[str, str]) -> None:
    given = {
        "FEDGPU_MIN_PAYOUT_USD": "0.10",
        "FEDGPU_NATIVE_USD": "3120.55",
        "FEDGPU_MAX_COST_SHARE": "0.25",
        "FEDGPU_FEE_CAP_GWEI": "0.5",
        "FEDGPU_EPOCH_SECONDS": "60",
        "FEDGPU_MAX_EPOCH_SECONDS": "60",
    }
    settings = Settings.from_env(chain | given).chain
    assert settings is not None
    assert (settings.min_payout, settings.native_usd) == (100_000, 3_120_550_000)
    assert (settings.max_cost_share, settings.fee_cap_wei) == (0.25, 5 * 10**8)


@pytest.mark.parametrize(("endpoints", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_more_than_half_of_the_endpoints_must_agree(chain: dict[str, str], endpoints: int, quorum: int) -> None:
    urls = [f"https://rpc{number}.example.com/" for number in range(endpoints)]
    settings = Settings.from_env(chain | {"FEDGPU_CHAIN_RPC_URL": " , ".join(urls)}).chain
    assert settings is not None
    assert (settings.rpc_urls, settings.rpc_quorum) == (tuple(map(SecretStr, urls)), quorum)


def test_a_settler_can_sign_by_keystore_or_by_a_remote_signer(chain: dict[str, str], tmp_path: Path) -> None:
    del chain["FEDGPU_SETTLER_KEY_FILE"]
    keystore, password = tmp_path / "keystore.json", tmp_path / "password"
    keystore.touch()
    password.touch()
    local = {"FEDGPU_SETTLER_KEYSTORE": str(keystore), "FEDGPU_SETTLER_PASSWORD_FILE": str(password)}
    remote = {"FEDGPU_SETTLER_SIGNER_URL": "http://signer:9000", "FEDGPU_SETTLER_ADDRESS": ESCROW}
    by_keystore, by_signer = Settings.from_env(chain | local).chain, Settings.from_env(chain | remote).chain
    assert by_keystore is not None
    assert by_signer is not None
    assert by_keystore.settler == SignerSettings(keystore=keystore, password_file=password)
    assert by_signer.settler == SignerSettings(url=SecretStr("http://signer:9000"), address=ESCROW)
    assert "exactly one of" in refusal(chain | local | remote)
    assert "FEDGPU_SETTLER_PASSWORD_FILE" in refusal(chain | {"FEDGPU_SETTLER_KEYSTORE": str(keystore)})
    assert "FEDGPU_SETTLER_ADDRESS" in refusal(chain | {"FEDGPU_SETTLER_SIGNER_URL": "http://signer:9000"})


def test_the_meter_signs_with_a_key_of_its_own(chain: dict[str, str], tmp_path: Path) -> None:
    meter = tmp_path / "meter.key"
    meter.touch()
    settings = Settings.from_env(chain | {"FEDGPU_METER_KEY_FILE": str(meter)}).chain
    assert settings is not None
    assert settings.meter_key_file == meter
    message = refusal(chain | {"FEDGPU_METER_KEY_FILE": chain["FEDGPU_SETTLER_KEY_FILE"]})
    assert message == "FEDGPU_METER_KEY_FILE: must be another key than FEDGPU_SETTLER_KEY_FILE"


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("FEDGPU_ACCEPTANCE", "Sometimes", "OnCreate, Manual"),
        ("FEDGPU_DEFAULT_DENY", "yes", "true, false"),
        ("FEDGPU_LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("FEDGPU_LOG_FORMAT", "xml", "text, json"),
        ("FEDGPU_RESYNC_SECONDS", "soon", "must be a number"),
        ("FEDGPU_RESYNC_SECONDS", "", "must be a number"),
        ("FEDGPU_HEARTBEAT_TIMEOUT_SECONDS", "0", "at least 0.05"),
        ("FEDGPU_COOLDOWN_SECONDS", "-1", "at least 0.05"),
        ("FEDGPU_USAGE_INTERVAL_SECONDS", "nan", "at least 0.05"),
        ("FEDGPU_METRICS_PORT", "http", "must be a number"),
        ("FEDGPU_METRICS_PORT", "-1", "at least 0"),
        ("FEDGPU_HEALTH_PORT", "0", "at least 1"),
        ("FEDGPU_METRICS_PORT", "65536", "at most 65535"),
        ("FEDGPU_METRICS_PORT", "8080", "must differ"),
        ("FEDGPU_RESYNC_SECONDS", "inf", "at most"),
        ("FEDGPU_NAMESPACE", "", "must not be empty"),
        ("FEDGPU_EPOCH_SECONDS", "1h", "must be a number"),
        ("FEDGPU_AUTO_CLAIM", "1", "true, false"),
        ("FEDGPU_FUNDING_WARN_SECONDS", "1d", "must be a number"),
        ("FEDGPU_FUNDING_CHECKPOINT_SECONDS", "86401", "must not be above FEDGPU_FUNDING_WARN_SECONDS"),
        ("FEDGPU_MIN_PAYOUT_USD", "-1", "must be an amount of USD"),
        ("FEDGPU_MAX_COST_SHARE", "5 %", "must be a number"),
        ("FEDGPU_MAX_COST_SHARE", "1.5", "at most 1"),
        ("FEDGPU_FEE_CAP_GWEI", "0", "at least 1e-06"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_and_the_fix(variable: str, value: str, fix: str) -> None:
    message = refusal({variable: value})
    assert message.startswith(variable)
    assert fix in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("FEDGPU_CHAIN_RPC_URL", "ws://rpc.example.com", "http or https"),
        ("FEDGPU_CHAIN_RPC_URL", "rpc.example.com:8545", "http or https"),
        ("FEDGPU_CHAIN_RPC_URL", "http://", "http or https"),
        ("FEDGPU_ESCROW_ADDRESS", "0x" + "zz" * 20, "0x and 40 hex digits"),
        ("FEDGPU_CHAIN_ID", "mainnet", "must be a number"),
        ("FEDGPU_CHAIN_ID", "0", "at least 1"),
        ("FEDGPU_ESCROW_ADDRESS", "5F" * 21, "0x and 40 hex digits"),
        ("FEDGPU_ESCROW_ADDRESS", "0x5F", "0x and 40 hex digits"),
        ("FEDGPU_SETTLER_KEY_FILE", "/nonexistent/settler.key", "file not found: /nonexistent/settler.key"),
        ("FEDGPU_METER_KEY_FILE", "/nonexistent/meter.key", "file not found: /nonexistent/meter.key"),
        ("FEDGPU_CHAIN_RPC_URL", "https://rpc.example.com,ftp://rpc.example.com", "http or https"),
        ("FEDGPU_CHAIN_RPC_QUORUM", "2", "at most 1"),
        ("FEDGPU_CHAIN_RPC_QUORUM", "0", "at least 1"),
        ("FEDGPU_NATIVE_USD", "3,120", "must be an amount of USD"),
        ("FEDGPU_FIRST_BLOCK", "0", "at least 1"),
        ("FEDGPU_FIRST_BLOCK", "0x10", "must be a number"),
        ("FEDGPU_BATCH_ADDRESS", "multicall", "0x and 40 hex digits"),
        ("FEDGPU_CHAIN_CA_FILE", "/nonexistent/ca.crt", "file not found: /nonexistent/ca.crt"),
        ("FEDGPU_MAX_EPOCH_SECONDS", "3599", "must not be below FEDGPU_EPOCH_SECONDS"),
    ],
)
def test_a_wrong_chain_value_is_refused_with_its_variable_and_the_fix(
    chain: dict[str, str], variable: str, value: str, fix: str
) -> None:
    message = refusal(chain | {variable: value})
    assert message.startswith(f"{variable}: ")
    assert fix in message


def test_a_folder_is_no_settler_key(chain: dict[str, str], tmp_path: Path) -> None:
    message = refusal(chain | {"FEDGPU_SETTLER_KEY_FILE": str(tmp_path)})
    assert message == f"FEDGPU_SETTLER_KEY_FILE: file not found: {tmp_path}"


def test_a_chain_without_a_signer_is_refused_naming_the_ways_to_sign(chain: dict[str, str]) -> None:
    del chain["FEDGPU_SETTLER_KEY_FILE"]
    message = refusal(chain)
    for way in ("FEDGPU_SETTLER_KEY_FILE", "FEDGPU_SETTLER_KEYSTORE", "FEDGPU_SETTLER_SIGNER_URL"):
        assert way in message


@pytest.mark.parametrize("missing", ["FEDGPU_CHAIN_ID", "FEDGPU_ESCROW_ADDRESS"])
def test_half_a_chain_is_refused_naming_what_is_missing(chain: dict[str, str], missing: str) -> None:
    del chain[missing]
    assert refusal(chain) == f"FEDGPU_CHAIN_RPC_URL needs {missing} as well"


@pytest.mark.parametrize("alone", ["FEDGPU_CHAIN_ID", "FEDGPU_ESCROW_ADDRESS", "FEDGPU_SETTLER_KEY_FILE"])
def test_a_chain_without_an_endpoint_is_refused(chain: dict[str, str], alone: str) -> None:
    message = refusal({alone: chain[alone]})
    assert alone in message
    assert "FEDGPU_CHAIN_RPC_URL" in message


def test_a_misspelt_variable_is_refused_with_where_to_look() -> None:
    message = refusal({"FEDGPU_RESYNC_SECOND": "30", "FEDGPU_ACCEPT": "Manual"})
    assert message == ("unknown setting FEDGPU_ACCEPT, FEDGPU_RESYNC_SECOND; see docs/configuration.md for the list")


def test_what_is_secret_never_appears_in_the_settings_or_in_a_refusal(chain: dict[str, str]) -> None:
    del chain["FEDGPU_SETTLER_KEY_FILE"]
    secret = {
        "FEDGPU_LEDGER": "postgresql://fedgpu:hunter22@db/ledger",
        "FEDGPU_CHAIN_RPC_URL": "https://rpc.example.com/v2/hunter22",
        "FEDGPU_SETTLER_SIGNER_URL": "https://user:hunter22@signer",
        "FEDGPU_SETTLER_ADDRESS": ESCROW,
    }
    settings = Settings.from_env(chain | secret)
    assert "hunter22" not in f"{settings!r} {settings} {settings.model_dump_json(exclude={'vantages'})}"
    for name, value in secret.items():
        with pytest.raises(ConfigurationError) as refused:
            Settings.from_env(chain | secret | {name: value.replace("http", "ftp"), "FEDGPU_RESYNC_SECONDS": "0"})
        assert "hunter22" not in "".join(format_exception(refused.value))


def test_a_settler_key_never_appears_in_the_settings(chain: dict[str, str]) -> None:
    assert "1" * 64 not in repr(Settings.from_env(chain))


def test_settings_made_from_values_do_not_look_at_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGPU_NAMESPACE", "elsewhere")
    assert Settings().namespace == "fedgpu-system"


def test_every_setting_says_what_it_means_and_which_value_of_the_chart_sets_it() -> None:
    known = [(name, field) for group in GROUPS for name, field in group.variables()]
    assert len({name for name, _ in known}) == len(known), "a variable is declared twice"
    rows = [match for line in CONFIGURATION.read_text().splitlines() if (match := ROW.match(line))]
    assert {row["name"] for row in rows} == {name for name, _ in known}
    assert all(row["meaning"].strip() and row["value"].strip() for row in rows)
    for name, field in known:
        if name.endswith("_SECONDS"):
            assert isinstance(field.json_schema_extra, dict)
            assert field.json_schema_extra["unit"] == "s", name
