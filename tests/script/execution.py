"""Runs scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.prepared_python import python

SCRIPTS = Path(__file__).parent / "scripts"
RUN = ("-m", "lightning_shim", "run")


def execute(folder: Path, *command: str, exit_code: int = 0, executable: str | None = None) -> str:
    """Runs Python in a folder of its own, and returns what it has printed.

    Args:
        folder: The folder, which is made.
        *command: Python's arguments.
        exit_code: The expected exit code.
        executable: The Python, if it is not to be the prepared one.
    """
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [executable or python(), *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == exit_code, process.stdout + process.stderr
    return process.stdout + process.stderr
