"""Files of one machine on others, with two processes on each."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.torchrun import run_on_machines


def test_each_machine_gets_a_file_once(tmp_path: Path) -> None:
    """In chunks that do not divide its length; and what cannot be written there is said."""
    disks = [tmp_path / "a", tmp_path / "b"]
    for disk in disks:
        disk.mkdir()
    finished = run_on_machines(Path(__file__).with_name("sharing.py"), disks, str(tmp_path), processes=2)
    assert [each.returncode for each in finished] == [0, 0], finished
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    for rank, each in enumerate(found):
        assert each["long"] == "0123456789"
        assert each["empty"] == ""
        assert each["there"] == (["new", "new"] if rank < 2 else ["old", "new"])
        assert each["rest"] == []
    # One process writes, and nothing is sent that is there; with `replaces`, only what differs.
    names = [f"{name}.part" for name in ("long", "empty", "there")]
    assert [each["written"] for each in found] == [[], [], names, []]
    assert finished[0].stdout.count("file/inside of rank 0's machine is not on machine 1: ") == 1
    assert finished[1].stdout == ""
