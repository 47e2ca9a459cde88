"""The benchmark's command runs, whatever it measures; the picture shows what its page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.repository import REPOSITORY
from tools import benchmark_picture


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


def test_picture_shows_what_was_measured(tmp_path: Path) -> None:
    picture = tmp_path / "benchmark.svg"
    microseconds = benchmark_picture.measured((REPOSITORY / "benchmarks" / "README.md").read_text())
    benchmark_picture.draw(microseconds, picture)
    drawn, kept = (
        re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text()) for file in (picture, benchmark_picture.PICTURE)
    )
    assert drawn == kept, "docs/benchmark.svg is out of date; draw it again with: python tools/benchmark_picture.py"
    shown = [microseconds[logs, name] for logs in benchmark_picture.LOGS for name in benchmark_picture.CONTESTANTS]
    assert len(shown) == 8
    assert {f"{each:.0f}" for each in shown} <= set(drawn)
