"""Runs scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.prepared_python import python

SCRIPTS = Path(__file__).parent / "scripts"
RUN = ("-m", "lightning_shim", "run")


def execute(folder: Path, *command: str, exit_code: int = 0) -> str:
    """Runs Python in a folder of its own, and returns what it has printed."""
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [python(), *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == exit_code, process.stdout + process.stderr
    return process.stdout + process.stderr
