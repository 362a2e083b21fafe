"""Options that stand together: each verb shows them as its own, and contradictions are refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from fedgpu_operator.cli import app
from fedgpu_operator.cli.common import KeyOptions, address, endpoints, flat
from fedgpu_operator.errors import ConfigurationError

KEY, WORD = Path("settler.key"), Path("password")
FIX = {
    "nobody": ("exactly one of", KeyOptions()),
    "two": ("exactly one of", KeyOptions(key_file=KEY, signer_url="http://signer", signer_address="0x1")),
    "keystore alone": ("--password-file", KeyOptions(keystore=KEY)),
    "password alone": ("exactly one of", KeyOptions(password_file=WORD)),
    "key with a password": ("--password-file", KeyOptions(key_file=KEY, password_file=WORD)),
    "signer without account": ("--signer-address", KeyOptions(signer_url="http://signer")),
    "account without signer": ("--signer-url", KeyOptions(signer_address="0x1")),
}


@dataclass(frozen=True)
class Group:
    """Two options, one of them with a default."""

    size: Annotated[int, typer.Option("--size", help="How big.")] = 3
    name: Annotated[str, typer.Option("--name", envvar="FEDGPU_TEST_NAME")] = "none"


def test_the_options_of_a_group_are_options_of_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool, Group]] = []

    def verb(word: Annotated[str, typer.Argument()], group: Group, loud: bool = False) -> None:
        """Says something."""
        seen.append((word, loud, group))

    verbs = typer.Typer()
    verbs.command()(flat(verb))
    command = typer.main.get_command(verbs)
    command.main(["hello"], standalone_mode=False)
    command.main(["hello", "--loud", "--size", "4"], standalone_mode=False)
    monkeypatch.setenv("FEDGPU_TEST_NAME", "given")
    command.main(["--name", "", "hello"], standalone_mode=False)
    command.main(["hello"], standalone_mode=False)
    assert seen == [
        ("hello", False, Group(3, "none")),
        ("hello", True, Group(4, "none")),
        ("hello", False, Group(3, "")),
        ("hello", False, Group(3, "given")),
    ]
    assert (command.name or "verb", command.help) == ("verb", "Says something.")


@pytest.mark.parametrize(("words", "options"), FIX.values(), ids=FIX.keys())
def test_signing_in_no_way_or_in_two_is_refused_with_the_options_to_give(words: str, options: KeyOptions) -> None:
    with pytest.raises(ConfigurationError, match=words):
        options.check()


@pytest.mark.parametrize(
    "options",
    [
        KeyOptions(key_file=KEY),
        KeyOptions(keystore=KEY, password_file=WORD),
        KeyOptions(signer_url="http://signer", signer_address="0x1"),
    ],
)
def test_each_way_to_sign_is_taken(options: KeyOptions) -> None:
    options.check()
    assert options.given
    assert not KeyOptions().given


def test_endpoints_are_read_from_one_option() -> None:
    assert endpoints(" http://a , https://b/key ") == ("http://a", "https://b/key")
    for wrong in ("", " , ", "ftp://a", "http://a,b:8545", "http://"):
        with pytest.raises(ConfigurationError, match="--rpc"):
            endpoints(wrong)


def test_an_address_has_one_spelling() -> None:
    lower = "0x" + "ab" * 20
    assert address("--escrow", lower) == address("--escrow", address("--escrow", lower)) != lower
    for wrong in ("0xab", "ab" * 20, lower[:-1] + "B", lower + "ab", "0X" + "ab" * 20, ""):
        with pytest.raises(ConfigurationError, match="--escrow"):
            address("--escrow", wrong)


def test_every_option_of_every_verb_is_explained() -> None:
    """What `--help` shows is all that a newcomer has; and one option means the same in all verbs."""
    meanings: dict[str, set[str]] = {}
    for name, verb in verbs_of(typer.main.get_command(app)).items():
        assert verb.help, f"{name} says nothing about itself"
        for parameter in verb.params:
            said = str(getattr(parameter, "help", ""))
            assert said, f"{name}: {parameter.name} has no help"
            if parameter.opts[0] in ("--rpc", "--escrow", "--key-file", "--context"):
                meanings.setdefault(parameter.opts[0], set()).add(said)
    assert all(len(texts) == 1 for texts in meanings.values()), meanings


def verbs_of(command: Any, path: str = "") -> dict[str, Any]:
    """Every verb by its path, however deep; typer's classes for them are not public."""
    below = getattr(command, "commands", None)
    if below is None:
        return {path: command}
    return {name: verb for word, sub in below.items() for name, verb in verbs_of(sub, f"{path} {word}").items()}
