"""Measures, prints tables, and writes a picture and all numbers: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.contestants import CONTESTANTS, silence
from benchmarks.costs import measure_costs
from benchmarks.measurement import Result, Setting, measure
from benchmarks.models import SUBJECTS
from benchmarks.picture import draw

LOGS = (0, 1, 5, 20)
ROUNDS = 7


@contextlib.contextmanager
def _scratch_folder() -> Iterator[None]:
    """Keeps what a trial writes, checkpoints above all, out of the working directory, and quiet."""
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as data:
        previous = os.getcwd()
        os.environ["XDG_DATA_HOME"] = data
        os.chdir(work)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            os.chdir(previous)


def _rows(results: Sequence[Result]) -> list[list[object]]:
    """Makes a row for each setting: what each contestant's step costs, and the ratios."""
    rows = []
    for _, group in itertools.groupby(results, key=lambda result: (result.stage, result.subject, result.logs)):
        entries = {result.contestant: result for result in group}
        first = next(iter(entries.values()))
        plain, hand_written, ours, lightning = (
            entries[name] for name in ("plain loop", "PyTorchTrial", "LightningTrial", "pl.Trainer")
        )
        rows.append(
            [
                first.stage,
                first.subject,
                first.logs,
                *(f"{entry.microseconds:.1f}" for entry in entries.values()),
                f"{ours.ratio_to(plain):.2f}",
                f"{ours.ratio_to(hand_written):.2f}",
                f"{ours.ratio_to(hand_written, with_reports=True):.2f}",
                f"{lightning.ratio_to(ours):.1f}",
            ]
        )
    return rows


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="run everything once and briefly; the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"), metavar="DIR", help="where to write")
    options = parser.parse_args()
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    silence()
    rounds, logs = (1, (0, 2)) if options.smoke else (ROUNDS, LOGS)
    results: list[Result] = []
    for validates, subject, number in itertools.product((False, True), SUBJECTS, logs):
        with _scratch_folder():
            setting = Setting(subject, number, validates)
            results += measure(setting, rounds, 5 if options.smoke else subject.steps)
        print(".", end="", flush=True)
    print()
    with _scratch_folder():
        costs = measure_costs(options.smoke)
    headers = ["stage", "model", "logs", *CONTESTANTS, "c/a", "c/b", "c/b, reports too", "d/c"]
    tables = [
        "Microseconds of a step: medians over rounds of the medians over a round's steps. Ratios: medians over rounds.",
        tabulate(_rows(results), headers, tablefmt="github"),
        tabulate([[name, f"{value:,.1f}"] for name, value in costs.items()], ["else", ""], tablefmt="github"),
    ]
    print("\n\n".join(tables))
    (output / "results.txt").write_text("\n\n".join(tables) + "\n")
    machine = {name: version(name) for name in ("torch", "pytorch-lightning", "determined")}
    (output / "results.json").write_text(
        json.dumps(
            {
                "python": platform.python_version(),
                "versions": machine,
                "results": [result.as_dict() for result in results],
                "costs": costs,
            },
            indent=2,
        )
    )
    draw(results, output / "results.png")


if __name__ == "__main__":
    main()
