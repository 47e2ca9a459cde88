"""What the experiment's configuration asks of the training, and what the code says itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.master import EXPERIMENT_ID, TRIAL_ID
from tests.cluster.submission import EPOCH_LENGTH, by_lightning, script, submit
from tests.cluster.trial import DEFAULTS, Trial, assert_ended_well
from tests.parity.oracle import assert_same

pytestmark = pytest.mark.xdist_group("configuration")

LENGTH = 2 * EPOCH_LENGTH
ASKED = {
    "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True, "max_length": {"epochs": 2}},
    "min_validation_period": {"batches": 4},
    "min_checkpoint_period": {"batches": 5},
    "checkpoint_policy": "none",
    "perform_initial_validation": True,
    "scheduling_unit": 3,
    "profiling": {"enabled": True},
}
NO_EFFECT = {
    "optimizations": {**DEFAULTS["optimizations"], "aggregation_frequency": 2, "mixed_precision": "O1"},
    "records_per_epoch": 100,
}

LINES = [
    f"training LitModel, 4 parameters, 1 process on cpu, up to 2 epochs, results in trial {TRIAL_ID} of experiment "
    f"{EXPERIMENT_ID}",
    "epoch 0, batch 0, validation",
    "epoch 0, batch 3, training",
    "epoch 0, batch 4, validation",
    "epoch 0, batch 5, checkpoint",
    "epoch 0, batch 6, training",
    "epoch 1, batch 8, validation",
    "epoch 1, batch 9, training",
    "epoch 1, batch 10, checkpoint",
    "epoch 1, batch 12, training",
    "epoch 1, batch 12, validation",
    "epoch 1, batch 12, checkpoint",
    "what was reported",
    "trained to its length, after 2 epochs, 12 batches, 12 steps",
]
"""What fit and a script say of it in the log, up to the values."""


def warnings_of(trial: Trial, file: str) -> list[str]:
    """Returns the warnings at lines of a file."""
    return re.findall(rf"{file}:\d+: DifferenceWarning: (.*)$", trial.log, re.M)


def assert_done(trial: Trial) -> None:
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("validation")) == [0, 4, 8, LENGTH]
    training = trial.master.metrics("training")
    assert [steps for steps, values in sorted(training.items()) if "train_loss" in values] == [3, 6, 9, LENGTH]
    assert list(trial.master.checkpoints) == [5, 10, LENGTH]
    assert [line.partition(":")[0] for line in re.findall(r"^lightning_shim: (.*)$", trial.log, re.M)] == LINES


def test_fit_does_what_is_asked(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", **ASKED, **NO_EFFECT)
    assert_done(trial)
    assert trial.results()["is_profiled"]
    found = warnings_of(trial, "call.py")
    assert [warning.partition(" of the experiment's configuration has no effect. ")[0] for warning in found] == [
        "optimizations.aggregation_frequency: 2",
        "optimizations.mixed_precision: O1",
        "records_per_epoch: 100",
    ]


def test_script_does_what_is_asked(tmp_path: Path) -> None:
    """As Lightning does if its Trainer is told the same."""
    told = {"max_epochs": 2, "val_check_interval": 4, "check_val_every_n_epoch": None, "log_every_n_steps": 3}
    lightning = by_lightning(tmp_path / "lightning", validates_first=True, num_sanity_val_steps=0, **told)
    (tmp_path / "trial").mkdir()
    trial = submit(tmp_path / "trial", script(num_sanity_val_steps=0, log_every_n_steps=None), **ASKED)
    assert_done(trial)
    assert lightning["calls"][0] == ("on_validation_end", 0)
    assert_same(trial.results(), {**lightning, "is_profiled": True})
    assert warnings_of(trial, "train.py") == []


def test_what_the_code_says_counts(tmp_path: Path) -> None:
    said = {
        "max_length": ["epochs", 1],
        "validation_period": ["epochs", 1],
        "checkpoint_period": ["batches", 2],
        "checkpoint_policy": "all",
    }
    trial = submit(tmp_path, "python3 call.py", data=said, **{**ASKED, "profiling": {"enabled": False}})
    assert_ended_well(trial)
    assert not trial.results()["is_profiled"]
    assert sorted(trial.master.metrics("validation")) == [0, EPOCH_LENGTH]
    assert list(trial.master.checkpoints) == [2, 4, 6]
    assert warnings_of(trial, "call.py") == [
        f"fit({said}) takes precedence over {entry} of the experiment's configuration."
        for said, entry in (
            ("max_length=Epoch(1)", "searcher.max_length: {'epochs': 2}"),
            ("validation_period=Epoch(1)", "min_validation_period: {'batches': 4}"),
            ("checkpoint_period=Batch(2)", "min_checkpoint_period: {'batches': 5}"),
            ("checkpoint_policy='all'", "checkpoint_policy: none"),
        )
    ]


def test_what_the_scripts_trainer_says_counts(tmp_path: Path) -> None:
    trainer = {"max_epochs": 1, "check_val_every_n_epoch": 2, "enable_checkpointing": False, "logger": False}
    searcher = {**ASKED["searcher"], "max_length": {"batches": 9}}
    asked = {"searcher": searcher, "min_validation_period": {"epochs": 1}, "checkpoint_policy": "all"}
    trial = submit(tmp_path, script(**trainer), **asked)
    assert_ended_well(trial)
    assert trial.master.metrics("validation") == {}
    assert sorted(trial.master.metrics("training")) == list(range(1, EPOCH_LENGTH + 1))
    assert [warning for warning in warnings_of(trial, "train.py") if "configuration" in warning] == [
        f"Trainer({said}) takes precedence over {entry} of the experiment's configuration."
        for said, entry in (
            ("max_epochs=1", "searcher.max_length: {'batches': 9}"),
            ("check_val_every_n_epoch=2", "min_validation_period: {'epochs': 1}"),
            ("enable_checkpointing=False", "checkpoint_policy: all"),
        )
    ]
