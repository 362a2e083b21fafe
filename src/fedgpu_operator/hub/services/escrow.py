"""The escrow as this hub knows it: its terms, read until they are known, and where wallets find what they sign for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.terms import EscrowPeriods, Role
from fedgpu_operator.errors import ChainError, ConfigurationError, InvalidResourceError, NotFoundError, StatePrunedError
from fedgpu_operator.ports import CONFIG_MAPS, Clock, Escrow, Kube
from fedgpu_operator.settlement import lag_of

log = logging.getLogger(__name__)


ROLES_AGAIN: Final = timedelta(minutes=1)
"""How often a missing role is looked for: an admin grants it by hand."""
ROLES_STILL: Final = timedelta(minutes=10)
"""How often roles that are held are looked at once more: an admin can revoke them."""


class Obstacle(StrEnum):
    """What keeps settlement from working as configured; each is the label of a metric."""

    TERMS_UNKNOWN = "TermsUnknown"
    """Not everything was read that must be known before anything is sent."""
    EPOCH_TOO_LONG = "EpochTooLong"
    """The configured epoch is longer than the contract's longest: that one is kept to."""
    STATE_PRUNED = "StatePruned"
    """The endpoints lack the state at the finalized block, or state or logs that a dispute needs."""
    ROLE_MISSING = "RoleMissing"
    """The settler or the meter does not hold its role."""
    SIGNER_REFUSED = "SignerRefused"
    """The remote signer answers, and does not hold the settler's account."""


FATAL: Final = (Obstacle.EPOCH_TOO_LONG, Obstacle.SIGNER_REFUSED)
"""With one of these the operator does not start; found later, it is logged and counted, and computing goes on."""


class TermsSource:
    """Reads each term once it can, and keeps it; values are live, so nobody holds a default for the process's life.

    `every` is the configured time between epochs and `at_most` the longest that one may wait, seconds. `holders` are
    who must hold which role, `check_signer` raises ConfigurationError if the signer lacks the settler's account.
    """

    def __init__(
        self,
        escrow: Escrow,
        clock: Clock,
        *,
        every: float,
        at_most: float,
        holders: Mapping[Role, str],
        check_signer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._escrow = escrow
        self._clock = clock
        self._every = every
        self._at_most = at_most
        self._holders = dict(holders)
        self._unheld: dict[Role, str] = dict(holders)
        """Roles that were not held, or not known to be, at the last look."""
        self._roles_read: datetime | None = None
        self._check_signer = check_signer
        self._verified = False
        self._readable = False
        self._periods: EscrowPeriods | None = None
        self.obstacles: dict[Obstacle, str] = {Obstacle.TERMS_UNKNOWN: "nothing was read from the chain yet"}
        """What is in the way now, each with the message for an admin."""

        self.unchecked = ""
        """Why roles or signer could not be checked when that was last tried."""

    # ---------------------------------------------------------------- live values

    @property
    def known(self) -> bool:
        """Whether everything is known that must be before anything is sent."""
        return self._verified and self._readable and self._periods is not None

    @property
    def every(self) -> float:
        """Seconds between epochs: as configured, and never more than the contract's longest epoch."""
        return self._every if self._periods is None else min(self._every, self._periods.longest_epoch)

    @property
    def longest(self) -> float:
        """Seconds that an epoch may wait: as configured, and never more than the contract's longest epoch."""
        return self._at_most if self._periods is None else min(self._at_most, self._periods.longest_epoch)

    @property
    def lag(self) -> float:
        """Seconds from work to its debit at the latest, see `settlement.lag_of`; infinite until the periods are known.

        Infinite is the safe side: money that is announced to leave is not counted on.
        """
        return float("inf") if self._periods is None else lag_of(self.longest, self._periods.challenge)

    # ---------------------------------------------------------------- reading

    async def read(self) -> None:
        """Read what is not known yet; nothing is read twice but roles, which can be revoked.

        Raises the ChainError of the first read that failed among those that settlement needs: call again later.
        Roles and signer only leave an obstacle: what lacks them fails by itself.
        """
        try:
            await self._read_terms()
        except ChainError as error:
            self._put(Obstacle.TERMS_UNKNOWN, str(error), quiet=True)
            pruned = f"FEDGPU_CHAIN_RPC_URL: {error}" if isinstance(error, StatePrunedError) else ""
            self._put(Obstacle.STATE_PRUNED, pruned)
            raise
        self._put(Obstacle.TERMS_UNKNOWN, "")
        self._put(Obstacle.STATE_PRUNED, "")
        await self._read_roles()
        await self._read_signer()

    @property
    def complete(self) -> bool:
        """Whether every read has had its answer, those of roles and signer as well."""
        return self.known and self._roles_read is not None and self._check_signer is None

    async def _read_terms(self) -> None:
        if not self._verified:
            await self._escrow.verify()
            self._verified = True
        if self._periods is None:
            self._periods = await self._escrow.periods()
            longest = self._periods.longest_epoch
            # Tenants' notice is built on the contract's longest epoch: waiting longer would let money go that is owed.
            self._put(
                Obstacle.EPOCH_TOO_LONG,
                f"FEDGPU_EPOCH_SECONDS: the escrow is made for epochs of at most {longest} s: a tenant could take out "
                "what is not debited by then; set no more than that"
                if self._every > longest
                else "",
            )
        if not self._readable:
            await self._escrow.check_state()
            self._readable = True

    async def _read_roles(self) -> None:
        now = self._clock.now()
        if self._roles_read is not None:
            if now - self._roles_read < (ROLES_AGAIN if self._unheld else ROLES_STILL):
                return
            lacking = dict(self._holders)
        else:
            lacking = self._unheld
        try:
            for role, account in list(lacking.items()):
                if await self._escrow.holds_role(role, account):
                    del lacking[role]
        except ChainError as error:
            self.unchecked = str(error)
            return
        self._roles_read, self._unheld = now, lacking
        text = ", ".join(f"{account} does not hold the role {role}" for role, account in self._unheld.items())
        self._put(Obstacle.ROLE_MISSING, f"{text} of the escrow {self._escrow.escrow} (yet)" if text else "")

    async def _read_signer(self) -> None:
        if self._check_signer is None:
            return
        try:
            await self._check_signer()
        except ConfigurationError as error:
            self._put(Obstacle.SIGNER_REFUSED, str(error))
        except ChainError as error:
            self.unchecked = str(error)
        else:
            self._check_signer = None
            self._put(Obstacle.SIGNER_REFUSED, "")

    def _put(self, obstacle: Obstacle, text: str, *, quiet: bool = False) -> None:
        """Keep an obstacle, or drop it with an empty `text`; logged when it begins and ends, unless `quiet`."""
        begins = bool(text) and obstacle not in self.obstacles
        ended = not text and self.obstacles.pop(obstacle, "")
        if text:
            self.obstacles[obstacle] = text
        if begins and not quiet:
            log.warning("settlement: %s: %s", obstacle, text)
        if ended:
            log.info("settlement: %s no longer holds", obstacle)


NAME: Final = "fedgpu-settlement"
HUB, CHAIN_ID, ESCROW = "hub", "chainID", "escrow"
"""Keys of the ConfigMap's data."""


@dataclass(frozen=True, slots=True)
class Published:
    """UID of the hub (that of its kube-system namespace), and the escrow with its chain."""

    hub: str
    chain_id: int
    escrow: str


async def publish(kube: Kube, namespace: str, known: Published) -> None:
    """Write it, whatever stood there before. Raises the KubeError tree."""
    data = {HUB: known.hub, CHAIN_ID: str(known.chain_id), ESCROW: known.escrow}
    meta: JSONObject = {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "fedgpu"}}
    await kube.apply(CONFIG_MAPS, {"metadata": meta, "data": data})


async def published(kube: Kube, namespace: str) -> Published:
    """What the operator in that namespace published.

    Raises NotFoundError that says where it was looked for, InvalidResourceError where it cannot be read, KubeError.
    """
    try:
        found = await kube.get(CONFIG_MAPS, NAME, namespace)
    except NotFoundError as error:
        text = f"no operator that settles on a chain runs in namespace {namespace}: ConfigMap {NAME} is not there"
        raise NotFoundError(text, status=error.status) from error
    data = found.get("data") or {}
    try:
        return Published(hub=str(data[HUB]), chain_id=int(data[CHAIN_ID]), escrow=str(data[ESCROW]))
    except (KeyError, ValueError) as error:
        text = f"ConfigMap {namespace}/{NAME} does not name hub, chain and escrow: restart the operator to have it so"
        raise InvalidResourceError("InvalidConfigMap", text) from error
