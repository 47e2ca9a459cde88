"""A search that stops a trial: the master changes the trial's state, and tells the trial nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import search
from tests.cluster.submission import EPOCH_LENGTH, by_lightning, script, submit
from tests.cluster.trial import assert_ended_well
from tests.parity.oracle import assert_same

pytestmark = pytest.mark.xdist_group("search")

LENGTH = 3 * EPOCH_LENGTH
# Within the second epoch.
STOPS_AT = 8
PERIODS = {"validation_period": ["batches", 4], "reporting_period": ["batches", 1], "max_length": ["epochs", 3]}
TRAINER = {"max_epochs": 3, "val_check_interval": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
LINE = r"stopped early by the search, after \d epochs?, {} batches"


def stops_at(batches: int) -> Callable[[Mapping[str, Any]], bool]:
    """Has the search stop a trial after the validation of a batch."""
    return lambda metrics: bool(metrics["batches"] >= batches)


def test_fit_is_stopped(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", data=PERIODS, trial={"stops": stops_at(STOPS_AT)})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("validation")) == [4, STOPS_AT]
    assert sorted(trial.master.metrics("training")) == list(range(1, STOPS_AT + 1))
    assert list(trial.master.checkpoints)[-1] == STOPS_AT
    # That would have the master start it again.
    assert not trial.master.run.acknowledged
    assert trial.results()["is_complete"]
    assert len(re.findall(LINE.format(STOPS_AT), trial.log)) == 1
    # Once before training, and once after each validation.
    states = [request for request in trial.master.requests if request.route == "/api/v1/trials/<trial>"]
    assert len(states) == 3


def test_script_is_stopped_as_lightning_stops(tmp_path: Path) -> None:
    """By a callback that sets ``trainer.should_stop`` in that validation."""
    lightning = by_lightning(tmp_path / "lightning", stops_at=STOPS_AT, **TRAINER)
    (tmp_path / "trial").mkdir()
    trial = submit(tmp_path / "trial", script(**TRAINER), trial={"stops": stops_at(STOPS_AT)})
    assert_ended_well(trial)
    hooks = ("on_train_epoch_end", "on_train_end", "on_fit_end")
    assert lightning["calls"][-3:] == [(name, STOPS_AT) for name in hooks]
    assert_same(trial.results(), lightning)
    assert list(trial.master.checkpoints)[-1] == STOPS_AT
    assert trial.master.metrics("test")[STOPS_AT] == lightning["tested"][0]
    assert len(re.findall(LINE.format(STOPS_AT), trial.log)) == 1


def test_two_processes_stop_at_the_same_batch(tmp_path: Path) -> None:
    entrypoint = "python3 -m determined.launch.torch_distributed python3 call.py"
    trial = submit(tmp_path, entrypoint, slots=2, data=PERIODS, trial={"stops": stops_at(4)})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("training")) == [1, 2, 3, 4]
    assert list(trial.master.checkpoints)[-1] == 4
    assert_same(trial.results(0), trial.results(1))
    assert trial.results(1)["calls"][-1] == ("on_fit_end", 4)
    assert len(re.findall(LINE.format(4), trial.log)) == 1


def test_master_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", data=PERIODS, trial={"is_ill": True})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("training")) == list(range(1, LENGTH + 1))
    assert trial.log.count("the master does not say whether the search goes on") == 1


def test_stand_in_compares_trials_as_the_master_does() -> None:
    """Of sixteen trials and five epochs, eleven are compared after the first epoch, and five with none."""
    searcher = {
        "metric": "accuracy",
        "smaller_is_better": False,
        "max_trials": 16,
        "time_metric": "epochs",
        "max_time": 5,
    }
    trials = search.trials(searcher)
    accuracies = [0.5, 0.4, 0.6, 0.55, 0.7, 0.1, 0.2, 0.65, 0.68, 0.3, 0.69, *[0.0] * 5]
    stopped = [stops({"accuracy": accuracy, "epochs": 1}) for stops, accuracy in zip(trials, accuracies, strict=True)]
    # The best so far go on, and from the eighth on the best two: a quarter.
    assert [number for number, is_stopped in enumerate(stopped) if not is_stopped] == [
        0,
        2,
        4,
        7,
        8,
        10,
        *range(11, 16),
    ]
    assert not trials[0]({"accuracy": 0.0, "epochs": 4})
    assert trials[0]({"accuracy": 1.0, "epochs": 5})
