"""The operator's settings: read once from the environment, frozen, and refused at once when they cannot work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar, cast
from urllib.parse import urlsplit

from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.running import Hysteresis
from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS
from fedgpu_operator.domain.vantage import Vantage, parse_vantages
from fedgpu_operator.errors import ConfigurationError

PREFIX: Final = "FEDGPU_"
MAX_SECONDS: Final = 366 * 24 * 3600.0
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SignerSettings:
    """Who signs: exactly one of a key file, a keystore with its password's file, or a remote signer's URL."""

    key_file: Path | None = None
    keystore: Path | None = None
    password_file: Path | None = None
    url: str = ""
    address: str = ""
    """Of the account that the remote signer signs with."""


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Where and how settlement happens. `native_usd` is µUSD per whole native coin, None where gas costs nothing."""

    rpc_urls: tuple[str, ...]
    rpc_quorum: int
    chain_id: int
    escrow: str
    settler: SignerSettings
    meter_key_file: Path | None
    epoch_seconds: float
    max_epoch_seconds: float
    min_payout: MicroUSD
    native_usd: MicroUSD | None
    max_cost_share: float
    fee_cap_wei: int
    auto_claim: bool
    first_block: int | None = None
    """One from which on the escrow exists; None: it is searched for."""
    batch: str | None = None
    """Address of a contract with Multicall3's `aggregate3`, by which several answers go into one transaction."""
    ca_file: Path | None = None
    """PEM file of authorities that may sign for endpoints and the remote signer in addition to the usual ones."""
    epoch_retention_seconds: float = 30 * 86400
    """How long the hub shows an epoch and its manifest at least."""
    settler_warn_seconds: float = 3 * 86400
    """The settler counts as low on coins if they last for less at the present burn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the operator can be told; intervals in seconds."""

    namespace: str
    ledger: str
    acceptance: Literal["OnCreate", "Manual"]
    acceptance_enforced: bool
    """Whether the hub restricts who may accept a provider, so that an acceptance counts."""
    default_deny: bool
    location_audit: bool
    """Whether the hub holds who may confirm a location, so that a confirmation counts."""
    resync_seconds: float
    heartbeat_timeout_seconds: float
    cooldown_seconds: float
    reject_after_seconds: float
    usage_interval_seconds: float
    inventory_interval_seconds: float
    funding_warn_seconds: float
    funding_checkpoint_seconds: float
    market_seconds: float
    workload_retention_seconds: float
    rebalance: Hysteresis
    bind_address: str
    metrics_port: int
    health_port: int
    log_level: str
    log_format: Literal["text", "json"]
    vantages: tuple[Vantage, ...]
    plugins: tuple[str, ...]
    chain: ChainSettings | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``FEDGPU_*``; raises ConfigurationError with one line that names the variable and the fix."""
        env = _Environment(environ)
        settings = cls(
            namespace=env.text("NAMESPACE", "fedgpu-system"),
            ledger=env.text("LEDGER", "/var/lib/fedgpu/ledger.db"),
            acceptance=cast(
                Literal["OnCreate", "Manual"], env.choice("ACCEPTANCE", "OnCreate", ("OnCreate", "Manual"))
            ),
            acceptance_enforced=env.flag("ACCEPTANCE_ENFORCED", default=False),
            default_deny=env.flag("DEFAULT_DENY", default=False),
            location_audit=env.flag("LOCATION_AUDIT", default=False),
            resync_seconds=env.seconds("RESYNC_SECONDS", 30),
            heartbeat_timeout_seconds=env.seconds("HEARTBEAT_TIMEOUT_SECONDS", 30),
            cooldown_seconds=env.seconds("COOLDOWN_SECONDS", 300),
            reject_after_seconds=env.seconds("REJECT_AFTER_SECONDS", 30),
            usage_interval_seconds=env.number(
                "USAGE_INTERVAL_SECONDS", "15", float, minimum=0.05, maximum=LONGEST_UNWRITTEN_SECONDS
            ),
            inventory_interval_seconds=env.seconds("INVENTORY_INTERVAL_SECONDS", 10),
            funding_warn_seconds=env.seconds("FUNDING_WARN_SECONDS", 86400),
            funding_checkpoint_seconds=env.seconds("FUNDING_CHECKPOINT_SECONDS", 900),
            market_seconds=env.seconds("MARKET_SECONDS", 60),
            workload_retention_seconds=env.seconds("WORKLOAD_RETENTION_SECONDS", 3600),
            rebalance=_rebalance(env),
            bind_address=env.text("BIND_ADDRESS", "0.0.0.0"),
            metrics_port=env.number("METRICS_PORT", "9090", int, minimum=0, maximum=65535),
            health_port=env.number("HEALTH_PORT", "8080", int, minimum=1, maximum=65535),
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            log_format=cast(Literal["text", "json"], env.choice("LOG_FORMAT", "text", ("text", "json"))),
            vantages=env.vantages("VANTAGES"),
            plugins=env.names("PLUGINS"),
            chain=_chain(env),
        )
        env.refuse_unknown()
        if not settings.namespace:
            raise ConfigurationError(f"{PREFIX}NAMESPACE: must not be empty; it is where members' Secrets are read")
        if settings.metrics_port == settings.health_port:
            raise ConfigurationError(f"{PREFIX}METRICS_PORT and {PREFIX}HEALTH_PORT: must differ")
        if settings.funding_checkpoint_seconds > settings.funding_warn_seconds:
            raise ConfigurationError(
                f"{PREFIX}FUNDING_CHECKPOINT_SECONDS: must not be above {PREFIX}FUNDING_WARN_SECONDS"
            )
        return settings


def _rebalance(env: _Environment) -> Hysteresis:
    return Hysteresis(
        relative=env.number("REBALANCE_MIN_SAVING_PERCENT", "10", int, minimum=0, maximum=100),
        absolute=env.usd("REBALANCE_MIN_SAVING_USD", "0.10"),
        residence=int(env.seconds("REBALANCE_RESIDENCE_SECONDS", 900)),
        most=env.number("REBALANCE_MOVES_PER_PASS", "8", int, minimum=0, maximum=10_000),
    )


def _chain(env: _Environment) -> ChainSettings | None:
    rpc_urls = tuple(url for url in (part.strip() for part in env.text("CHAIN_RPC_URL", "").split(",")) if url)
    names = ("CHAIN_ID", "ESCROW_ADDRESS", *SETTLER_VARIABLES, "METER_KEY_FILE", *OPTIONAL)
    parts = {name: env.text(name, "") for name in names}
    chain = {
        "epoch_seconds": env.seconds("EPOCH_SECONDS", 3600),
        "max_epoch_seconds": env.seconds("MAX_EPOCH_SECONDS", 604800),
        "max_cost_share": env.number("MAX_COST_SHARE", "0.05", float, minimum=0.0001, maximum=1),
    }
    min_payout = env.usd("MIN_PAYOUT_USD", "0")
    fee_cap = env.number("FEE_CAP_GWEI", "500", float, minimum=0.000001, maximum=10**6)
    auto_claim = env.flag("AUTO_CLAIM", default=True)
    settler_warn = env.seconds("SETTLER_WARN_SECONDS", 3 * 86400)
    epoch_retention = env.seconds("EPOCH_RETENTION_SECONDS", 30 * 86400)
    if not rpc_urls:
        if given := [PREFIX + name for name, value in parts.items() if value]:
            raise ConfigurationError(f"{', '.join(given)} set without {PREFIX}CHAIN_RPC_URL: set it, or none of them")
        return None
    if missing := [PREFIX + name for name in ("CHAIN_ID", "ESCROW_ADDRESS") if not parts[name]]:
        raise ConfigurationError(f"{PREFIX}CHAIN_RPC_URL needs {', '.join(missing)} as well")
    for url in rpc_urls:
        _refuse_other_than_http("CHAIN_RPC_URL", url)
    _refuse_other_than_address("ESCROW_ADDRESS", parts["ESCROW_ADDRESS"])
    if parts["BATCH_ADDRESS"]:
        _refuse_other_than_address("BATCH_ADDRESS", parts["BATCH_ADDRESS"])
    if parts["METER_KEY_FILE"] and parts["METER_KEY_FILE"] == parts["SETTLER_KEY_FILE"]:
        raise ConfigurationError(f"{PREFIX}METER_KEY_FILE: must be another key than {PREFIX}SETTLER_KEY_FILE")
    if chain["max_epoch_seconds"] < chain["epoch_seconds"]:
        raise ConfigurationError(f"{PREFIX}MAX_EPOCH_SECONDS: must not be below {PREFIX}EPOCH_SECONDS")
    return ChainSettings(
        rpc_urls=rpc_urls,
        rpc_quorum=_quorum(env, len(rpc_urls)),
        chain_id=env.number("CHAIN_ID", "", int, minimum=1, maximum=2**53),
        escrow=parts["ESCROW_ADDRESS"],
        settler=_settler(parts),
        meter_key_file=_file("METER_KEY_FILE", parts["METER_KEY_FILE"]),
        min_payout=min_payout,
        native_usd=env.usd("NATIVE_USD", "") if parts["NATIVE_USD"] else None,
        fee_cap_wei=int(fee_cap * 10**9),
        auto_claim=auto_claim,
        first_block=env.number("FIRST_BLOCK", "", int, minimum=1, maximum=2**53) if parts["FIRST_BLOCK"] else None,
        batch=parts["BATCH_ADDRESS"] or None,
        ca_file=_file("CHAIN_CA_FILE", parts["CHAIN_CA_FILE"]),
        epoch_retention_seconds=epoch_retention,
        settler_warn_seconds=settler_warn,
        **chain,
    )


OPTIONAL: Final = ("CHAIN_RPC_QUORUM", "NATIVE_USD", "FIRST_BLOCK", "BATCH_ADDRESS", "CHAIN_CA_FILE")

SETTLER_VARIABLES: Final = (
    "SETTLER_KEY_FILE",
    "SETTLER_KEYSTORE",
    "SETTLER_PASSWORD_FILE",
    "SETTLER_SIGNER_URL",
    "SETTLER_ADDRESS",
)


def _settler(parts: Mapping[str, str]) -> SignerSettings:
    key, keystore, password, url, address = (parts[name] for name in SETTLER_VARIABLES)
    if sum(map(bool, (key, keystore, url))) != 1:
        raise ConfigurationError(
            f"{PREFIX}CHAIN_RPC_URL needs exactly one of {PREFIX}SETTLER_KEY_FILE, {PREFIX}SETTLER_KEYSTORE and "
            f"{PREFIX}SETTLER_SIGNER_URL"
        )
    if bool(keystore) != bool(password):
        raise ConfigurationError(f"{PREFIX}SETTLER_KEYSTORE and {PREFIX}SETTLER_PASSWORD_FILE: set both, or neither")
    if bool(url) != bool(address):
        raise ConfigurationError(f"{PREFIX}SETTLER_SIGNER_URL and {PREFIX}SETTLER_ADDRESS: set both, or neither")
    if url:
        _refuse_other_than_http("SETTLER_SIGNER_URL", url)
        _refuse_other_than_address("SETTLER_ADDRESS", address)
    return SignerSettings(
        key_file=_file("SETTLER_KEY_FILE", key),
        keystore=_file("SETTLER_KEYSTORE", keystore),
        password_file=_file("SETTLER_PASSWORD_FILE", password),
        url=url,
        address=address,
    )


def _quorum(env: _Environment, endpoints: int) -> int:
    """How many endpoints must agree: more than half, or two answers that contradict each other could both count."""
    majority = endpoints // 2 + 1
    return env.number("CHAIN_RPC_QUORUM", str(majority), int, minimum=majority, maximum=endpoints)


def _file(name: str, text: str) -> Path | None:
    if text and not Path(text).is_file():
        raise ConfigurationError(f"{PREFIX}{name}: there is no file {text}")
    return Path(text) if text else None


def _refuse_other_than_http(name: str, url: str) -> None:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise ConfigurationError(f"{PREFIX}{name}: must be an http or https URL")


def _refuse_other_than_address(name: str, text: str) -> None:
    if not _ADDRESS.fullmatch(text):
        raise ConfigurationError(f"{PREFIX}{name}: must be 0x and 40 hex digits, not {text!r}")


class _Environment:
    """Typed access to ``FEDGPU_*`` that remembers what it was asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {key: value for key, value in environ.items() if key.startswith(PREFIX)}
        self._asked: set[str] = set()

    def text(self, name: str, default: str) -> str:
        self._asked.add(PREFIX + name)
        return self._values.get(PREFIX + name, default).strip()

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise ConfigurationError(f"{PREFIX}{name}: must be one of {', '.join(allowed)}, not {value!r}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        return self.choice(name, str(default).lower(), ("true", "false")) == "true"

    def number(self, name: str, default: str, kind: Callable[[str], T], *, minimum: float, maximum: float) -> T:
        text = self.text(name, default)
        try:
            value = kind(text)
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}{name}: must be a number, not {text!r}") from error
        if not cast(float, value) >= minimum:
            raise ConfigurationError(f"{PREFIX}{name}: must be at least {minimum:g}, not {text}")
        if cast(float, value) > maximum:
            raise ConfigurationError(f"{PREFIX}{name}: must be at most {maximum:.0f}, not {text}")
        return value

    def seconds(self, name: str, default: float) -> float:
        return self.number(name, str(default), float, minimum=0.05, maximum=MAX_SECONDS)

    def usd(self, name: str, default: str) -> MicroUSD:
        text = self.text(name, default)
        try:
            return parse_usd(text)
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}{name}: must be an amount of USD such as 0.50: {error}") from error

    def vantages(self, name: str) -> tuple[Vantage, ...]:
        try:
            return parse_vantages(self.text(name, ""))
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}{name}: {error}") from error

    def names(self, name: str) -> tuple[str, ...]:
        found = [each.strip() for each in self.text(name, "").split(",")]
        if found != [""] and ("" in found or len(set(found)) != len(found)):
            raise ConfigurationError(f"{PREFIX}{name}: must be names with commas between them, each once")
        return tuple(each for each in found if each)

    def refuse_unknown(self) -> None:
        """A misspelt variable must not be ignored silently."""
        if unknown := sorted(set(self._values) - self._asked):
            raise ConfigurationError(f"unknown setting {', '.join(unknown)}; see docs/configuration.md for the list")
