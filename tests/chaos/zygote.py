"""Processes that have their imports done: a zygote forks one for each shot, waits for it, and tells how it ended."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos.child import Site, run
from tests.chaos.faults import Fault, Mode

ROOT = Path(__file__).resolve().parents[2]


class Zygote:
    """The parent's side: starts children and waits for them; `with` ends the process that forks them."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.zygote"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
            )

    def close(self) -> None:
        """End it; its children have ended before, or end with it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def start(self, site: Site, faults: tuple[Fault, ...] = (), passes: int = 40) -> int:
        """Fork a child that makes at most so many passes; its process id."""
        return int(self._ask({"site": asdict(site), "faults": [asdict(f) for f in faults], "passes": passes}))

    def wait(self, pid: int, timeout: float) -> int:
        """How the child ended or stopped: its exit code, or a negative signal; TimeoutError when it did neither."""
        return int(self._ask({"wait": pid}, timeout))

    def _ask(self, question: dict[str, object], timeout: float = 30.0) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], timeout)[0]:
            raise TimeoutError(f"no end of {question} within {timeout:.0f} s")
        answer = stdout.readline()
        assert answer, "the zygote has ended"
        return answer


def serve() -> None:
    """Fork on demand until the parent closes the pipe."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], os.WUNTRACED)
            ended = -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
            _say(ended)
            continue
        pid = os.fork()
        if not pid:
            _live(asked)
        _say(pid)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _live(asked: dict[str, Any]) -> NoReturn:
    """A child's whole life; it never returns into the loop of its parent."""
    code = 1
    try:
        os.dup2(2, 1)
        logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s: %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        faults = tuple(Fault(each["point"], Mode(each["mode"]), each["nth"]) for each in asked["faults"])
        run(Site(**asked["site"]), faults, asked["passes"])
        code = 0
    except Exception:  # noqa: BLE001  # the only way in which a forked process can say why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
