"""`python -m tests.soak MINUTES`: real time in the lab with settlement on, and whether anything grows meanwhile.

    python -m tests.soak          an hour, into benchmarks/results/soak.json and docs/images/soak.svg
    python -m tests.soak 3        three minutes, too short to judge more than that it works
    python -m tests.soak --render the picture and the docs' table from the file, again

Hub, two members and a chain are real; jobs of 20 to 60 seconds come at about 20 a minute and go by
`ttlSecondsAfterFinished`, the ledger is archived every few minutes, and epochs are a minute apart, as far as this
build can do these things. Every ten seconds all that could grow is counted. At the end the slope of the second half is
held against a bound for each figure (`verdict.py`), and `fedgpu ledger verify` reads the books: exit code 1 if one is
missed. Stopped early, by Ctrl-C or SIGTERM, it judges and writes what it has, and leaves nothing running.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks import page
from benchmarks.machine import machine
from tests.soak.field import Archivist, Soaking, Traffic, soaking
from tests.soak.picture import PICTURE, draw
from tests.soak.sampling import Sample, look
from tests.soak.verdict import UNJUDGED, judge, rows

RESULT: Final = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
SAMPLE_S: Final = 10.0
Document = dict[str, Any]


class Stopped(Exception):  # noqa: N818  # a wish, not a fault
    """Somebody asked for the end."""


def main() -> int:
    """Soak, judge, write; 0 if everything stayed within its bound."""
    options = _arguments()
    out, picture = Path(options.out), Path(options.picture)
    if options.render:
        document: Document = json.loads(out.read_text())
    else:
        document = run(options)
        out.write_text(json.dumps(document, indent=1) + "\n")
    say(f"\n{table(document)}\n")
    if document["samples"]:
        draw(document, picture)
    if picture == PICTURE:
        page.draw("soak", table(document))
    return 0 if document["holds"] else 1


def run(options: argparse.Namespace) -> Document:
    """The whole soak as a document, however it ends."""
    samples: list[Sample] = []
    document: Document = {"machine": machine(), "minutes": options.minutes, "samples": samples, "holds": False}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="fedgpu-soak-") as folder, soaking(Path(folder)) as made:
            document["features"] = made.features
            say(f"the lab is up; {told(made.features)}")
            try:
                soak(made, options, samples, Path(folder) / "archive", document)
            except Stopped:
                say("stopped early")
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            document |= ending(made, Path(folder) / "archive")
    except Stopped:
        document["notes"] = ["stopped before the lab was up"]
    document["complete"] = bool(samples) and samples[-1]["seconds"] >= 60 * options.minutes - SAMPLE_S
    findings = judge(samples)
    document["findings"] = [
        {"figure": f.figure, "slopePerHour": f.slope, "bound": f.bound, "last": f.last, "flat": f.flat}
        for f in findings
    ]
    document["holds"] = bool(findings) and all(f.flat for f in findings) and document.get("sound", False)
    return document


def soak(made: Soaking, options: argparse.Namespace, samples: list[Sample], archive: Path, document: Document) -> None:
    """Traffic and samples until the time is over, the operator dies, or somebody asks for the end (Stopped)."""
    traffic, archivist = Traffic(made, options.rate), Archivist(made, archive)
    began = time.monotonic()
    traffic.start()
    if made.features["archive"]:
        archivist.start()
    try:
        due = began
        while time.monotonic() - began < 60 * options.minutes:
            samples.append(look(made, began))
            if not made.federation.operator.alive():
                document["died"] = made.federation.operator.log.read_text()[-3000:]
                say(f"the operator died:\n{document['died']}")
                return
            if len(samples) % max(1, round(60 / SAMPLE_S)) == 1:
                say(progress(samples[-1]))
            due += SAMPLE_S
            time.sleep(max(0.0, due - time.monotonic()))
        samples.append(look(made, began))
    finally:
        traffic.stop()
        archivist.stop()
        document["archive"] = {"runs": archivist.runs, "failed": archivist.failed}


def ending(made: Soaking, archive: Path) -> Document:
    """What is judged once: the books, with their archives where there are some."""
    argv = [sys.executable, "-m", "fedgpu_operator", "ledger", "verify", "--ledger", str(made.ledger)]
    if archive.is_dir() and any(archive.iterdir()):
        argv += ["--archive", str(archive)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=made.federation.environment)
    states: dict[str, int] = {}
    for job in made.federation.hub.api.get("/apis/fedgpu.dev/v1alpha1/computejobs")["items"]:
        state = str((job.get("status") or {}).get("state", ""))
        states[state] = states.get(state, 0) + 1
    return {
        "sound": done.returncode == 0,
        "verify": (done.stdout + done.stderr)[-1500:] if done.returncode else "",
        "created": made.created,
        "refused": made.refused,
        "jobsLeft": states,
        "notes": made.notes[-20:],
    }


def progress(sample: Sample) -> str:
    """One line for whoever watches."""
    names = {
        "operator.rssMiB": "MiB",
        "operator.files": "files",
        "operator.threads": "threads",
        "hub.computejobs": "jobs",
        "hub.computeleases": "leases",
        "hub.settlementepochs": "epochs",
        "chain.claims": "claims",
        "operator.loopFailures": "failures",
    }
    words = [f"{sample[name]:.0f} {word}" for name, word in names.items() if name in sample]
    counted = f"created {sample['jobs.created']:.0f}, {rows(sample):.0f} rows"
    return f"{sample['seconds'] / 60:5.1f} min  {', '.join([counted, *words])}"


def told(features: dict[str, bool]) -> str:
    """What this build cannot do against growth."""
    missing = [name for name, there in features.items() if not there]
    return (
        f"this build has no {' and no '.join(missing)}: what that bounds will grow" if missing else "all bounds apply"
    )


def table(document: Document) -> str:
    """In Markdown, as docs/benchmarks.md shows it."""
    samples, where = document["samples"], document["machine"]
    minutes = samples[-1]["seconds"] / 60 if samples else 0
    books = "sound" if document.get("sound") else "**not sound**"
    intro = (
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}. {minutes:.0f} minutes, "
        f"{document.get('created', 0):,} jobs; {told(document.get('features', {}))}. "
        f"`fedgpu ledger verify` at the end: {books}."
    )
    lines = [intro, "", "| figure | at the end | slope of the second half, per hour | must |", "|---|--:|--:|---|"]
    for each in document["findings"]:
        mark = "" if each["flat"] else "**missed** "
        lines.append(
            f"| {each['figure']} | {each['last']:,.1f} | {each['slopePerHour']:+,.1f} | {mark}≤ {each['bound']:,.1f} |"
        )
    lines += ["", "Not judged: " + "; ".join(f"{name} ({why})" for name, why in UNJUDGED.items()) + "."]
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Stopped


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="jobs a minute")
    parser.add_argument("--out", default=str(RESULT))
    parser.add_argument("--picture", default=str(PICTURE))
    parser.add_argument("--render", action="store_true", help="draw picture and table from the file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
