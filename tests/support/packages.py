"""Packages that cannot stand beside the others in one environment, installed into a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def install(folder: Path, *requirements: str) -> None:
    """Installs packages, without what they need.

    Args:
        folder: The folder, for the ``PYTHONPATH`` of a process that uses them.
        *requirements: The packages with their versions.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), *requirements], check=True)
