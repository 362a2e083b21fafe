"""Proves what can be proven of the contracts: slither, halmos, coverage, deep states, mutants; says so or fails.

`python -m hack.audit_contracts slither|halmos|coverage|states|mutants|all` from the repository's root. Each works on a
copy of contracts/, so that it never meets a build of somebody else. What it found is in docs/contracts-audit.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable

from hack import contracts_mutants
from hack.contracts_tools import Tools, analyser, find_tools, scratch

REFUSED = {"High", "Medium"}
"""The weights of slither's findings that fail the audit."""

UNTAKEN = {"0", "-"}
"""How lcov says that a branch was never taken, or that its line never ran."""


def slither(tools: Tools) -> str:
    """No finding of high or medium weight in src/."""
    program = analyser("slither")
    with scratch(tools) as copy:
        built = copy.forge("build", "--build-info", "--skip", "*/test/**")
        if built.returncode != 0:
            sys.exit(f"forge build failed:\n{built.stdout}{built.stderr}")
        words = "--ignore-compile --foundry-out-directory out --json - --exclude-informational --exclude-optimization"
        done = copy.run([str(program), ".", *words.split(), "--filter-paths", "node_modules|test/"])
    if not done.stdout.startswith("{"):
        sys.exit(f"slither said nothing that can be read:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    if not answer["success"]:
        sys.exit(f"slither failed: {answer['error']}")
    found = answer["results"].get("detectors", [])
    bad = [each for each in found if each["impact"] in REFUSED]
    for each in bad:
        print(f"{each['impact']} {each['check']}: {each['description'].strip()}")
    if bad:
        sys.exit(f"slither: {len(bad)} findings of high or medium weight")
    return f"no high or medium finding, {len(found)} low"


def halmos(tools: Tools) -> str:
    """Every check_ of test/halmos holds for all inputs within its stated bounds."""
    program = analyser("halmos")
    with scratch(tools) as copy:
        for other in (copy.path / "test").iterdir():
            if other.name == "halmos":
                continue
            shutil.rmtree(other) if other.is_dir() else other.unlink()
        done = copy.run([str(program), "--match-contract", "Halmos", "--solver-timeout-assertion", "120s"])
    last = [line for line in done.stdout.splitlines() if "Symbolic test result" in line]
    if done.returncode != 0 or not last:
        sys.exit(f"halmos: not proven\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return "; ".join(line.split("result:", 1)[1].strip() for line in last)


def coverage(tools: Tools) -> str:
    """Every branch of src/ is taken by a unit test, the random ones left aside."""
    with scratch(tools) as copy:
        # The IR pipeline merges equal refusals into one, and its source map then knows only one of them.
        config = copy.path / "foundry.toml"
        config.write_text(contracts_mutants.fast(config.read_text(encoding="utf-8")), encoding="utf-8")
        for folder in ("halmos", "invariant", "gas"):
            shutil.rmtree(copy.path / "test" / folder)
        done = copy.forge("coverage", "--report", "lcov", extra={"FOUNDRY_FUZZ_RUNS": "32"})
        report = copy.path / "lcov.info"
        if done.returncode != 0 or not report.is_file():
            sys.exit(f"forge coverage failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        lcov = report.read_text(encoding="utf-8")
    branches, missed = _branches(lcov)
    for place in missed:
        print(f"never taken: {place}")
    if missed or not branches:
        sys.exit(f"coverage: {branches - len(missed)} of {branches} branches of src/")
    return f"{branches} of {branches} branches"


def states(tools: Tools) -> str:
    """Every deep state is reached by the seeds of the stateful tests; prints how often, and how many calls it took."""
    with scratch(tools) as copy:
        done = copy.forge("test", "-vv", "--match-contract", "CampaignTest", "--skip", "*/halmos/*")
    if done.returncode != 0:
        sys.exit(f"states: a seed breaks an invariant or reaches too little\n{done.stdout[-4000:]}")
    found = [line.strip().rpartition(" ") for line in done.stdout.splitlines() if line.startswith("  ")]
    counts = {name: int(count) for name, _, count in found if count.isdigit()}
    for name, count in counts.items():
        print(f"  {count:>6}  {name}")
    calls = sum(count for name, count in counts.items() if name.startswith("calls of"))
    return f"{calls} calls, {sum(1 for name in counts if not name.startswith('calls of'))} deep states reached"


def _branches(lcov: str) -> tuple[int, list[str]]:
    """How many branches src/ has, and those never taken as file:line."""
    count, missed, file = 0, [], ""
    for line in lcov.splitlines():
        if line.startswith("SF:"):
            file = line[3:]
        elif line.startswith("BRDA:") and file.startswith("src/"):
            at, _, path, hits = line[5:].split(",")
            count += 1
            if hits in UNTAKEN:
                missed.append(f"{file}:{at} (path {path})")
    return count, missed


STEPS: dict[str, Callable[[Tools], str]] = {
    "slither": slither,
    "halmos": halmos,
    "coverage": coverage,
    "states": states,
    "mutants": contracts_mutants.main,
}


def main() -> None:
    """Run one step or all; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*STEPS, "all"])
    chosen = parser.parse_args().step
    tools = find_tools()
    for name in STEPS if chosen == "all" else [chosen]:
        begin = time.monotonic()
        said = STEPS[name](tools)
        print(f"{name}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
