"""What the lab gives to containers: a runtime that asks for no more than there is."""

from __future__ import annotations

import json
from pathlib import Path

from fedgpu_lab import runtime


def test_the_runtime_drops_the_capability_of_a_bundle_and_of_an_exec(tmp_path: Path) -> None:
    process = {
        "args": ["sh"],
        "capabilities": {"bounding": ["CAP_KILL", "CAP_SYS_RESOURCE"], "effective": ["CAP_KILL"]},
    }
    (tmp_path / "config.json").write_text(json.dumps({"hostname": "node", "process": process}))
    (tmp_path / "process.json").write_text(json.dumps(process))
    runtime.rewrite(["create", "--bundle", str(tmp_path), "--pid-file", "pid", "id"])
    runtime.rewrite(["exec", "--process", str(tmp_path / "process.json"), "id"])
    expected = {"args": ["sh"], "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}}
    assert json.loads((tmp_path / "config.json").read_text()) == {"hostname": "node", "process": expected}
    assert json.loads((tmp_path / "process.json").read_text()) == expected


def test_a_machine_that_may_give_the_capability_is_recognized() -> None:
    assert runtime.bounded("Name:\tsh\nCapBnd:\t000001ffffffffff\n")
    assert not runtime.bounded("Name:\tsh\nCapBnd:\t000001fffeffffff\n")
