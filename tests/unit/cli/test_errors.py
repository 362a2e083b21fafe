"""For every command one wrong input: its exit code and the first line of its error, which names the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from fedgpu_operator import errors
from fedgpu_operator.cli import app
from fedgpu_operator.errors import FedGPUError

if TYPE_CHECKING:
    from .conftest import FakeHub

    Run = Callable[..., tuple[int, str, str]]

ADDRESS = "0x" + "12" * 20
KEY = "--key-file key"
NO_SIGNER = "no single signer given: give exactly one of --key-file, --keystore and --signer-url"
NO_ADDRESS = "'0x12' is not an address: give 0x and 40 hex digits"
ROLES = f"--settler {ADDRESS} --meter {ADDRESS} --arbiter {ADDRESS} --guardian {ADDRESS}"

WRONG: dict[str, tuple[str, str]] = {
    "demo": ("-o yaml", "invalid value for '--output' / '-o': 'yaml' is not one of 'table', 'json'"),
    "operator": ("now", "got unexpected extra argument(s) (now)"),
    "crds": ("--output yaml", "no such option: --output"),
    "explain": ("", "missing argument 'job'"),
    "offers": ("-o wide", "invalid value for '--output' / '-o': 'wide' is not one of 'table', 'json', 'yaml'"),
    "market": ("--history soon", "--history: 'soon' is not a number of hours or days: give one such as 36h or 7d"),
    "quote": ("-f none.yaml", "--file: none.yaml cannot be read: No such file or directory"),
    "cost": ("train -A", "-A excludes the name of a job: give its namespace with -n instead"),
    "simulate": (
        "--trace none.csv --load 0",
        "invalid value for '--load': Input should be greater than or equal to 0.01",
    ),
    "version": ("--long", "no such option: --long"),
    "account deposit": ("0", "nothing to deposit: give more than 0 USD"),
    "account withdraw request": ("5 --all", "no single amount to withdraw: give USD or --all"),
    "account withdraw execute": ("", NO_SIGNER),
    "account withdraw cancel": ("--keystore key", "incomplete keystore: give both --keystore and --password-file"),
    "account limits show": ("--wallet 0x12", f"--wallet: {NO_ADDRESS}"),
    "account limits set": ("", "missing argument 'USD'"),
    "account limits apply": (
        "--signer-url http://signer",
        "incomplete remote signer: give both --signer-url and --signer-address",
    ),
    "account prove": (
        "",
        (
            "no single way to sign given: give a key (--key-file, --keystore or --signer-url), or --print-typed-data "
            "for a wallet elsewhere and then --signature with what it signed"
        ),
    ),
    "provider accept": (
        "berlin --confirm --withdraw",
        "--confirm and --withdraw exclude each other: give one of them",
    ),
    "provider drain": ("", "missing argument 'name'"),
    "provider nodes": ("", "missing argument 'name'"),
    "provider check": (
        "-o wide",
        "invalid value for '--output' / '-o': 'wide' is not one of 'table', 'json', 'yaml'",
    ),
    "provider audit": ("berlin --confirm --withdraw", "--confirm and --withdraw exclude each other: give one of them"),
    "provider prove": (
        "berlin --signature 0x12",
        "--signature without --issued-at: give the date that was printed with the data",
    ),
    "provider keys": (f"{KEY} --payee 0x12", f"--payee: {NO_ADDRESS}"),
    "provider probe": ("berlin --every 1", "invalid value for '--every': Input should be greater than or equal to 5"),
    "chain deploy": (f"{ROLES} {KEY}", "no single token given: give --token, or --test-token for a trial"),
    "chain check": ("", "no chain endpoint given: name one with --rpc or FEDGPU_CHAIN_RPC_URL"),
    "settle status": ("0", "invalid value for 'epoch': Input should be greater than or equal to 1"),
    "settle verify": ("0", "invalid value for 'epoch': Input should be greater than or equal to 1"),
    "settle dispute list": (
        "--rpc ftp://node.example",
        "--rpc: not a URL: give one such as https://HOST, several separated by commas",
    ),
    "settle dispute open": (KEY, "no single debit to dispute given: give --provider or --unexplained"),
    "settle dispute close": (f"--epoch 1 {KEY}", "no single dispute given: give --provider or --unexplained"),
    "payouts": (
        f"--provider berlin --wallet {ADDRESS}",
        "--provider and --wallet exclude each other: give one of them",
    ),
    "payouts claim": (f"{KEY} --keystore key", NO_SIGNER),
    "payouts collect": (f"{KEY} --to 0x12", f"--to: {NO_ADDRESS}"),
    "ledger verify": ("--archive none", "--archive: folder not found: none"),
    "ledger check": ("--chain-id", "option '--chain-id' requires an argument"),
    "ledger reconcile": ("--accept-loss", "option '--accept-loss' requires an argument"),
    "ledger archive": (
        ". --before 3 --older-than 1d",
        "--before and --older-than exclude each other: give one of them",
    ),
    "ledger manifest": ("1 --archive none", "--archive: folder not found: none"),
    "ledger balance": ("tenant", "got unexpected extra argument(s) (tenant)"),
    "ledger backup": ("", "missing argument 'FILE'"),
    "ledger restore": ("a.db b.db", "got unexpected extra argument(s) (b.db)"),
}
"""Command → arguments, and the error after ``error: ``; all end with exit code 2, before anything is connected to."""


def commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its path."""
    below = getattr(command, "commands", {})
    if path and (not below or command.invoke_without_command):
        yield path, command
    for name, each in below.items():
        yield from commands(each, f"{path} {name}".strip())


def groups_and_commands(command: Any) -> Iterator[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from groups_and_commands(each)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


@pytest.mark.usefixtures("hub", "folder")
@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_input_is_one_line_that_names_the_fix(run: Run, command: str) -> None:
    arguments, error = WRONG[command]
    code, out, err = run(*command.split(), *arguments.split())
    assert (code, out, err.splitlines()[0]) == (2, "", f"error: {error}")
    assert err.splitlines()[1:] in ([], [f"See 'fedgpu {command} --help'."])


def test_every_command_is_in_the_table() -> None:
    assert set(WRONG) == dict(commands(typer.main.get_command(app))).keys()


def every_error(kind: type[FedGPUError] = FedGPUError) -> Iterator[type[FedGPUError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from every_error(each)


@pytest.mark.parametrize("kind", list(every_error()))
def test_every_error_has_an_exit_code_and_one_line(
    run: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, kind: type[FedGPUError]
) -> None:
    arguments = {
        errors.InvalidResourceError: ("InvalidSpec", "the reason"),
        errors.NotTakenError: ("the reason", errors.Refusal.OTHER),
    }
    monkeypatch.setattr(hub, "error", kind(*arguments.get(kind, ("the reason",))))
    code, out, err = run("offers")
    wanted = {errors.ConfigurationError: 2, errors.PendingError: 3}.get(kind, 1)
    assert (code, out, len(err.splitlines())) == (wanted, "", 1)
    assert err.startswith("error: ")
    assert "the reason" in err


def test_a_wrong_command_names_the_help_to_read(run: Run) -> None:
    assert run("settel") == (2, "", "error: no such command 'settel'. Did you mean 'settle'?\nSee 'fedgpu --help'.\n")
    code, out, err = run("ledger", "balanse")
    assert (code, out, err.splitlines()[-1]) == (2, "", "See 'fedgpu ledger --help'.")


def test_a_bare_group_shows_its_commands(run: Run) -> None:
    code, out, err = run("ledger")
    assert (code, out) == (2, "")
    assert err.startswith("Usage: fedgpu ledger ")
    assert "Back up the ledger while the operator runs." in err


def test_a_list_of_commands_shows_whole_sentences() -> None:
    """The first sentence is what a list of commands has room for; a longer one would end in dots."""
    for each in groups_and_commands(typer.main.get_command(app)):
        for name, below in getattr(each, "commands", {}).items():
            text = below.get_short_help_str(80 - 6 - len("operator"))
            assert text.endswith("."), f"{name}: {text}"
            assert not text.endswith("..."), f"{name}: {text}"
