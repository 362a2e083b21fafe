"""What the lab gives to containers: images written from files, and a runtime that asks for no more than there is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from fedgpu_lab import runtime
from fedgpu_lab.layers import write_archive


def read(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    assert file is not None
    return json.load(file)


def test_an_image_of_one_layer_holds_its_files_and_no_time_or_owner(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    archives = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for archive in archives:
        write_archive(archive, "work:1", {"/bin/work": program, "/etc/name": b"work"}, entrypoint=["/bin/work"])
        program.touch()
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as whole:
        (manifest,) = read(whole, "manifest.json")
        assert manifest["RepoTags"] == ["work:1"]
        config = read(whole, manifest["Config"])
        assert config["config"]["Entrypoint"] == ["/bin/work"]
        with tarfile.open(fileobj=whole.extractfile(manifest["Layers"][0])) as layer:
            entries = {entry.name: entry for entry in layer}
    assert entries.keys() == {"bin", "bin/work", "etc", "etc/name"}
    assert {(entry.mtime, entry.uid, entry.mode) for entry in entries.values()} == {(0, 0, 0o755)}


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
