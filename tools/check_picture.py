"""Draws ``docs/check.svg``: what ``python -m lightning_shim check`` prints, as a terminal shows it.

``python tools/check_picture.py`` runs the README's command and draws; ``tests/docs/test_readme.py`` says when it has
to be drawn again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Final

from lightning_shim.members.member import Support

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "check.svg"
TARGET: Final = "examples/check/model.py:LitClassifier"

COLUMNS: Final = 120
_COLOURS: Final = {
    Support.REFUSED: "#ff7b72",
    Support.IGNORED: "#e3b341",
    Support.BACKED: "#7ee787",
    Support.CALLED: "#7ee787",
    Support.NATIVE: "#7ee787",
}
# In pixels. A monospaced letter of this size is 7.8 wide in the fonts named below; textLength makes it so in any other.
_FONT_SIZE, _LETTER, _LINE, _MARGIN = 13, 7.8, 18, 16


def printed() -> str:
    """Runs the check.

    Returns:
        What it prints.
    """
    command = [sys.executable, "-m", "lightning_shim", "check", TARGET]
    environment = os.environ | {"COLUMNS": str(COLUMNS)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout


def check_picture(text: str) -> str:
    """Draws a text as a terminal shows it, with the words for support in colour.

    Args:
        text: What was printed.

    Returns:
        The picture, in SVG.
    """
    lines = [f"$ python -m lightning_shim check {TARGET}", "", *text.rstrip().splitlines()]
    width = 2 * _MARGIN + COLUMNS * _LETTER
    height = 2 * _MARGIN + len(lines) * _LINE
    elements = [_line(number, line) for number, line in enumerate(lines, start=1) if line]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" xml:space="preserve"'
            f' font-family="Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="{_FONT_SIZE}" fill="#e6edf3">',
            f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117"/>',
            *elements,
            "</svg>\n",
        ]
    )


def _line(number: int, line: str) -> str:
    content = escape(line)
    # The word stands between the spaces of its column, where no sentence has two of them.
    for support, colour in _COLOURS.items():
        word = f"  {support.value}  "
        content = content.replace(word, f'  <tspan fill="{colour}">{support.value}</tspan>  ', 1)
    place = f'x="{_MARGIN}" y="{_MARGIN + number * _LINE - 5}" textLength="{len(line) * _LETTER:.1f}"'
    return f"<text {place}>{content}</text>"


if __name__ == "__main__":
    PICTURE.write_text(check_picture(printed()), encoding="utf-8")
