"""The roles and periods of a new deployment as options, and what of them is refused before anything is paid for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedgpu_operator.cli.wallets import lasting
from fedgpu_operator.errors import ConfigurationError

if TYPE_CHECKING:
    from fedgpu_operator.adapters.chain import Periods, Roles

_LASTING: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_LONGEST: Final = 366 * 86_400


def period(text: str) -> int:
    """A length of time on the command line, in seconds: days, hours, minutes and seconds in that order."""
    match = _LASTING.fullmatch(text)
    if not text or match is None:
        raise typer.BadParameter(
            f"{text!r} is not a length of time: write days, hours, minutes, seconds, such as 1d12h"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= _LONGEST:
        raise typer.BadParameter("must be more than nothing and at most a year")
    return total


@dataclass(frozen=True, slots=True)
class RoleOptions:
    """Who may do what at the new escrow; addresses."""

    settler: Annotated[str, typer.Option("--settler", help="Posts epochs: the operator's own account.")]
    meter: Annotated[str, typer.Option("--meter", help="Signs receipts for the hub; never the settler.")]
    arbiter: Annotated[str, typer.Option("--arbiter", help="Rules on disputes, and only in the tenant's favour.")]
    guardian: Annotated[str, typer.Option("--guardian", help="Cancels epochs in their window, and can pause.")]
    owner: Annotated[
        list[str] | None, typer.Option("--owner", help="Changes roles through the timelock; several; you unless given.")
    ] = None
    reserve: Annotated[
        str, typer.Option("--reserve", help="Gets lost bonds and slashed stake; the first owner unless given.")
    ] = ""


@dataclass(frozen=True, slots=True)
class PeriodOptions:
    """The periods that are fixed for good."""

    challenge: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="To dispute an epoch before it pays [1d].")
    ] = None
    ruling: Annotated[int | None, typer.Option(parser=period, metavar="TIME", help="For the arbiter [3d].")] = None
    exit_after: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Without a settler, until providers exit [7d].")
    ] = None
    longest_epoch: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Longest that an epoch covers [7d].")
    ] = None
    notice: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Of withdrawals [the least that is safe].")
    ] = None
    unbonding: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Of stake [the least that is safe].")
    ] = None
    timelock_delay: Annotated[
        int | None, typer.Option(parser=period, metavar="TIME", help="Before a change of roles takes effect [2d].")
    ] = None


def roles_of(given: RoleOptions, deployer: str) -> Roles:
    """The roles in full; ConfigurationError where an address is none, or one key would hold what must be apart."""
    from fedgpu_operator.adapters.chain import Roles
    from fedgpu_operator.cli.target import address

    owners = tuple(address("--owner", each) for each in given.owner or [deployer])
    named = {name: address(f"--{name}", getattr(given, name)) for name in ("settler", "meter", "arbiter", "guardian")}
    for one, other, why in (
        ("settler", "meter", "or one thief can post false usage and sign the receipts for it"),
        ("settler", "arbiter", "or the settler rules on disputes of its own epochs"),
        ("settler", "guardian", "or nobody can stop a stolen settler"),
        ("meter", "arbiter", "or a dispute is ruled by who signed what is disputed"),
    ):
        if named[one] == named[other]:
            raise ConfigurationError(f"--{one} and --{other} must be different accounts, {why}")
    return Roles(**named, reserve=address("--reserve", given.reserve) if given.reserve else owners[0], owners=owners)


def periods_of(given: PeriodOptions) -> Periods:
    """The periods, with the contracts' defaults for those not given; ConfigurationError for one that is too short."""
    from fedgpu_operator.adapters.chain import Periods

    names = {"timelock_delay": "timelock"}
    fields = ("challenge", "ruling", "exit_after", "longest_epoch", "notice", "unbonding", "timelock_delay")
    chosen = {names.get(name, name): getattr(given, name) for name in fields if getattr(given, name) is not None}
    periods = Periods(**chosen)
    for name, least in (("notice", periods.least_notice), ("unbonding", periods.least_unbonding)):
        asked = getattr(given, name)
        if asked is not None and asked < least:
            raise ConfigurationError(
                f"--{name}: {lasting(asked)} is too short beside the other periods: {lasting(least)}"
            )
    return periods
