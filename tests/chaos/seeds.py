"""`python -m tests.chaos.seeds`: twenty random campaigns against the settlement path, their figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random

from benchmarks.machine import machine
from tests.chaos.campaign import Campaign
from tests.chaos.field import Bill, Range, behind_a_gateway, open_range, prepare_hub

from fedgpu_lab.audit import audit
from fedgpu_lab.world import Lab, MemberSpec

TENANTS = 4
RESULTS = Path("benchmarks/results/chaos-settlement.json")
BEHIND_A_GATEWAY = Path("benchmarks/results/chaos-gateway.json")


def main() -> int:
    """Run the campaigns on two ranges at once; exit code 1 when a single µUSD was lost or paid twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many campaigns")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--gateway", action="store_true", help="put a gateway between the settlers and their chains")
    parser.add_argument("--out", type=Path, help="where the figures go")
    parser.add_argument("--folder", type=Path, help="a new folder for chains, ledgers and the settlers' logs, kept")
    asked = parser.parse_args()
    begin, where = time.monotonic(), machine()
    queue: SimpleQueue[int] = SimpleQueue()
    for seed in range(asked.first, asked.first + asked.seeds):
        queue.put(seed)
    with open_ranges(asked.folder, gateway=asked.gateway) as ranges, ThreadPoolExecutor() as pool:
        rows = [row for part in pool.map(lambda each: list(work(each, queue)), ranges) for row in part]
    total: Counter[str] = Counter()
    for row in rows:
        total.update({key: value for key, value in row.items() if type(value) is int and key != "seed"})
    failed = [row for row in rows if row["failure"]]
    figures = {
        "machine": where,
        "seconds": round(time.monotonic() - begin, 1),
        "campaigns": len(rows),
        "total": dict(sorted(total.items())),
        "failed": failed,
        "seeds": sorted(rows, key=lambda row: int(str(row["seed"]))),
    }
    (asked.out or (BEHIND_A_GATEWAY if asked.gateway else RESULTS)).write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(json.dumps({key: figures[key] for key in ("seconds", "campaigns", "total", "failed")}) + "\n")
    return 1 if failed else 0


@contextmanager
def open_ranges(kept: Path | None, *, gateway: bool) -> Iterator[Sequence[Range]]:
    """Two ranges, each with a hub and a chain of its own, and nothing billed yet."""
    with (
        nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="fedgpu-chaos-") as folder,
        Lab([MemberSpec("other")]) as lab,
        ExitStack() as stack,
    ):
        Path(folder).mkdir(exist_ok=True)
        hubs = lab.hub, lab.members["other"]
        for hub in hubs:
            prepare_hub(hub)
        made = [
            stack.enter_context(open_range(hub, Path(folder) / hub.name, tenants=TENANTS, usage=())) for hub in hubs
        ]
        for each in made if gateway else ():
            stack.enter_context(behind_a_gateway(each))
        yield made


def work(field: Range, queue: SimpleQueue[int]) -> Iterator[dict[str, object]]:
    """Campaigns on one range, as long as there are seeds."""
    while True:
        try:
            seed = queue.get_nowait()
        except Empty:
            return
        yield fight(field, seed)


def fight(field: Range, seed: int) -> dict[str, object]:
    """One campaign and its verdict; `failure` is empty where everybody has exactly what the books say."""
    field.restore()
    field.bill = Bill(field.bill.tenants)
    campaign, begin, failure = Campaign(field, Random(seed)), time.monotonic(), ""
    try:
        campaign.run()
        found = field.judge(epochs=None)
        campaign.counts["owed to winners of bonds, units"] = found.owed
    except (AssertionError, TimeoutError) as error:
        failure = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - begin, 1)
    sys.stdout.write(f"seed {seed}: {seconds} s, {dict(campaign.counts)} {failure}\n")
    sys.stdout.flush()
    return {"seed": seed, "seconds": seconds, **verdict(field), **campaign.counts, "failure": failure}


def verdict(field: Range) -> dict[str, object]:
    """What providers had to get, what they got, and the differences, in µUSD."""
    found = audit(field.chain.rpc_url, field.deployment.token, field.deployment.escrow)
    due: Counter[str] = Counter()
    for (_, provider), amount in field.bill.owed.items():
        due[provider.lower()] += amount
    apart = {who: found.paid_to.get(who, 0) - due[who] for who in {*due, *found.paid_to}}
    return {
        "due": sum(due.values()),
        "paid": sum(found.paid_to.values()),
        "lost": -sum(each for each in apart.values() if each < 0),
        "doubled": sum(each for each in apart.values() if each > 0),
        "conserved": found.conserved,
    }


if __name__ == "__main__":
    sys.exit(main())
