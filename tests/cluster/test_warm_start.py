"""A trial that starts from another one's checkpoint, and one that is continued when it is complete."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from determined import pytorch

import lightning_shim
from tests.cluster.scripts.model import LitData, LitModel
from tests.cluster.submission import EPOCH_LENGTH, by_lightning, script, submit
from tests.cluster.trial import assert_ended_well
from tests.parity.oracle import assert_same

pytestmark = pytest.mark.xdist_group("warm start")

TRAINER = {"max_epochs": 2, "num_sanity_val_steps": 0}
LENGTH = 2 * EPOCH_LENGTH
PAUSE = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a trial that has trained longer, with a better score than the next one will have at first."""
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch, lightning_shim.patched():
        patch.chdir(folder)
        patch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lightning_shim.IgnoredMemberWarning)
            trial = lightning_shim.fit(LitModel, datamodule=LitData, max_length=pytorch.Epoch(5), seed=1)
    return Path(str(trial.checkpoint_path))


def test_takes_the_weights_alone(tmp_path: Path, source: Path) -> None:
    """What ``searcher.source_trial_id`` and ``source_checkpoint_uuid`` have the master do; and a pause keeps all."""
    lightning = by_lightning(tmp_path / "lightning", weights=str(source / "state_dict.pth"), **TRAINER)
    (tmp_path / "trial").mkdir()
    trial = submit(tmp_path / "trial", script(**TRAINER), trial={"source": source, "pauses": (PAUSE,)})
    assert_ended_well(trial)
    assert_same(trial.results(), lightning)
    first, second = trial.outcomes
    assert first.log.count(f"the weights are those of the checkpoint {source.name}, of another trial.") == 1
    assert "of another trial" not in second.log
    optimizer = torch.load(source / "state_dict.pth", weights_only=False)["optimizer_states"][0]
    assert optimizer["state"][0]["step"] == 5 * EPOCH_LENGTH
    assert trial.checkpoint(LENGTH)["optimizer_states"][0]["state"][0]["step"] == LENGTH


def test_argument_of_fit_is_a_start_and_no_return(tmp_path: Path, source: Path) -> None:
    """After a pause the trial goes on from its own checkpoint."""
    options = {"latest_checkpoint": source.name, "max_length": ["epochs", 2], "reporting_period": ["batches", 1]}
    trial = submit(tmp_path, "python3 call.py", data=options, trial={"source": source, "pauses": (PAUSE,)})
    assert_ended_well(trial)
    assert [min(run.metrics["training"]) for run in trial.master.runs] == [1, PAUSE + 1]


def test_complete_trial_has_nothing_left_to_train(tmp_path: Path) -> None:
    options = {"max_length": ["epochs", 2], "reporting_period": ["batches", 1]}
    trial = submit(tmp_path, "python3 call.py", data=options, trial={"pauses": (LENGTH + 1,)})
    assert_ended_well(trial)
    first, second = trial.outcomes
    assert trial.master.runs[-1].metrics == {}
    assert "nothing was left to train" not in first.log
    assert second.log.count(f"nothing was left to train, after 2 epochs, {LENGTH} batches") == 1
