"""Scripts as the entrypoint of an experiment, with the stand-in for the master."""

from __future__ import annotations

import re
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

ENTRYPOINT = f"python3 {' '.join(RUN)} searched.py"
SEARCHED = {"hidden": 8, "learning_rate": 0.1, "batch_size": 4}
# In the middle of an epoch, and after the validation in the middle of another one.
PAUSES = (7, 15)


def submit(folder: Path, entrypoint: str, pauses: tuple[int, ...] = (), slots: int = 1, **hparams: Any) -> Trial:
    configuration = {
        "name": "a script",
        "entrypoint": entrypoint,
        "hyperparameters": {name: {"type": "const", "val": value} for name, value in hparams.items()},
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
        "resources": {"slots_per_trial": slots},
    }
    context = {"searched.py": (SCRIPTS / "searched.py").read_text()}
    return trials.run_trial(folder, configuration, context, pauses=pauses)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return submit(tmp_path_factory.mktemp("trial"), ENTRYPOINT, PAUSES, unknown=1, **SEARCHED)


@pytest.fixture(scope="module")
def expected(by_python: ByPython) -> dict[str, Any]:
    results: dict[str, Any] = torch.load(by_python("searched.py", "searched") / "results-0.pt", weights_only=False)
    return results


class TestSearched:
    def test_ends_well(self, trial: Trial) -> None:
        assert_ended_well(trial)
        assert [run.acknowledged for run in trial.master.runs] == [True, True, False]
        assert [run.steps_completed for run in trial.master.runs] == [0, *PAUSES]

    def test_results_are_lightnings_with_those_hyperparameters(self, trial: Trial, expected: dict[str, Any]) -> None:
        assert expected["hparams"] == {"hidden": 8, "learning_rate": 0.1, "weight_decay": 0.0}
        assert_same(trial.results(), expected)

    def test_log_says_what_is_overridden(self, trial: Trial) -> None:
        lines = SCRIPTS.joinpath("searched.py").read_text().splitlines()
        found = re.findall(r"searched\.py:(\d+): (\w+) gets the trial's (\w+=\S+) instead of (\S+)\.$", trial.log, re.M)
        assert {(owner, value, instead) for _, owner, value, instead in found} == {
            ("LitData", "batch_size=4", "8"),
            ("LitModel", "hidden=8", "6"),
            ("LitModel", "learning_rate=0.1", "0.5"),
        }
        assert len(found) == 3 * len(trial.outcomes)
        assert all(owner in lines[int(line) - 1] for line, owner, *_ in found)

    def test_warns_of_a_hyperparameter_that_nobody_takes(self, trial: Trial) -> None:
        assert re.search(r"searched\.py:\d+: HyperparameterWarning: The hyperparameters unknown have no", trial.log)

    def test_metrics_are_reported(self, trial: Trial, expected: dict[str, Any]) -> None:
        training, validation = trial.master.metrics("training"), trial.master.metrics("validation")
        assert sorted(training) == list(range(1, 31))
        assert sorted(validation) == [5, 10, 15, 20, 25, 30]
        assert validation[30]["val_loss"] == float(expected["metrics"]["val_loss"])
        assert training[30]["train_loss_epoch"] == float(expected["metrics"]["train_loss_epoch"])

    def test_profilers_report_is_in_the_checkpoint_that_a_run_ends_with(self, trial: Trial) -> None:
        for run, outcome in zip(trial.master.runs, trial.outcomes, strict=True):
            *others, last = (trial.storage / name / "profiler_report.txt" for name in run.checkpoints.values())
            report = last.read_text()
            assert "run_training_batch" in report
            assert report in outcome.log
            assert not any(file.exists() for file in others)

    def test_checkpoint_is_lightnings(self, trial: Trial, expected: dict[str, Any]) -> None:
        checkpoint = trial.checkpoint(30)
        assert_same(checkpoint["state_dict"], expected["weights"])
        assert checkpoint["hyper_parameters"] == expected["hparams"]


def test_two_processes(tmp_path: Path, by_python: ByPython) -> None:
    entrypoint = f"python3 -m determined.launch.torch_distributed {ENTRYPOINT} several searched"
    trial = submit(tmp_path, entrypoint, pauses=(4,), slots=2)
    assert_ended_well(trial)
    lightning = by_python("searched.py", "several", "searched")
    for rank in (0, 1):
        expected = torch.load(lightning / f"results-{rank}.pt", weights_only=False)
        assert_same(trial.results(rank), expected, f"rank {rank}")
        assert [each["is_global_zero"] for each in expected["processes"]] == [rank == 0] * 2
