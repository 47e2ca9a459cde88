"""Finds lines of a test file by a comment at their end, to compare them with what a message says."""

from __future__ import annotations

from pathlib import Path


def place_in(file: Path, marker: str) -> str:
    """Returns the place of a line as messages give it: ``file:line``.

    Args:
        file: The test file.
        marker: The line is the one that ends in ``# here: marker``.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    (line,) = [number for number, text in enumerate(lines, start=1) if text.endswith(f"# here: {marker}")]
    return f"{file}:{line}"
