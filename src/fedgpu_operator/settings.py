"""The operator's settings: read once from the environment, frozen, and refused when they cannot work.

A setting is one declaration: its name, default, unit, limits, meaning, and the chart's value that sets it. The tables
of docs/configuration.md are generated from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.running import Hysteresis
from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS
from fedgpu_operator.domain.vantage import Vantage, parse_vantages
from fedgpu_operator.errors import ConfigurationError

PREFIX: Final = "FEDGPU_"
MAX_SECONDS: Final = 366 * 24 * 3600.0
MAX_BLOCK: Final = 2**53
"""Block numbers and chain ids pass through JSON, whose readers keep integers exact up to here."""
GWEI: Final = 10**9
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")

_SERVER: Final = re.compile(r"postgres(ql)?(\+\w+)?://")

N = TypeVar("N", int, float)


# ---------------------------------------------------------------- how a value is read


@dataclass(frozen=True, slots=True)
class Between:
    """A number within limits, both included; NaN is below every minimum."""

    minimum: float
    maximum: float

    def __call__(self, value: N) -> N:
        if not value >= self.minimum:
            raise PydanticCustomError("limit", "must be at least {limit}", {"limit": f"{self.minimum:g}"})
        if value > self.maximum:
            raise PydanticCustomError("limit", "must be at most {limit}", {"limit": f"{self.maximum:.0f}"})
        return value


def _flag(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError(f"must be one of true, false, not {value!r}")
    return value


def _usd(value: object) -> object:
    try:
        return parse_usd(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"must be an amount of USD such as 0.50: {error}") from error


def _wei(value: object) -> object:
    """A string is gwei, as the variable holds it; a number is wei."""
    if not isinstance(value, str):
        return value
    try:
        gwei = float(value)
    except ValueError:
        raise ValueError(f"must be a number, not {value!r}") from None
    return int(Between(0.000001, 10**6)(gwei) * GWEI)


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _names(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value or ()
    names = tuple(part.strip() for part in value.split(","))
    if "" in names or len(set(names)) != len(names):
        raise ValueError("must be names with commas between them, each once")
    return names


def _http(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return url


def _hex_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"must be 0x and 40 hex digits, not {text!r}")
    return text


Seconds = Annotated[float, AfterValidator(Between(0.05, MAX_SECONDS))]
Flag = Annotated[bool, BeforeValidator(_flag)]
USD = Annotated[MicroUSD, BeforeValidator(_usd)]
Url = Annotated[SecretStr, AfterValidator(_http)]
"""Secret: the path or the user of an endpoint's address is often a key."""
Address = Annotated[str, AfterValidator(_hex_address)]
Block = Annotated[int, AfterValidator(Between(1, MAX_BLOCK))]


def setting(default: str | None, meaning: str, *, chart: str, variable: str = "", unit: str = "") -> Any:
    """One setting. `default` is as a user would write it, None: it is not given; `variable` without FEDGPU_.

    `chart` is the chart's value that sets it, in Markdown.
    """
    alias = PREFIX + variable if variable else None
    return Field(default, validation_alias=alias, description=meaning, json_schema_extra={"chart": chart, "unit": unit})


def needed(variable: str, meaning: str, *, chart: str) -> Any:
    """A setting that has no default and must be given if its group is used at all."""
    extra: JsonDict = {"chart": chart, "unit": ""}
    return Field(validation_alias=PREFIX + variable, description=meaning, json_schema_extra=extra)


class Group(BaseSettings):
    """Settings that belong together. Constructed from values, or by `read` from the environment that it is given."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: PREFIX + name.upper()),
        case_sensitive=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read from the process by itself: `read` says from where."""
        return (init_settings,)

    @classmethod
    def read(cls, environ: Mapping[str, str], **groups: object) -> Self:
        """From variables, with these groups within it; raises ConfigurationError with one line that names the fix."""
        given = _Variables(cls, environ)()
        try:
            return cls.model_validate({**given, **groups})
        except ValidationError as error:
            # Without its cause, which would quote what was given.
            raise ConfigurationError(_line(error.errors())) from None

    @classmethod
    def variables(cls) -> Iterator[tuple[str, FieldInfo]]:
        """Each setting by its variable, groups within it left out."""
        for field in cls.model_fields.values():
            if field.json_schema_extra is not None:
                yield str(field.validation_alias), field


class _Variables(EnvSettingsSource):
    """A given environment. Without a default, a variable that is empty counts as not given."""

    def __init__(self, group: type[Group], environ: Mapping[str, str]) -> None:
        absent = {name for name, field in group.variables() if field.default in (None, "", PydanticUndefined)}
        stripped = {name: value.strip() for name, value in environ.items()}
        self._given = {name: value for name, value in stripped.items() if value or name not in absent}
        super().__init__(group)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._given


def _line(errors: list[ErrorDetails]) -> str:
    """The first error as ``variable: what it must be``."""
    first = errors[0]
    said = _must(first)
    return f"{first['loc'][0]}: {said}" if first["loc"] else said


def _must(error: ErrorDetails) -> str:
    context, given = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "int_parsing" | "float_parsing" | "int_parsing_size":
            return f"must be a number, not {given!r}"
        case "literal_error":
            allowed = ", ".join(re.findall("'([^']*)'", context["expected"]))
            return f"must be one of {allowed}, not {given!r}"
        case "limit":
            return f"{error['msg']}, not {given}"
        case "path_not_file":
            return f"file not found: {given}"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]


# ---------------------------------------------------------------- settlement on chain


class SignerSettings(Group):
    """Who signs for the settler: exactly one of a key file, a keystore with its password, or a remote signer."""

    key_file: FilePath | None = setting(
        None,
        "A file that holds the settler's private key in hex and nothing else.",
        variable="SETTLER_KEY_FILE",
        chart="`chain.settler.keySecret`",
    )
    keystore: FilePath | None = setting(
        None,
        "A keystore as go-ethereum writes it; needs the next one.",
        variable="SETTLER_KEYSTORE",
        chart="`chain.settler.keystoreSecret`",
    )
    password_file: FilePath | None = setting(
        None,
        "The file with the keystore's password.",
        variable="SETTLER_PASSWORD_FILE",
        chart="`chain.settler.keystoreSecret`",
    )
    url: Url | None = setting(
        None,
        "A signer that speaks web3signer's HTTP; the key stays there. Needs the next one.",
        variable="SETTLER_SIGNER_URL",
        chart="`chain.settler.web3signer`",
    )
    address: Address | None = setting(
        None,
        "The account that the signer signs for; what comes back under another is refused.",
        variable="SETTLER_ADDRESS",
        chart="`chain.settler.web3signer`",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.key_file, self.keystore, self.url)) != 1:
            raise ValueError(
                f"{PREFIX}CHAIN_RPC_URL needs exactly one of {PREFIX}SETTLER_KEY_FILE, {PREFIX}SETTLER_KEYSTORE and "
                f"{PREFIX}SETTLER_SIGNER_URL"
            )
        if (self.keystore is None) != (self.password_file is None):
            raise ValueError(f"{PREFIX}SETTLER_KEYSTORE and {PREFIX}SETTLER_PASSWORD_FILE: set both, or neither")
        if (self.url is None) != (self.address is None):
            raise ValueError(f"{PREFIX}SETTLER_SIGNER_URL and {PREFIX}SETTLER_ADDRESS: set both, or neither")
        return self


class EpochSettings(Group):
    """When an epoch is posted and what it may cost; checked also if nothing is settled."""

    epoch_seconds: Seconds = setting(
        "3600",
        "How often an epoch is posted, if something new is payable and no other is in its challenge window.",
        unit="s",
        chart="`chain.epochSeconds`",
    )
    max_epoch_seconds: Seconds = setting(
        "604800",
        "How long an epoch may wait because of its cost; after that it is posted whatever it costs, under the fee cap.",
        unit="s",
        chart="`chain.maxEpochSeconds`",
    )
    min_payout: USD = setting(
        "0",
        "An epoch that would debit less waits for more to come, at most `FEDGPU_MAX_EPOCH_SECONDS`.",
        variable="MIN_PAYOUT_USD",
        unit="USD",
        chart="`chain.minPayoutUSD`",
    )
    max_cost_share: Annotated[float, AfterValidator(Between(0.0001, 1))] = setting(
        "0.05",
        "An epoch waits while posting and claiming it would cost more than this share of what it pays.",
        unit="share",
        chart="`chain.maxCostShare`",
    )
    fee_cap_wei: Annotated[int, BeforeValidator(_wei)] = setting(
        "500",
        "Most that a transaction offers per unit of gas, tip included. Dearer blocks are waited out.",
        variable="FEE_CAP_GWEI",
        unit="gwei",
        chart="`chain.feeCapGwei`",
    )
    auto_claim: Flag = setting(
        "true",
        "`true` claims the providers' credits for them after the challenge window; `false` leaves that to the "
        "providers.",
        chart="`chain.autoClaim`",
    )
    epoch_retention_seconds: Seconds = setting(
        "2592000",
        "How long the hub shows an epoch and its manifest at least, from the end of its period. They are deleted after "
        "that, but not before its challenge, ruling and exits are over and it is archived. See "
        "[settlement.md](settlement.md#how-long-the-hub-shows-an-epoch).",
        unit="s",
        chart="`chain.epochRetentionSeconds`",
    )
    settler_warn_seconds: Seconds = setting(
        "259200",
        "The settler is `SettlerFunded=False/SettlerLow` if its coins last for less at what it spent lately, with an "
        "Event. See [settlement.md](settlement.md#the-settlers-coins).",
        unit="s",
        chart="`chain.settler.warnSeconds`",
    )


class ChainSettings(EpochSettings):
    """Where and how settlement happens. `native_usd` is µUSD per whole native coin, None if gas costs nothing."""

    rpc_urls: Annotated[tuple[Url, ...], NoDecode, BeforeValidator(_parts)] = needed(
        "CHAIN_RPC_URL",
        "The JSON-RPC endpoint, http or https; several with commas between them. While too few can be reached or "
        "agree, settlement stops and computing goes on.",
        chart="`chain.rpcURL` or `chain.rpcURLSecret`",
    )
    rpc_quorum: int = Field(
        default_factory=lambda given: _majority(given),
        validation_alias=f"{PREFIX}CHAIN_RPC_QUORUM",
        description="How many endpoints must say the same before it counts: more than half, which is also what holds "
        "if nothing is given.",
        json_schema_extra={"chart": "`chain.rpcQuorum`", "unit": ""},
    )
    chain_id: Block = needed(
        "CHAIN_ID", "The id that every endpoint must answer; one with another id is refused.", chart="`chain.chainID`"
    )
    escrow: Address = needed(
        "ESCROW_ADDRESS", "The ComputeEscrow contract: 0x and 40 hex digits.", chart="`chain.escrowAddress`"
    )
    settler: SignerSettings
    meter_key_file: FilePath | None = setting(
        None,
        "A file with the key that signs receipts for the hub. Another key than the settler's, and nothing on the chain "
        "can be moved with it alone. Not given: no receipts are signed.",
        chart="`chain.meterKeySecret`",
    )
    native_usd: USD | None = setting(
        None,
        "What one coin of the chain costs in USD, so that gas can be weighed against what an epoch pays, and shown as "
        "the component `gas` of effective prices. Not given: gas is not weighed.",
        unit="USD",
        chart="`chain.nativeUSD`",
    )
    first_block: Block | None = setting(
        None,
        "A block at or before the one that created the escrow: its log is read from there on. `fedgpu chain deploy` "
        "writes it into the chart's values. Not given: the log is read from the first epoch on, and an exit that began "
        "before any epoch is not seen.",
        chart="`chain.firstBlock`",
    )
    batch: Address | None = setting(
        None,
        "A contract with Multicall3's `aggregate3`, by which several answers to disputes go into one transaction. Not "
        "given: the contract at Multicall3's usual address, if there is one.",
        variable="BATCH_ADDRESS",
        chart="`chain.batchAddress`",
    )
    ca_file: FilePath | None = setting(
        None,
        "A PEM file of certificate authorities that may sign the certificates of the endpoints and of the remote "
        "signer, *in addition to* the usual ones, so that a private node and a public provider can be used together. A "
        "file without a certificate stops the start.",
        variable="CHAIN_CA_FILE",
        chart="`chain.caConfigMap` or `chain.caSecret`",
    )

    @field_validator("rpc_quorum", mode="after")
    @classmethod
    def _more_than_half(cls, quorum: int, info: ValidationInfo) -> int:
        endpoints = len(info.data.get("rpc_urls", ()))
        return Between(_majority(info.data), endpoints)(quorum) if endpoints else quorum

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.meter_key_file is not None and self.meter_key_file == self.settler.key_file:
            raise ValueError(f"{PREFIX}METER_KEY_FILE: must be another key than {PREFIX}SETTLER_KEY_FILE")
        if self.max_epoch_seconds < self.epoch_seconds:
            raise ValueError(f"{PREFIX}MAX_EPOCH_SECONDS: must not be below {PREFIX}EPOCH_SECONDS")
        return self


def _majority(given: Mapping[str, Any]) -> int:
    """More than half of the endpoints, or two answers that contradict each other could both count."""
    return len(given.get("rpc_urls", ())) // 2 + 1


def _chain(environ: Mapping[str, str]) -> ChainSettings | None:
    """None without an endpoint; ConfigurationError if then any other setting is given that only a chain needs."""
    given = {name for name, value in environ.items() if value.strip(" ,")}
    if f"{PREFIX}CHAIN_RPC_URL" in given:
        required = [name for name, field in ChainSettings.variables() if field.is_required()]
        if missing := [name for name in required if name not in given]:
            raise ConfigurationError(f"{PREFIX}CHAIN_RPC_URL needs {', '.join(missing)} as well")
        return ChainSettings.read(environ, settler=SignerSettings.read(environ))
    EpochSettings.read(environ)
    useless = {**dict(ChainSettings.variables()), **dict(SignerSettings.variables())}
    for name, _ in EpochSettings.variables():
        del useless[name]
    if alone := [name for name in useless if name in given]:
        raise ConfigurationError(f"{', '.join(alone)} set without {PREFIX}CHAIN_RPC_URL: set it, or none of them")
    return None


# ---------------------------------------------------------------- the operator


class Settings(Group):
    """Everything that the operator can be configured with; durations in seconds."""

    namespace: str = setting(
        "fedgpu-system",
        "The operator's own namespace. Secrets with members' kubeconfigs are read here and nowhere else.",
        chart="the release's namespace",
    )
    ledger: SecretStr = setting(
        "/var/lib/fedgpu/ledger.db",
        "The ledger: a path or `sqlite:///` URL, whose folder must be there, or "
        "`postgresql://user:password@host/database`. One operator writes to it.",
        chart="`ledger.urlSecret`, else `persistence`",
    )
    leader_election: Flag = setting(
        "false",
        "`true` lets several replicas run, of which the one that holds the coordination Lease `fedgpu-leader` in "
        "`FEDGPU_NAMESPACE` works; needs a ledger on PostgreSQL. See "
        "[operations.md](operations.md#high-availability).",
        chart="`replicas` above 1",
    )
    acceptance: Literal["OnCreate", "Manual"] = setting(
        "OnCreate",
        "`OnCreate` accepts a provider as it was created by somebody who may `update` `gpuproviders/accept`; `Manual` "
        "waits until somebody with that right puts the hash that its `Accepted` condition shows into "
        "`spec.acceptance.hash`. What others create, and any later change to location, compliance, payout, its keys or "
        "the connection, needs the hash in both. See [rbac.md](rbac.md#acceptance).",
        chart="`settings.acceptance`",
    )
    acceptance_enforced: Flag = setting(
        "false",
        "`true` says that this hub restricts who may accept a provider, and lets an acceptance count; with `false` "
        "nothing new is accepted (`AcceptanceNotEnforced`), since owners could accept themselves. What was accepted "
        "before stays. Set it by hand only if a policy of your own guards `spec.acceptance`, or only platform admins "
        "may write GPUProviders.",
        chart="`rbac.confineByAdmission` or `rbac.acceptanceEnforcedElsewhere`",
    )
    default_deny: Flag = setting(
        "false",
        "`true` places a job only if a PlacementPolicy matches its namespace; `false` lets a namespace without one "
        "place anywhere.",
        chart="`settings.defaultDeny`",
    )
    location_audit: Flag = setting(
        "false",
        "`true` says that this hub holds who may confirm a location, and lets a confirmation count; with `false` every "
        "location is the owner's word. See [residency.md](residency.md#audited-and-self-declared).",
        chart="`rbac.confineByAdmission`",
    )
    resync_seconds: Seconds = setting(
        "30",
        "How often every loop looks at everything again, even if no event woke it.",
        unit="s",
        chart="`settings.resyncSeconds`",
    )
    heartbeat_timeout_seconds: Seconds = setting(
        "30",
        "A provider whose agent has not renewed its coordination Lease for so long is `Connected=Unknown`. Its jobs "
        "are left alone.",
        unit="s",
        chart="`settings.heartbeatTimeoutSeconds`",
    )
    cooldown_seconds: Seconds = setting(
        "300",
        "The first cool-down of an offer at which an attempt failed through no fault of its tenant; doubled with each "
        "failure in a row, at most 32 times this. See [decision 16](decisions/0016-whose-fault-it-was.md).",
        unit="s",
        chart="`settings.cooldownSeconds`",
    )
    reject_after_seconds: Seconds = setting(
        "30",
        "A workload whose pods the member has not admitted or scheduled after so long is `MemberRejected`.",
        unit="s",
        chart="`settings.rejectAfterSeconds`",
    )
    usage_interval_seconds: Annotated[float, AfterValidator(Between(0.05, LONGEST_UNWRITTEN_SECONDS))] = setting(
        "15",
        "How often the usage of running pods is read, and the least time between two readings that a lease writes to "
        "its status; at most 300. An older lease writes less often: [metering.md](metering.md).",
        unit="s",
        chart="`settings.usageIntervalSeconds`",
    )
    inventory_interval_seconds: Seconds = setting(
        "10",
        "How often an agent reads its member's inventory again if nothing changed before.",
        unit="s",
        chart="`settings.inventoryIntervalSeconds`",
    )
    funding_warn_seconds: Seconds = setting(
        "86400",
        "An account whose money ends sooner at its present burn is `FundingLow`, with an Event.",
        unit="s",
        chart="`settings.fundingWarnSeconds`",
    )
    funding_checkpoint_seconds: Seconds = setting(
        "900",
        "Sooner than this, its running jobs are asked to save their work; at the end they are suspended. Not above the "
        "one before.",
        unit="s",
        chart="`settings.fundingCheckpointSeconds`",
    )
    vantages: Annotated[tuple[Vantage, ...], NoDecode, BeforeValidator(lambda v: _vantages(v))] = setting(
        "",
        'Measuring points near your users, to which providers measure round trips: a JSON list of `{"name", "url"}` '
        "with `region`, `country`, or `latitude` and `longitude`. See [latency.md](latency.md).",
        chart="`vantages`",
    )
    plugins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = setting(
        "",
        "Entry points of installed packages whose placement rules are loaded, with commas between them; no other is. "
        "See [adding-a-rule.md](adding-a-rule.md).",
        chart="`plugins`",
    )
    market_seconds: Seconds = setting(
        "60",
        "How often clearing prices are looked at again; solved again only if demand or offers changed. See "
        "[market.md](market.md).",
        unit="s",
        chart="`settings.marketSeconds`",
    )
    workload_retention_seconds: Seconds = setting(
        "3600",
        "How long the Job and the pods of an ended attempt stay on their member, so that its owner can read their "
        "logs. Then the agent deletes them, and the operator the lease. See "
        "[metering.md](metering.md#what-is-deleted-and-when).",
        unit="s",
        chart="`settings.workloadRetentionSeconds`",
    )
    rebalance_min_saving_percent: Annotated[int, AfterValidator(Between(0, 100))] = setting(
        "10",
        "What a move to a cheaper place must save at least, of what staying would cost over the rest of the run. See "
        "[preemption.md](preemption.md).",
        unit="%",
        chart="`settings.rebalanceMinSavingPercent`",
    )
    rebalance_min_saving_usd: USD = setting(
        "0.10",
        "And how much at least, all costs of moving paid.",
        unit="USD",
        chart="`settings.rebalanceMinSavingUSD`",
    )
    rebalance_residence_seconds: Seconds = setting(
        "900",
        "How long a job stays where it was placed before it may move to a cheaper place.",
        unit="s",
        chart="`settings.rebalanceResidenceSeconds`",
    )
    rebalance_moves_per_pass: Annotated[int, AfterValidator(Between(0, 10_000))] = setting(
        "8",
        "How many such moves one pass announces at most; 0 for none at all. Leaving a draining provider is not held "
        "back by these four.",
        chart="`settings.rebalanceMovesPerPass`",
    )
    bind_address: str = setting(
        "0.0.0.0",  # a pod's probes and scrapes come from outside it
        "The address on which probes and metrics are served.",
        chart="fixed",
    )
    metrics_port: Annotated[int, AfterValidator(Between(0, 65535))] = setting(
        "9090", "The port of `/metrics` ([metrics.md](metrics.md)); 0 serves none.", chart="`metrics.port`"
    )
    health_port: Annotated[int, AfterValidator(Between(1, 65535))] = setting(
        "8080", "The port of `/healthz` and `/readyz`; see [Probes](#probes).", chart="`healthPort`"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`.", chart="`settings.logLevel`"
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "`text` for people, `json` with one object per line for collectors; the image sets `json`. See "
        "[operations.md](operations.md#logs).",
        chart="`settings.logFormat`",
    )
    chain: ChainSettings | None = None

    @property
    def rebalance(self) -> Hysteresis:
        """How much better another place must be before running work moves there."""
        return Hysteresis(
            relative=self.rebalance_min_saving_percent,
            absolute=self.rebalance_min_saving_usd,
            residence=int(self.rebalance_residence_seconds),
            most=self.rebalance_moves_per_pass,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``FEDGPU_*``; raises ConfigurationError with one line that names the variable and the fix."""
        ours = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        settings = cls.read(ours, chain=_chain(ours))
        known = {name for group in GROUPS for name, _ in group.variables()}
        # A misspelt variable must not be ignored silently.
        if unknown := sorted(ours.keys() - known):
            raise ConfigurationError(f"unknown setting {', '.join(unknown)}; see docs/configuration.md for the list")
        return settings

    @field_validator("namespace", mode="after")
    @classmethod
    def _named(cls, namespace: str) -> str:
        if not namespace:
            raise ValueError("must not be empty; it is where members' Secrets are read")
        return namespace

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metrics_port == self.health_port:
            raise ValueError(f"{PREFIX}METRICS_PORT and {PREFIX}HEALTH_PORT: must differ")
        if self.funding_checkpoint_seconds > self.funding_warn_seconds:
            raise ValueError(f"{PREFIX}FUNDING_CHECKPOINT_SECONDS: must not be above {PREFIX}FUNDING_WARN_SECONDS")
        if self.leader_election and not _SERVER.match(self.ledger.get_secret_value()):
            raise ValueError(
                f"{PREFIX}LEADER_ELECTION: needs a PostgreSQL ledger in {PREFIX}LEDGER; no file can be taken from a "
                "leader that is stopped"
            )
        return self


GROUPS: Final[tuple[type[Group], ...]] = (Settings, ChainSettings, SignerSettings)
"""Every setting is in exactly one of them."""


def _vantages(value: object) -> object:
    return parse_vantages(value) if isinstance(value, str) else value
