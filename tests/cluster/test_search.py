"""A search that stops a trial: the master changes the trial's state, and tells the trial nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_fit_is_stopped(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", data=PERIODS, trial={"stops_at": STOPS_AT})
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
    trial = submit(tmp_path / "trial", script(**TRAINER), trial={"stops_at": STOPS_AT})
    assert_ended_well(trial)
    hooks = ("on_train_epoch_end", "on_train_end", "on_fit_end")
    assert lightning["calls"][-3:] == [(name, STOPS_AT) for name in hooks]
    assert_same(trial.results(), lightning)
    assert list(trial.master.checkpoints)[-1] == STOPS_AT
    assert trial.master.metrics("test")[STOPS_AT] == lightning["tested"][0]
    assert len(re.findall(LINE.format(STOPS_AT), trial.log)) == 1


def test_two_processes_stop_at_the_same_batch(tmp_path: Path) -> None:
    entrypoint = "python3 -m determined.launch.torch_distributed python3 call.py"
    trial = submit(tmp_path, entrypoint, slots=2, data=PERIODS, trial={"stops_at": 4})
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
