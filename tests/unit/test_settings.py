"""A wrong configuration stops the operator with one clear line, and the documentation lists what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedgpu_operator import settings as module
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import ChainSettings, Settings

CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(?P<name>FEDGPU_[A-Z_]+)` \| (?P<default>[^|]*) \| (?P<meaning>[^|]*) \| (?P<value>[^|]*) \|$")
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


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variable -> default, as the operator asks for them."""
    asked: dict[str, str] = {}
    text = module._Environment.text

    def recording(self: module._Environment, name: str, default: str) -> str:
        asked["FEDGPU_" + name] = default
        return text(self, name, default)

    monkeypatch.setattr(module._Environment, "text", recording)
    Settings.from_env({})
    return asked


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
        rpc_url="https://rpc.example.com",
        chain_id=11155111,
        escrow=ESCROW,
        settler_key_file=Path(chain["FEDGPU_SETTLER_KEY_FILE"]),
        epoch_seconds=60,
        auto_claim=False,
    )


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
        ("FEDGPU_SETTLER_KEY_FILE", "/nonexistent/settler.key", "there is no file /nonexistent/settler.key"),
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
    assert message == f"FEDGPU_SETTLER_KEY_FILE: there is no file {tmp_path}"


@pytest.mark.parametrize("missing", ["FEDGPU_CHAIN_ID", "FEDGPU_ESCROW_ADDRESS", "FEDGPU_SETTLER_KEY_FILE"])
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


def test_a_settler_key_never_appears_in_the_settings(chain: dict[str, str]) -> None:
    assert "1" * 64 not in repr(Settings.from_env(chain))


def test_the_documentation_lists_every_variable_with_its_default(known: dict[str, str]) -> None:
    rows = [match for line in CONFIGURATION.read_text().splitlines() if (match := ROW.match(line))]
    documented = {row["name"]: row["default"].strip().strip("`").replace("none", "") for row in rows}
    assert len(rows) == len(documented), "a variable stands twice in docs/configuration.md"
    assert documented == known
    assert all(row["meaning"].strip() and row["value"].strip() for row in rows)
