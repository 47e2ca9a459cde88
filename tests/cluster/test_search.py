"""A search that stops a trial: the master changes the trial's state, and tells the trial nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster import trial as trials
from tests.cluster.trial import Trial, assert_ended_well
from tests.parity.oracle import assert_same
from tests.script.execution import RUN, execute

pytestmark = pytest.mark.xdist_group("search")

SCRIPTS = Path(__file__).parent / "scripts"
CONTEXT = {file.name: file.read_text() for file in SCRIPTS.glob("*.py")}
LENGTH = 18
# Within the second epoch.
STOPS_AT = 8
PERIOD = {"validation_period": ["batches", 4], "reporting_period": ["batches", 1], "max_length": ["epochs", 3]}
TRAINER = {"max_epochs": 3, "val_check_interval": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
LINE = "the search has stopped this trial after {} batches"


def submit(folder: Path, entrypoint: str, slots: int = 1, master: dict[str, Any] | None = None, **config: Any) -> Trial:
    configuration = {
        "name": "a search",
        "entrypoint": entrypoint,
        "hyperparameters": {},
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
        "resources": {"slots_per_trial": slots},
        **config,
    }
    return trials.run_trial(folder, configuration, CONTEXT, **(master or {}))


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Lightning leaves when a callback stops it there."""
    folder = tmp_path_factory.mktemp("lightning") / "run"
    execute(folder, str(SCRIPTS / "train.py"), json.dumps({**TRAINER, "logger": False, "stops_at": STOPS_AT}))
    results: dict[str, Any] = torch.load(folder / "results-0.pt", weights_only=False)
    return results


def test_fit_is_stopped(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", data=PERIOD, master={"stops_at": STOPS_AT})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("validation")) == [4, STOPS_AT]
    assert sorted(trial.master.metrics("training")) == list(range(1, STOPS_AT + 1))
    assert list(trial.master.checkpoints)[-1] == STOPS_AT
    # That would have the master start it again.
    assert not trial.master.run.acknowledged
    assert trial.results()["is_complete"]
    assert trial.log.count(LINE.format(STOPS_AT)) == 1
    # Once before training, and once after each validation.
    states = [request for request in trial.master.requests if request.route == "/api/v1/trials/<trial>"]
    assert len(states) == 3


def test_script_is_stopped_as_lightning_stops(tmp_path: Path, lightning: dict[str, Any]) -> None:
    entrypoint = f"python3 {' '.join(RUN)} train.py '{json.dumps(TRAINER)}'"
    trial = submit(tmp_path, entrypoint, master={"stops_at": STOPS_AT})
    assert_ended_well(trial)
    assert lightning["calls"][-3:] == [
        (name, STOPS_AT) for name in ("on_train_epoch_end", "on_train_end", "on_fit_end")
    ]
    assert_same(trial.results(), lightning)
    assert list(trial.master.checkpoints)[-1] == STOPS_AT
    assert trial.master.metrics("test")[STOPS_AT] == lightning["tested"][0]
    assert trial.log.count(LINE.format(STOPS_AT)) == 1


def test_two_processes_stop_at_the_same_batch(tmp_path: Path) -> None:
    entrypoint = "python3 -m determined.launch.torch_distributed python3 call.py"
    trial = submit(tmp_path, entrypoint, slots=2, data=PERIOD, master={"stops_at": 4})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("training")) == [1, 2, 3, 4]
    assert list(trial.master.checkpoints)[-1] == 4
    assert_same(trial.results(0), trial.results(1))
    assert trial.results(1)["calls"][-1] == ("on_fit_end", 4)
    assert trial.log.count(LINE.format(4)) == 1


def test_master_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    trial = submit(tmp_path, "python3 call.py", data=PERIOD, master={"is_ill": True})
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("training")) == list(range(1, LENGTH + 1))
    assert trial.log.count("the master does not say whether the search goes on") == 1
