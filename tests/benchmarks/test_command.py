"""The benchmark's command runs; what it measures is nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.repository import REPOSITORY


def test_the_command_prints_a_table_and_writes_a_picture_and_numbers(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "--output", str(tmp_path / "output")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "| validation | transformer |" in process.stdout
    assert (tmp_path / "output" / "results.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "output" / "results.json").read_text())
    contestants = {result["contestant"] for result in written["results"]}
    assert contestants == {"plain loop", "PyTorchTrial", "LightningTrial", "pl.Trainer", "floor"}
    assert all(result["microseconds"] > 0 for result in written["results"])
    assert sorted(os.listdir(tmp_path)) == ["output"], "it leaves files where it is run"
