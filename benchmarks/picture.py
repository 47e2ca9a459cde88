"""Draws the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.measurement import Result

matplotlib.use("Agg")


def draw(results: Sequence[Result], path: Path) -> None:
    """Draws what a step costs against the values logged in it: a row for each stage, a column for each model.

    Args:
        results: What was measured.
        path: The picture to write.
    """
    stages = list(dict.fromkeys(result.stage for result in results))
    subjects = list(dict.fromkeys(result.subject for result in results))
    figure = Figure(figsize=(4 * len(subjects), 3.2 * len(stages)), layout="constrained")
    grid = figure.subplots(len(stages), len(subjects), squeeze=False)
    for row, stage in enumerate(stages):
        for column, subject in enumerate(subjects):
            axes = grid[row][column]
            shown = [result for result in results if (result.stage, result.subject) == (stage, subject)]
            for contestant in dict.fromkeys(result.contestant for result in shown):
                points = [result for result in shown if result.contestant == contestant]
                axes.plot(
                    [point.logs for point in points],
                    [point.microseconds for point in points],
                    marker="o",
                    label=contestant,
                )
            axes.set(title=f"{subject}, {stage}", xlabel="values logged in a step", ylabel="microseconds", yscale="log")
            axes.grid(alpha=0.3)
    grid[0][0].legend()
    figure.savefig(path, dpi=120)
