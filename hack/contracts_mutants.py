"""Breaks the contracts in stated ways (contracts/mutants/*.toml) and counts how many breaks the forge tests notice.

A mutant is one search-and-replace whose `find` occurs exactly once. Each is built without the IR pipeline in a copy
of contracts/, the unit tests run first and the stateful ones only for what they let through. Results are kept by a hash
of all that decides them, so that a run that was stopped goes on where it was; the last one is in mutants/RESULTS.md.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue

from hack.contracts_tools import CONTRACTS, Scratch, Tools, scratch

from fedgpu_lab.toolchain import cache_root

FOLDER = CONTRACTS / "mutants"
REPORT = FOLDER / "RESULTS.md"
REQUIRED = 0.9
"""The share of mutants that must die."""

AT_ONCE = 2
FAST = {"FOUNDRY_FUZZ_RUNS": "24"}
"""How much of the random tests each mutant meets: a break that only a longer search finds counts as a survivor."""

ROUNDS = (("--no-match-path", "test/invariant/**"), ("--match-path", "test/invariant/**", "--match-test", "^test"))
"""The unit tests; and for what they let through the stateful ones, as far as their seeds are fixed."""

UNBUILT = "(does not compile)"
FAILED = re.compile(r"^\[FAIL[^\n]*\] (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way of being wrong: in `file` (below contracts/) `find` becomes `replace`; `why` says what that breaks."""

    id: str
    file: str
    find: str
    replace: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant: the test that noticed it, or "" when none did."""

    id: str
    killer: str
    seconds: float


def main(tools: Tools) -> str:
    """Run all mutants; fails below the required share."""
    mutants = read()
    outcomes = judge(tools, mutants)
    REPORT.write_text(report(mutants, outcomes), encoding="utf-8")
    unbuilt = [mutant.id for mutant in mutants if outcomes[mutant.id].killer == UNBUILT]
    if unbuilt:
        sys.exit(f"mutants: no contract at all: {', '.join(unbuilt)}")
    survivors = [mutant for mutant in mutants if not outcomes[mutant.id].killer]
    for mutant in survivors:
        print(f"survivor {mutant.id} ({mutant.file}): {mutant.why}")
    share = 1 - len(survivors) / len(mutants)
    said = f"{len(mutants) - len(survivors)} of {len(mutants)} mutants died ({share:.1%})"
    if share < REQUIRED:
        sys.exit(f"mutants: {said}, {REQUIRED:.0%} must")
    return said


def read() -> list[Mutant]:
    """The stated set; exits when one no longer fits its file."""
    mutants: list[Mutant] = []
    wrong: list[str] = []
    for file in sorted(FOLDER.glob("*.toml")):
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]:
            mutant = Mutant(**entry)
            count = (CONTRACTS / mutant.file).read_text(encoding="utf-8").count(mutant.find)
            if count != 1 or mutant.find == mutant.replace or any(mutant.id == each.id for each in mutants):
                wrong.append(f"{mutant.id}: found {count} times in {mutant.file}")
            mutants.append(mutant)
    if wrong or not mutants:
        sys.exit("mutants that do not fit their sources:\n" + "\n".join(wrong))
    return mutants


def judge(tools: Tools, mutants: Iterable[Mutant]) -> dict[str, Outcome]:
    """What became of each mutant, from the kept results where nothing has changed since."""
    store = cache_root() / "audit" / "mutants"
    store.mkdir(parents=True, exist_ok=True)
    base = _digest_of_sources()
    outcomes, open_ones = {}, []
    for mutant in mutants:
        kept = store / sha256(f"{base}{mutant}".encode()).hexdigest()[:24]
        if kept.is_file():
            outcomes[mutant.id] = Outcome(**json.loads(kept.read_text(encoding="utf-8")))
        else:
            open_ones.append((mutant, kept))
    if not open_ones:
        return outcomes
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        copies: SimpleQueue[Scratch] = SimpleQueue()
        for copy in [stack.enter_context(scratch(tools)) for _ in range(AT_ONCE)]:
            copies.put(copy)
        for copy in list(pool.map(lambda _: _prepared(copies), range(AT_ONCE))):
            copies.put(copy)

        def one(item: tuple[Mutant, Path]) -> Outcome:
            mutant, kept = item
            copy = copies.get()
            try:
                outcome = _try(copy, mutant)
            finally:
                copies.put(copy)
            kept.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            print(f"  {outcome.id}: {outcome.killer or 'SURVIVED'} ({outcome.seconds:.0f} s)", flush=True)
            return outcome

        outcomes |= {outcome.id: outcome for outcome in pool.map(one, open_ones)}
    return outcomes


def _prepared(copies: SimpleQueue[Scratch]) -> Scratch:
    """A copy that builds fast, in which the tests pass: otherwise every mutant would seem to die."""
    copy = copies.get()
    config = copy.path / "foundry.toml"
    config.write_text(fast(config.read_text(encoding="utf-8")), encoding="utf-8")
    for folder in ("halmos", "gas"):
        shutil.rmtree(copy.path / "test" / folder)
    for words in ROUNDS:
        done = _test(copy, *words)
        if done is not None:
            sys.exit(f"mutants: the sources themselves fail: {done}")
    return copy


def fast(config: str) -> str:
    """foundry.toml for builds of seconds: no IR pipeline, no optimizer, no warnings."""
    lines = [line for line in config.splitlines() if not line.startswith(("additional_compiler", "compilation_restr"))]
    plain = "\n".join(lines).replace("optimizer = true", "optimizer = false").replace('deny = "warnings"', "")
    return plain + "\n"


def _try(copy: Scratch, mutant: Mutant) -> Outcome:
    begin = time.monotonic()
    path = copy.path / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutant.find, mutant.replace), encoding="utf-8")
    try:
        killer = ""
        for words in ROUNDS:
            killer = _test(copy, *words) or ""
            if killer:
                break
    finally:
        path.write_text(whole, encoding="utf-8")
    return Outcome(mutant.id, killer, round(time.monotonic() - begin, 1))


def _test(copy: Scratch, *words: str) -> str | None:
    """The name of the first test that fails, None when none does, UNBUILT when the copy does not compile."""
    done = copy.forge("test", "--fail-fast", "--code-size-limit", "1000000", "--threads", "1", *words, extra=FAST)
    if done.returncode == 0:
        return None
    if "Compiler run failed" in done.stdout + done.stderr:
        return UNBUILT
    failed = FAILED.search(done.stdout)
    if failed is None:
        sys.exit(f"mutants: forge ended without a verdict:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return failed[1]


def _digest_of_sources() -> str:
    whole = sha256(json.dumps([FAST, ROUNDS]).encode())
    for folder in ("src", "test"):
        for file in sorted((CONTRACTS / folder).rglob("*.sol")):
            whole.update(str(file.relative_to(CONTRACTS)).encode() + file.read_bytes())
    return whole.hexdigest()


def report(mutants: list[Mutant], outcomes: dict[str, Outcome]) -> str:
    """RESULTS.md: every mutant with the test that noticed it."""
    died = sum(1 for mutant in mutants if outcomes[mutant.id].killer)
    lines = [
        "# Mutants of the contracts",
        "",
        "Written by `python -m hack.audit_contracts mutants`; each entry is one search-and-replace in a *.toml here.",
        f"{died} of {len(mutants)} died ({died / len(mutants):.1%}); {REQUIRED:.0%} must.",
        "",
        "| mutant | what it breaks | noticed by |",
        "|---|---|---|",
    ]
    for mutant in mutants:
        killer = outcomes[mutant.id].killer
        lines.append(f"| {mutant.id} | {mutant.why.replace('|', '∨')} | {f'`{killer}`' if killer else '**nothing**'} |")
    return "\n".join(lines) + "\n"
