"""The operator's settings: read once from the environment, frozen, and refused at once when they cannot work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar, cast
from urllib.parse import urlsplit

from fedgpu_operator.errors import ConfigurationError

PREFIX: Final = "FEDGPU_"
MAX_SECONDS: Final = 366 * 24 * 3600.0
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Where settlement happens; `settler_key_file` holds the settler's private key and nothing else."""

    rpc_url: str
    chain_id: int
    escrow: str
    settler_key_file: Path
    epoch_seconds: float
    auto_claim: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the operator can be told; intervals in seconds."""

    namespace: str
    ledger: str
    acceptance: Literal["OnCreate", "Manual"]
    default_deny: bool
    resync_seconds: float
    heartbeat_timeout_seconds: float
    cooldown_seconds: float
    reject_after_seconds: float
    usage_interval_seconds: float
    inventory_interval_seconds: float
    bind_address: str
    metrics_port: int
    health_port: int
    log_level: str
    log_format: Literal["text", "json"]
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
            default_deny=env.flag("DEFAULT_DENY", default=False),
            resync_seconds=env.seconds("RESYNC_SECONDS", 30),
            heartbeat_timeout_seconds=env.seconds("HEARTBEAT_TIMEOUT_SECONDS", 30),
            cooldown_seconds=env.seconds("COOLDOWN_SECONDS", 300),
            reject_after_seconds=env.seconds("REJECT_AFTER_SECONDS", 30),
            usage_interval_seconds=env.seconds("USAGE_INTERVAL_SECONDS", 15),
            inventory_interval_seconds=env.seconds("INVENTORY_INTERVAL_SECONDS", 10),
            bind_address=env.text("BIND_ADDRESS", "0.0.0.0"),
            metrics_port=env.number("METRICS_PORT", "9090", int, minimum=0, maximum=65535),
            health_port=env.number("HEALTH_PORT", "8080", int, minimum=1, maximum=65535),
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            log_format=cast(Literal["text", "json"], env.choice("LOG_FORMAT", "text", ("text", "json"))),
            chain=_chain(env),
        )
        env.refuse_unknown()
        if not settings.namespace:
            raise ConfigurationError(f"{PREFIX}NAMESPACE: must not be empty; it is where members' Secrets are read")
        if settings.metrics_port == settings.health_port:
            raise ConfigurationError(f"{PREFIX}METRICS_PORT and {PREFIX}HEALTH_PORT: must differ")
        return settings


def _chain(env: _Environment) -> ChainSettings | None:
    rpc_url = env.text("CHAIN_RPC_URL", "")
    parts = {name: env.text(name, "") for name in ("CHAIN_ID", "ESCROW_ADDRESS", "SETTLER_KEY_FILE")}
    epoch_seconds = env.seconds("EPOCH_SECONDS", 3600)
    auto_claim = env.flag("AUTO_CLAIM", default=True)
    if not rpc_url:
        if given := [PREFIX + name for name, value in parts.items() if value]:
            raise ConfigurationError(f"{', '.join(given)} set without {PREFIX}CHAIN_RPC_URL: set it, or none of them")
        return None
    if missing := [PREFIX + name for name, value in parts.items() if not value]:
        raise ConfigurationError(f"{PREFIX}CHAIN_RPC_URL needs {', '.join(missing)} as well")
    if urlsplit(rpc_url).scheme not in {"http", "https"} or not urlsplit(rpc_url).hostname:
        raise ConfigurationError(f"{PREFIX}CHAIN_RPC_URL: must be an http or https URL")
    escrow = parts["ESCROW_ADDRESS"]
    if not _ADDRESS.fullmatch(escrow):
        raise ConfigurationError(f"{PREFIX}ESCROW_ADDRESS: must be 0x and 40 hex digits, not {escrow!r}")
    key_file = Path(parts["SETTLER_KEY_FILE"])
    if not key_file.is_file():
        raise ConfigurationError(f"{PREFIX}SETTLER_KEY_FILE: there is no file {key_file}")
    chain_id = env.number("CHAIN_ID", "", int, minimum=1, maximum=2**53)
    return ChainSettings(rpc_url, chain_id, escrow, key_file, epoch_seconds, auto_claim)


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

    def refuse_unknown(self) -> None:
        """A misspelt variable must not be ignored silently."""
        if unknown := sorted(set(self._values) - self._asked):
            raise ConfigurationError(f"unknown setting {', '.join(unknown)}; see docs/configuration.md for the list")
