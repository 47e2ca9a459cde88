"""One entrypoint for any number of slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.submission import EPOCH_LENGTH, script, submit
from tests.cluster.trial import assert_ended_well
from tests.parity.oracle import assert_same
from tests.script.execution import RUN

pytestmark = pytest.mark.xdist_group("slots")

# Two processes share the batches of an epoch.
LENGTH = 2 * EPOCH_LENGTH // 2
PAUSE = 4
OPTIONS = {"max_length": ["epochs", 2], "reporting_period": ["batches", 1]}


def test_run_starts_a_process_for_each_slot(tmp_path: Path) -> None:
    entrypoint = script(max_epochs=2, num_sanity_val_steps=0)
    trial = submit(tmp_path, entrypoint, slots=2, trial={"pauses": (PAUSE,)})
    assert_ended_well(trial)
    assert [run.steps_completed for run in trial.master.runs] == [0, PAUSE]
    assert sorted(trial.master.metrics("training")) == list(range(1, LENGTH + 1))
    assert_same(trial.results(1)["weights"], trial.results(0)["weights"])
    paused, ended = trial.outcomes
    assert paused.log.count("lightning_shim: paused, after ") == 1
    assert paused.log.count("the script ends here, and runs again when the trial goes on") == 1
    assert "the script ends here, and runs again when the trial goes on" not in ended.log
    for outcome in trial.outcomes:
        assert outcome.log.count("determined.launch.torch_distributed starts a process for each") == 1


def test_run_starts_a_script_that_calls_fit(tmp_path: Path) -> None:
    trial = submit(tmp_path, f"python3 {' '.join(RUN)} call.py", slots=2, data=OPTIONS)
    assert_ended_well(trial)
    assert sorted(trial.master.metrics("training")) == list(range(1, LENGTH + 1))
    assert_same(trial.results(1), trial.results(0))


@pytest.mark.parametrize("command", ["call.py", "train.py '{}'"])
def test_without_run_the_error_names_the_line(tmp_path: Path, command: str) -> None:
    trial = submit(tmp_path, f"PATCH_TRAINER=1 python3 {command}", slots=2, data=OPTIONS)
    [outcome] = trial.outcomes
    assert outcome.exit_code == 1
    error = outcome.log.strip().splitlines()[-1]
    assert "ConfigurationError: The trial has several slots" in error
    assert f"entrypoint: python3 -m determined.launch.torch_distributed python3 {command}" in error
    assert "horovod" not in error
