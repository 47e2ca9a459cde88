"""Draws ``docs/benchmark.svg`` from the first table of ``benchmarks/README.md``.

``python tools/benchmark_picture.py`` draws it, and needs the extra ``benchmarks``;
``tests/benchmarks/test_command.py`` says when it has to be drawn again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.figure import Figure

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "benchmark.svg"

CONTESTANTS: Final = ("plain loop", "PyTorchTrial", "LightningTrial", "pl.Trainer")
LOGS: Final = ("0", "5")

_COLOURS: Final = {"LightningTrial": "#7c3aed"}
_OTHERS: Final = "#b8bfc9"


def measured(page: str) -> dict[tuple[str, str], float]:
    """Reads what a training step of the linear layer took.

    Args:
        page: The text of ``benchmarks/README.md``.

    Returns:
        Microseconds, by the number of logged values and the contestant.
    """
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    headers = next(row for row in rows if row[0] == "stage")
    steps = [dict(zip(headers, row, strict=True)) for row in rows if row[:2] == ["training", "linear"]]
    return {(step["logs"], name): float(step[name]) for step in steps for name in CONTESTANTS}


def draw(microseconds: dict[tuple[str, str], float], path: Path) -> None:
    """Draws bars: a panel for each number of logged values, a bar for each contestant.

    Args:
        microseconds: What :func:`measured` returns.
        path: The picture to write.
    """
    # Text stays text, and nothing depends on the time of drawing.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 2.4), layout="constrained", facecolor="white")
        figure.suptitle("A training step of one linear layer, where all is overhead (microseconds, one CPU thread)")
        for axes, logs in zip(figure.subplots(1, len(LOGS)), LOGS, strict=True):
            values = [microseconds[logs, name] for name in CONTESTANTS]
            colours = [_COLOURS.get(name, _OTHERS) for name in CONTESTANTS]
            axes.bar_label(axes.barh(CONTESTANTS, values, color=colours), fmt="%.0f", padding=3)
            axes.set_title("no self.log call" if logs == "0" else f"{logs} self.log calls", fontsize=10)
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.spines[:].set_visible(False)
            axes.tick_params(left=False, bottom=False, labelbottom=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(measured((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")), PICTURE)
