"""Scripts of all kinds as managed trials that are paused within an epoch: the results are Lightning's."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster import trial as trials
from tests.cluster.trial import Trial, assert_ended_well
from tests.parity.oracle import assert_same
from tests.script.conftest import ByPython
from tests.script.execution import RUN, SCRIPTS

pytestmark = pytest.mark.xdist_group("scripts")

CONFIG = """
trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1}
stopping: {patience: 1}
"""


@dataclass(frozen=True)
class Case:
    """A script and what Lightning and the trial run it with.

    Attributes:
        command: The script and its arguments.
        pause: The report after which the trial is paused.
        paused_at: The batches that are trained by then.
        reported: What is reported for the last batch, by group.
        searched: The trial's hyperparameters.
        instead: The arguments by which Lightning has them.
    """

    command: tuple[str, ...]
    pause: int
    paused_at: int
    reported: dict[str, set[str]]
    searched: dict[str, Any]
    instead: tuple[str, ...] = ()


CASES = {
    "plain": Case(("plain.py",), 1, 5, {"training": {"train_loss"}, "validation": {"val_loss"}}, {"hidden": 8}),
    "gan": Case(("gan.py",), 3, 3, {"training": {"generator", "discriminator"}}, {}),
    "loggers": Case(("loggers.py", "5"), 4, 9, {"validation": {"val_loss"}}, {}),
    "cli": Case(
        ("cli.py", "fit", "--config", "config.yaml", "--model.hidden=3"),
        13,
        13,
        {"training": {"train_loss"}, "validation": {"val_loss"}},
        {"model": {"hidden": 6}, "learning_rate": 0.01},
        ("--model.hidden=6", "--model.learning_rate=0.01"),
    ),
}


@dataclass(frozen=True)
class Ran:
    """A case that has run both ways."""

    case: Case
    trial: Trial
    lightning: Path

    def results(self) -> tuple[Any, Any]:
        ours, theirs = (folder / "results.pt" for folder in (self.trial.outcomes[-1].folder, self.lightning))
        return torch.load(ours, weights_only=False), torch.load(theirs, weights_only=False)


@pytest.fixture(scope="module")
def run_both_ways(tmp_path_factory: pytest.TempPathFactory, by_python: ByPython) -> Callable[[str], Ran]:
    """Gives a function that runs a case once, in whatever order pytest puts the tests of single cases."""
    return functools.cache(lambda name: _run(CASES[name], tmp_path_factory.mktemp(name), by_python))


@pytest.fixture(params=CASES)
def ran(request: pytest.FixtureRequest, run_both_ways: Callable[[str], Ran]) -> Ran:
    return run_both_ways(request.param)


def _run(case: Case, folder: Path, by_python: ByPython) -> Ran:
    context = {file.name: file.read_text() for file in SCRIPTS.glob("*.py")} | {"config.yaml": CONFIG}
    (folder / "config.yaml").write_text(CONFIG)
    script, *arguments = case.command
    arguments = [str(folder / argument) if argument in context else argument for argument in arguments]
    lightning = by_python(script, *arguments, *case.instead)
    configuration = {
        "name": "a script",
        "entrypoint": " ".join(("python3", *RUN, *case.command)),
        "hyperparameters": case.searched,
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
    }
    (folder / "trial").mkdir()
    return Ran(case, trials.run_trial(folder / "trial", configuration, context, pauses=(case.pause,)), lightning)


def logged(folder: Path) -> list[dict[str, str]]:
    """Returns what Lightning's CSVLogger has written, without what it leaves empty."""
    with (folder / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_is_paused_within_an_epoch(ran: Ran) -> None:
    assert_ended_well(ran.trial)
    assert [run.acknowledged for run in ran.trial.master.runs] == [True, False]
    assert [run.steps_completed for run in ran.trial.master.runs] == [0, ran.case.paused_at]


def test_results_are_lightnings(ran: Ran) -> None:
    assert_same(*ran.results())


@pytest.mark.parametrize("ran", ["plain", "gan"], indirect=True)
def test_progress_bar_is_not_in_the_log(ran: Ran) -> None:
    """Neither Lightning's default one nor one that the script has given."""
    assert "it/s" not in ran.trial.log


def test_metrics_are_reported(ran: Ran) -> None:
    for group, names in ran.case.reported.items():
        metrics = ran.trial.master.metrics(group)
        assert names <= metrics[max(metrics)].keys()


@pytest.mark.parametrize("ran", ["loggers"], indirect=True)
def test_loggers_get_before_and_after_the_pause_what_they_would_get(ran: Ran) -> None:
    ours = [row for outcome in ran.trial.outcomes for row in logged(outcome.folder)]
    assert ours == logged(ran.lightning)


@pytest.mark.parametrize("ran", ["plain"], indirect=True)
def test_what_is_evaluated_after_fit_is_recorded(ran: Ran) -> None:
    _, results = ran.results()
    master, steps = ran.trial.master, results["step"]
    for group, name in {"test": "test", "test_2": "best", "validate": "validate"}.items():
        [expected] = results[name]
        assert master.metrics(group) == {steps: expected}
        assert master.runs[0].metrics.get(group) is None
